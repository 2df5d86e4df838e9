"""The page's words: what of the report is not a picture. Everything that came from a run goes through `escape`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from nanogpt.observers.findings import Finding, worst_first
from nanogpt.observers.health import health
from nanogpt.runs import best_row
from nanogpt.views.source import Source, differences
from nanogpt.views.theme import color
from nanogpt.views.view import View

if TYPE_CHECKING:
    from nanogpt.views.report import Drawn

MARKS = {"bad": "✖", "warn": "▲", "good": "✔"}
NONE = "&ndash;"
"""In a cell without a value."""
WORDS = {"bad": "ill", "warn": "warning", "good": "well"}
SAMPLES, LETTERS = 24, 1500
"""Samples of a run that are shown, and how much of each."""


def title(found: Sequence[Source]) -> str:
    return escape(" · ".join(one.name for one in found))


def file_name(found: Sequence[Source]) -> str:
    """What a downloaded image is called, before its own name."""
    return re.sub(r"[^\w.-]+", "-", "-".join(one.name for one in found)).strip("-.")[:60] or "run"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Cells are HTML already."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = [
        "<tr>" + f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    ]
    inside = f"<thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table class="{kind}">{inside}</table></div>'


# -- the runs -----------------------------------------------------------------------------------------------------


def summary(found: Sequence[Source]) -> str:
    """One row for each run."""
    head = ["run", "preset", "text", "parameters", "steps", "tokens", "training FLOPs", "train loss", "best val loss",
            "bits per byte", "time"]  # fmt: skip
    return table(head, [summary_row(one) for one in found], "runs")


def summary_row(one: Source) -> list[str]:
    facts, best = one.settings, best_row(one.rows)
    corpus = facts.get("data.corpus", "")
    last = {key: _last(one, key) for key in ("step", "tokens", "train/loss", "seconds")}
    flops = last["tokens"] * one.cost.training_flops if one.cost else np.nan
    best = {key: value for key, value in best.items() if isinstance(value, (int, float))}
    return [
        f'<span class="key" style="background:{color(one.number)}"></span>{escape(one.name)}',
        escape(str(facts.get("preset", ""))) or ("own module" if "model.dim" not in facts else NONE),
        escape(corpus if isinstance(corpus, str) else ", ".join(map(str, corpus))) or NONE,
        f"{one.cost.total:,}" if one.cost else NONE,
        count(last["step"]),
        count(last["tokens"]),
        power(flops),
        number(last["train/loss"]),
        number(best.get("val/loss")) + (f" (step {best['step']:,})" if "step" in best else ""),
        number(best.get("val/bpb")),
        duration(last["seconds"]),
    ]


def _last(one: Source, key: str) -> float:
    values = one.column(key)
    known = values[np.isfinite(values)]
    return float(known[-1]) if known.size else np.nan


def count(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else NONE


def number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) and np.isfinite(value) else NONE


def power(value: float) -> str:
    """3.1e15 as 3.1 × 10^15."""
    if not np.isfinite(value) or value <= 0:
        return NONE
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits} &times; 10<sup>{int(exponent)}</sup>"


def duration(seconds: float) -> str:
    if not np.isfinite(seconds):
        return NONE
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# -- what is concluded --------------------------------------------------------------------------------------------


def judge(one: Source) -> list[Finding]:
    return worst_first(health(one.layers, one.settings))


def findings(found: Mapping[str, list[Finding]]) -> str:
    parts = [_of_run(name if len(found) > 1 else "", rows) for name, rows in found.items() if rows]
    return "".join(parts) or "<p>Nothing was observed, so nothing is concluded.</p>"


def _of_run(name: str, rows: Sequence[Finding]) -> str:
    ill = [row for row in rows if row.level != "good"]
    well = len(rows) - len(ill)
    items = "".join(
        f'<li class="{row.level}"><span class="mark" aria-hidden="true">{MARKS[row.level]}</span> '
        f'<span class="level">{WORDS[row.level]}</span> '
        + (f"<code>{escape(row.where)}</code> " if row.where else "")
        + f"{escape(row.words)}"
        + (f'<span class="cure">{escape(row.cure)}</span>' if row.cure else "")
        + "</li>"
        for row in ill
    )
    many = f"{well} layers are well" if well != 1 else "1 layer is well"
    rest = f'<li class="good"><span class="mark" aria-hidden="true">✔</span> {many}</li>' if well else ""
    head = f"<h3>{escape(name)}</h3>" if name else ""
    return f'{head}<ul class="findings">{items}{rest}</ul>'


def problems(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return section("problems", "What could not be read", f"<ul>{items}</ul>")


# -- pictures -----------------------------------------------------------------------------------------------------


def anchor(name: str) -> str:
    return "about-" + re.sub(r"\W+", "-", name.lower())


def section(at: str, title: str, inside: str) -> str:
    return f'<section id="{at}" aria-labelledby="{at}-h"><h2 id="{at}-h">{escape(title)}</h2>{inside}</section>'


def links(before: Sequence[str], there: Sequence[Drawn], after: Sequence[str]) -> str:
    """To the sections before the figures, those of figures, and those after."""
    sections = [*before, *dict.fromkeys(one.view.section for one in there), *after]
    return "".join(f'<li><a href="#{anchor(name)}">{escape(name)}</a></li>' for name in sections)


def figures(there: Sequence[Drawn]) -> str:
    parts = []
    for name in dict.fromkeys(one.view.section for one in there):
        inside = "".join(_figure(one) for one in there if one.view.section == name)
        parts.append(section(anchor(name), name, inside))
    return "".join(parts)


def _figure(one: Drawn) -> str:
    text = f"{escape(one.view.text)}"
    label = escape(f"{one.view.title}. {one.view.text}")
    return (
        f'<figure id="{one.name}" data-name="{one.name}"><h3>{escape(one.view.title)}</h3>'
        f"<figcaption>{text}</figcaption>"
        f'<div class="controls" role="group" aria-label="{escape(one.view.title)}: choices"></div>'
        f'<div class="plot" role="img" aria-label="{label}" style="min-height:{one.height}px"></div></figure>'
    )


def missing(views: Sequence[View]) -> str:
    if not views:
        return ""
    names = ", ".join(dict.fromkeys(f"{view.section}: {view.title}".lower() for view in views))
    return f'<p class="missing">Not drawn, because these runs hold nothing of it: {escape(names)}.</p>'


# -- words and settings -------------------------------------------------------------------------------------------


def samples(found: Sequence[Source]) -> str:
    """What each run wrote while training, the newest first and open."""
    parts = []
    for one in found:
        rows = one.samples
        if len(rows) > SAMPLES:
            rows = [rows[n] for n in np.linspace(0, len(rows) - 1, SAMPLES).round().astype(int)]
        if rows:
            texts = [_sample(row, n == 0) for n, row in enumerate(reversed(rows))]
            parts.append(f"<div><h3>{escape(one.name)}</h3>{''.join(texts)}</div>")
    if not parts:
        return ""
    inside = f'<div class="beside">{"".join(parts)}</div>'
    return section(anchor("Samples"), "Samples", inside)


def _sample(row: Mapping[str, Any], is_open: bool) -> str:
    text = row["text"] if len(row["text"]) <= LETTERS else row["text"][:LETTERS] + " …"
    head = f"<summary>step {escape(str(row.get('step', '?')))}</summary>"
    return f"<details{' open' * is_open}>{head}<pre>{escape(text)}</pre></details>"


def settings(found: Sequence[Source]) -> str:
    """What differs between runs, then everything, folded away."""
    differ = differences(found)
    names = [escape(one.name) for one in found]
    parts = []
    if len(found) > 1:
        rows = [
            [f"<code>{escape(key)}</code>", *(f"<code>{brief(v)}</code>" for v in row)] for key, row in differ.items()
        ]
        parts.append("<h3>What differs</h3>" + (table(["setting", *names], rows) if rows else "<p>Nothing.</p>"))
    keys = list(dict.fromkeys(key for one in found for key in one.settings))
    rows = [
        [f"<code>{escape(key)}</code>", *(f"<code>{brief(one.settings.get(key))}</code>" for one in found)]
        for key in keys
    ]
    whole = table(["setting", *names], rows)
    is_open = " open" if len(found) == 1 else ""
    parts.append(f"<details{is_open}><summary>Every setting</summary>{whole}</details>")
    machines = "".join(f"<li>{escape(one.name)}: {escape(machine(one))}</li>" for one in found if machine(one))
    parts.append(f"<h3>Where they were trained</h3><ul>{machines}</ul>" if machines else "")
    return "".join(parts)


def brief(value: Any) -> str:
    """A value in one cell: equal layers are said once."""
    if value is None:
        return NONE
    if isinstance(value, list) and len(value) > 1 and all(v == value[0] for v in value):
        return f"{len(value)} &times; {escape(str(value[0]))}"
    text = str(value)
    return escape(text if len(text) <= 2000 else text[:2000] + " …")


def machine(one: Source) -> str:
    """Device and versions of its latest launch."""
    launches = one.environment.get("launches")
    last = launches[-1] if isinstance(launches, list) and launches else {}
    if not isinstance(last, dict):
        return ""
    parts, versions = last.get("machine"), last.get("versions")
    words = (
        [str(parts[key]) for key in ("device", "device_name", "system") if key in parts]
        if isinstance(parts, dict)
        else []
    )
    words += (
        [f"{k} {versions[k]}" for k in ("python", "torch", "nanogpt") if k in versions]
        if isinstance(versions, dict)
        else []
    )
    return ", ".join([str(last.get("started", "")), *words]).strip(", ")
