"""Any statistic of any kind of tensor, layer by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogpt.observers.store import KINDS, STATISTICS
from nanogpt.views.rows import ALL, KEYS, WORDS, chosen, groups, of, per_run
from nanogpt.views.source import Numbers, Source
from nanogpt.views.theme import DIVERGING, SEQUENTIAL, plain, ticks
from nanogpt.views.view import Choice, Picture, View, axis, figure

SIGNED = ("mean", "skew", "min", "max")
SHARES = ("zero", "saturated")
ORDER = ("std", "norm", "mean", "zero", "saturated", "skew", "kurtosis", "min", "max")
NAMES = {"std": "standard deviation", "zero": "share that is zero", "saturated": "share that is saturated",
         "norm": "norm", "mean": "mean", "skew": "skew", "kurtosis": "kurtosis (3: Gaussian)", "min": "least value",
         "max": "largest value"}  # fmt: skip
READ = {name: statistic for statistic, name in NAMES.items()}
assert set(NAMES) == set(STATISTICS)


def choices(found: Sequence[Source]) -> list[Choice]:
    has: dict[str, Sequence[Choice]] = {}
    for one in found:
        has[one.name] = [
            {"kind": WORDS[kind], "statistic": NAMES[statistic], "rows": rows}
            for kind in KINDS
            if one.layers.names(kind)
            for statistic in ORDER
            if np.isfinite(one.series(kind, statistic)).any()
            for rows in [ALL, *groups(one.layers.names(kind))]
        ]
    return per_run(found, has)


def draw(found: Sequence[Source], run: str, kind: str, statistic: str, rows: str) -> Picture | None:
    one, what, which = of(found, run), KEYS[kind], READ[statistic]
    names = one.layers.names(what)
    kept = chosen(names, rows)
    if not kept or not one.steps:
        return None
    columns = [names.index(name) for name in kept]
    values = scaled(which, one.series(what, which)[:, columns]).T
    whole = [scaled(which, other.series(what, which)) for other in found]  # one scale, whatever is chosen
    title = f"{NAMES[which]} of {WORDS[what]}".capitalize()
    trace = grid(values, kept, one.steps, **colours(which, whole))
    label = f"log<sub>10</sub> {which}" if which in ("std", "norm", "kurtosis") else NAMES[which]
    trace["colorbar"] = {"title": {"text": label}}
    return figure(title, [trace], **frame(kept, one.steps))


def scaled(statistic: str, values: Numbers) -> Numbers:
    """Sizes are compared by their logarithm."""
    values = np.where(np.isfinite(values), values, np.nan)
    if statistic in (*SIGNED, *SHARES):
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, np.log10(np.where(values > 0, values, 1)), np.nan)


def colours(statistic: str, whole: Sequence[Numbers]) -> dict[str, Any]:
    """Colours and their range over everything that is to be compared, without the outermost hundredth."""
    known = np.concatenate([one[np.isfinite(one)] for one in whole]) if whole else np.zeros(0)
    if statistic in SHARES:
        return {"colorscale": SEQUENTIAL, "zmin": 0.0, "zmax": 1.0}
    if not known.size:
        return {"colorscale": SEQUENTIAL}
    if statistic in SIGNED:
        end = float(np.percentile(np.abs(known), 99)) or float(np.abs(known).max()) or 1.0
        return {"colorscale": DIVERGING, "zmin": -end, "zmax": end}
    low, high = (float(q) for q in np.percentile(known, (0.5, 99.5)))
    return {"colorscale": SEQUENTIAL, "zmin": low, "zmax": max(high, low + 0.1)}


def grid(values: Numbers, names: Sequence[str], steps: Sequence[int], **more: Any) -> dict[str, Any]:
    """Cells, a row for each name, a column for each look: looks are dense at a run's start, so columns are equal."""
    return {
        "type": "heatmap",
        "z": values.astype(np.float32),
        "x": [str(step) for step in steps],
        "y": [plain(name) for name in names],
        "hovertemplate": "%{y}, step %{x}: %{z:.4~g}<extra></extra>",
        "hoverongaps": False,
        **more,
    }


def frame(names: Sequence[str], steps: Sequence[int]) -> dict[str, Any]:
    """Axes of such a grid, and a height at which its names can be read."""
    size = 11 if len(names) <= 60 else 9
    labels = {"type": "category", "tickmode": "array", "tickvals": [plain(name) for name in names]}
    labels |= {"ticktext": [plain(name, 40) for name in names], "autorange": "reversed"}
    return {
        "x": axis("step (a column is one look)", type="category", **ticks(steps), showgrid=False),
        "y": axis("", **labels, tickfont={"size": size}, showgrid=False, ticklen=2),
        "height": 150 + max(200, (16 if size > 9 else 11) * len(names)),
    }


heatmap = View(
    "Layers",
    "Layer by step",
    "One statistic of every layer over time: a row is a layer, a column one look. Gaps are what was not finite.",
    draw,
    choices,
)
