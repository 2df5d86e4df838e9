"""The health of a run on one screen: totals, then each layer with small bars, worst first, and what to type next."""

from __future__ import annotations

import math
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

WIDTH = 80
ROWS, KINDS = 16, 5
"""Layers and kinds of finding that are shown: more are said in one line."""
NAME = 18
STYLES = {"bad": "bold red", "warn": "yellow", "good": "green"}
LEVELS = {"bad": "ILL", "warn": "look", "good": "well"}
SETTING = re.compile(r"\b(?:model|optim|train|data)\.[\w.]+=[^\s,]+")
NUMBER = re.compile(r"\d[\d.,e+-]*")
LADDER = "▁▂▃▄▅▆▇█"


def screen(found: Mapping[str, Any]) -> None:
    """Print a summary (observers/summary.py) with `run`, `preset`, `corpus` and `problems`."""
    console = Console(width=WIDTH, highlight=False, markup=False, emoji=False)
    for line in lines(found):
        console.print(line, soft_wrap=True)


def lines(found: Mapping[str, Any]) -> list[Text]:
    rows = found["layers"]
    findings = [f for f in found["findings"] if f["level"] != "good"]
    made = _totals(found)
    if rows:
        made += [
            Text(),
            Text(f"{'':6}{'layer':{NAME}}{'dead neurons':18}{'gradient':11}{'update / data (usual: |)'}", "dim"),
        ]
    largest = max((row["gradient"] or 0.0 for row in rows), default=0.0)
    ill = [row for row in rows if row["level"] != "good"]
    well = rows[len(ill) :]
    room = max(3, ROWS - len(ill[:ROWS]))
    made += [_row(row, largest) for row in ill[:ROWS]] + _rest(ill[ROWS:], "ill or to look at")
    made += [_row(row, largest) for row in well[:room]] + _rest(well[room:], "well")
    kinds = _alike(findings)
    made += [Text()] * bool(kinds)
    for alike in kinds[:KINDS]:
        made += _finding(alike)
    if len(kinds) > KINDS:
        made.append(Text(f"{'':6}and {len(kinds) - KINDS} more kinds of finding: nanogpt inspect --json", "dim"))
    return made + _next(found, findings)


def _alike(findings: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Findings that differ only in their numbers, together: thirty layers that died alike are said once."""
    kinds: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for finding in findings:
        words = NUMBER.sub("#", finding["words"]).partition(";")[0]
        kinds.setdefault((finding["level"], words, finding["cure"].partition("=")[0]), []).append(finding)
    return list(kinds.values())


def _totals(found: Mapping[str, Any]) -> list[Text]:
    about = " on ".join(_words(found[key]) for key in ("preset", "corpus") if found[key])
    made = [Text(problem, "yellow") for problem in found["problems"]]
    many = f"{found['observations']} look{'s' * (found['observations'] != 1)}"
    made.append(
        Text(f"{found['run']}{f': {about}' if about else ''}, step {found['step']} of {found['steps']}, {many}")
    )
    level = {"ill": "bad", "look": "warn", "well": "good"}[found["verdict"]]
    totals = Text(f"{LEVELS[level]:6}", STYLES[level])
    counts = [(found["layers_ill"], "ill"), (found["layers_to_look_at"], "to look at"), (found["layers_well"], "well")]
    if found["layers"]:
        parts = ", ".join(f"{n} {word}" for n, word in counts if n)
        totals.append(f"of {len(found['layers'])} layers {parts}", "default")
    if found["neurons"]:
        share = found["dead"] / found["neurons"]
        totals.append(f"; {found['dead']:,} of {found['neurons']:,} neurons dead ({share:.0%})", "default")
    made.append(totals)
    dark = found["unseen"]
    if dark:
        more = f" and {len(dark) - 2} more" if len(dark) > 2 else ""
        text = f"activations inside {', '.join(dark[:2])}{more} are part of one fused operation, and out of sight"
        made += [Text(line) for line in _fold(text, "")]
    elif not found["neurons"]:
        made += [Text(line) for line in _fold("no activation was seen, so nothing is said of neurons", "")]
    if found["loss"] is not None and found["loss_first"] is not None:
        unit = " nats a token" if found["preset"] else ""
        made.append(Text(f"{'':6}loss of the probe {found['loss_first']:.3g} -> {found['loss']:.3g}{unit}"))
    return made


def _row(row: Mapping[str, Any], largest: float) -> Text:
    level = row["level"]
    made = Text(f"{LEVELS[level]:6}", STYLES[level])
    name = row["layer"] if len(row["layer"]) < NAME else f"..{row['layer'][-NAME + 3 :]}"
    made.append(f"{name:{NAME}}", "bold")
    if row["neurons"]:
        share = row["dead"] / row["neurons"]
        made.append(f"{_bar(share)} {share:4.0%}  ", "default")
    else:
        made.append(f"{'-':18}", "dim")
    gradient = row["gradient"]
    made.append(f"{_step(gradient, largest)} {gradient:.0e}".ljust(11) if gradient else f"{'-':11}", "default")
    ratio = row["update_ratio"]
    made.append(f"{_gauge(ratio)} {ratio:+.1f}" if ratio is not None else "-", "default")
    return made


def _bar(share: float, width: int = 10) -> str:
    """Anything is seen, and only all of them fill it."""
    full = min(width - (share < 1), max(share > 0, round(share * width)))
    return "█" * full + "░" * (width - full)


def _step(value: float, largest: float) -> str:
    """One block, a step lower for each factor 10 under the largest."""
    fall = math.log10(largest / value) if value > 0 and largest > 0 else len(LADDER)
    return LADDER[max(0, len(LADDER) - 1 - round(fall))]


def _gauge(ratio: float) -> str:
    """Where a ratio lies between 10^-6 and 10^0, the usual 10^-3 in the middle."""
    marks = list("······|······")
    marks[min(12, max(0, round(2 * (ratio + 6))))] = "●"
    return "".join(marks)


def _finding(alike: Sequence[Mapping[str, Any]]) -> list[Text]:
    """Where, words and cure, folded; of several alike the worst one's."""
    first = alike[0]
    others = list(dict.fromkeys(f["where"] for f in alike[1:]))
    where = first["where"] + (f" (and {_some(others)})" if others else "")
    words = _fold(f"{where}: {first['words']}" if where else first["words"], "")
    made = [Text(f"{LEVELS[first['level']]:6}", STYLES[first["level"]]).append(words[0].strip(), "default")]
    made += [Text(line) for line in words[1:]]
    return made + [Text(line, "bold") for line in _fold(first["cure"], "-> ")] if first["cure"] else made


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} like it"


def _fold(text: str, mark: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 6 + mark, subsequent_indent=" " * (6 + len(mark)))


def _rest(rows: Sequence[Mapping[str, Any]], word: str) -> list[Text]:
    if not rows:
        return []
    names = ", ".join(row["layer"] for row in rows[:2]) + (", ..." if len(rows) > 2 else "")
    return [Text(f"{'':6}and {len(rows)} more {word} ({names}): see --json", "dim")]


def _next(found: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> list[Text]:
    """The command that tries the cures of the worst finding that has any."""
    for finding in findings:
        first = finding["cure"].partition(", or ")[0]
        if settings := SETTING.findall(first):
            config = shlex.quote(f"{found['run']}/config.json")
            return [Text(), Text("next:"), Text(f"  nanogpt train {config} {' '.join(settings)}", "bold")]
    return []


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
