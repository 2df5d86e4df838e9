"""The forest plot: each difference with its intervals, beside zero and the margin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanogpt.study.folder import Study
from nanogpt.study.verdict import BETTER, EQUIVALENT, UNKNOWN, WORSE, Verdict, units
from nanogpt.views.studies.source import studies, wrapped
from nanogpt.views.theme import COLORS, GREY, faint
from nanogpt.views.view import Choice, Picture, View, axis, figure

LOOKS = {BETTER: (COLORS[0], "circle"), WORSE: (COLORS[1], "square"), EQUIVALENT: (COLORS[2], "diamond"),
         UNKNOWN: (GREY, "circle-open")}  # fmt: skip
"""Colour and marker of each verdict."""
WORDS = {EQUIVALENT: "equivalent within the margin", UNKNOWN: "cannot tell yet"}


def families(study: Study) -> dict[str, list[Verdict]]:
    others = f"each arm against {study.plan.control}" + (", exploratory" if study.claims else "")
    found = {"claims": study.claims, others: study.against_control}
    return {name: verdicts for name, verdicts in found.items() if verdicts}


def choices(found: Sequence[Study]) -> list[Choice]:
    return [{"comparisons": name} for study in found for name in families(study)]


def draw(found: Sequence[Study], comparisons: str) -> Picture | None:
    study = found[0]
    verdicts = families(study)[comparisons]
    names = [wrapped(one.comparison.name) for one in verdicts]
    data: list[dict[str, Any]] = [_wide(names, verdicts), _seeds(names, verdicts)]
    for word, look in LOOKS.items():
        rows = [(name, one) for name, one in zip(names, verdicts, strict=True) if one.word == word]
        if rows:
            data.append(_intervals(WORDS.get(word, word), *look, rows))
    margin, lines = study.plan.margin, sum(name.count("<br>") for name in names)
    band = {"type": "rect", "x0": -margin, "x1": margin, "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 0},
            "fillcolor": faint(GREY, 0.16), "layer": "below"}  # fmt: skip
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": GREY, "width": 1.5}}
    title = f"difference ({units(study.plan)}); below zero is better; the band is the margin"
    up = axis("", type="category", categoryorder="array", categoryarray=names[::-1], automargin=True)
    height = 130 + 44 * len(names) + 14 * lines
    return figure("Differences", data, axis(title, zeroline=False), up, height, shapes=[band, zero])


def _intervals(word: str, color: str, symbol: str, rows: Sequence[tuple[str, Verdict]]) -> dict[str, Any]:
    """Means with the intervals that their verdicts rest on: thick."""
    means = [one.estimate.mean for _, one in rows]
    return {
        "type": "scatter", "mode": "markers", "x": means, "y": [name for name, _ in rows], "name": word,
        "marker": {"color": color, "symbol": symbol, "size": 11, "line": {"color": color, "width": 2}},
        "error_x": {"type": "data", "symmetric": False, "thickness": 3, "width": 0, "color": color,
                    "array": [one.interval[1] - one.estimate.mean for _, one in rows],
                    "arrayminus": [one.estimate.mean - one.interval[0] for _, one in rows]},
        "text": [wrapped(one.sentence, 60) for _, one in rows],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _wide(names: Sequence[str], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Intervals that hold for all comparisons at once: thin."""
    x: list[float | None] = []
    y: list[str | None] = []
    for name, one in zip(names, verdicts, strict=True):
        x += [*one.wide, None]
        y += [name, name, None]
    look = {"line": {"color": GREY, "width": 1.2}, "hoverinfo": "skip"}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": "all at once", **look}


def _seeds(names: Sequence[str], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": "one seed",
        "x": [value for one in verdicts for value in one.differences],
        "y": [name for name, one in zip(names, verdicts, strict=True) for _ in one.differences],
        "marker": {"symbol": "line-ns-open", "size": 9, "color": GREY, "line": {"width": 1.2, "color": GREY}},
        "hovertemplate": "one seed: %{x:+.4f}<extra></extra>",
    }  # fmt: skip


forest = View(
    "Comparisons",
    "Differences",
    "The mean over paired seeds with the t interval that its verdict rests on (thick; the verdict names its "
    "confidence) and the interval that holds for all comparisons at once (thin); each tick is one seed. Inside the "
    "shaded band a difference would not matter.",
    draw,
    choices,
    studies,
)
