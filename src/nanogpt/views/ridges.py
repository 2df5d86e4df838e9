"""Histograms as ridges: all layers at one step, or one layer over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.observers.store import BINS, EDGES, KINDS
from nanogpt.views.rows import KEYS, OTHER, WORDS, groups, of, per_run
from nanogpt.views.source import Numbers, Source
from nanogpt.views.theme import MINUS, by_depth, faint, plain
from nanogpt.views.view import Choice, Picture, View, axis, figure

FINE = 16
"""Bins narrower than this part of what is shown are counted together."""
ROW = 100
"""Between the floors of two ridges: heights are whole numbers, which take little room in a page."""
TALL = 1.7
"""Rows that the highest ridge reaches over."""
OUTER = 0.002
"""Share of the numbers at either end that is not shown: one stray value must not squeeze all the others."""
MIDDLE = BINS // 2
"""The bin that holds zero, and nothing else that matters."""
OCTAVE = np.log2(10)
"""Octaves in a decade."""
SCALES = ("linear", "logarithmic")
MOST = 24
"""Ridges over time: as many as can be told apart."""
Counts = NDArray[np.int64]


def choices(found: Sequence[Source]) -> list[Choice]:
    return _choices(found, lambda names: list(groups(names)), "rows")


def choices_over_time(found: Sequence[Source]) -> list[Choice]:
    return _choices(found, list, "row")


def _choices(found: Sequence[Source], options: Any, key: str) -> list[Choice]:
    has: dict[str, Sequence[Choice]] = {
        one.name: [
            {"kind": WORDS[kind], key: row, "values": scale}
            for kind in KINDS
            for row in options(one.layers.names(kind))
            for scale in SCALES
        ]
        for one in found
    }
    return per_run(found, has)


def draw(found: Sequence[Source], run: str, kind: str, rows: str, values: str) -> Picture | None:
    """A ridge for each layer; a frame for each step."""
    one = of(found, run)
    names = groups(one.layers.names(KEYS[kind])).get(rows, [])
    counts = np.array([one.layers.histograms(KEYS[kind], name) for name in names])  # names, looks, bins
    if not counts.size or not counts.sum():
        return None
    shape = Shape(counts, values)
    looks = [n for n in range(len(one.steps)) if counts[:, n].sum()]
    heights = [np.array([shape.ridge(counts[row, n]) for row in range(len(names))]) for n in looks]
    zeros = [[_zeros(counts[row, n]) for row in range(len(names))] for n in looks]
    colors = by_depth(len(names)) if rows != OTHER else by_depth(1) * len(names)
    data = [*_ridges(shape, heights[-1], names, colors), _beside(shape, zeros[-1])]
    frames = [
        {"name": str(one.steps[n]), "traces": list(range(len(data))),
         "data": [*({"y": _outline(line, row)} for row, line in enumerate(high)), {"text": none}]}
        for n, high, none in zip(looks, heights, zeros, strict=True)
    ]  # fmt: skip
    title = f"{WORDS[KEYS[kind]]}: distribution in each layer".capitalize()
    return {**_figure(title, data, shape, kind, names), "frames": frames}


def draw_over_time(found: Sequence[Source], run: str, kind: str, row: str, values: str) -> Picture | None:
    """A ridge for each of some looks, the first at the top."""
    one = of(found, run)
    counts = one.layers.histograms(KEYS[kind], row)
    looks = [n for n in range(len(counts)) if counts[n].sum()]
    if not looks:
        return None
    looks = [looks[n] for n in sorted(set(np.linspace(0, len(looks) - 1, MOST).round().astype(int)))]
    shape = Shape(counts[None, looks], values)
    heights = np.array([shape.ridge(counts[n]) for n in looks])
    labels = [f"{one.steps[n]}" for n in looks]
    zeros = [_zeros(counts[n]) for n in looks]
    data = [*_ridges(shape, heights, labels, by_depth(len(looks))), _beside(shape, zeros)]
    picture = _figure(f"{plain(row, 60)}: {WORDS[KEYS[kind]]} over time", data, shape, kind, labels)
    picture["layout"]["yaxis"] |= {"title": {"text": "step"}}
    return picture


class Shape:
    """How counts become a curve: over which values, and how high. `counts` are all that are to be compared."""

    def __init__(self, counts: Counts, scale: str) -> None:
        self.log = scale == "logarithmic"
        whole = counts.reshape(-1, BINS).sum(0)
        if self.log:
            self._logarithmic(whole)
        else:
            self._linear(_reach(counts.reshape(-1, BINS)))

    def _linear(self, end: float) -> None:
        """The bins as they are, but those around zero in one, which would be too narrow to see."""
        inner = EDGES[1:-1]
        kept = (np.abs(inner) >= end / FINE) & (np.abs(inner) <= end)
        self.cut = np.flatnonzero(kept) + 1
        self.edges = EDGES[self.cut]
        self.x = (self.edges[1:] + self.edges[:-1]) / 2
        self.ticks: dict[str, Any] = {"range": [-end, end]}

    def _logarithmic(self, whole: Counts) -> None:
        """Two bins an octave, from the smallest size that matters to the largest, on either side of zero."""
        size = whole[MIDDLE + 1 :] + whole[:MIDDLE][::-1]
        size = size if size.any() else np.ones_like(size)  # zeros alone, as of biases before the first step
        share = np.cumsum(size) / max(1, size.sum())
        low, high = int(np.searchsorted(share, OUTER)), int(np.searchsorted(share, 1 - OUTER))
        low, high = low - low % 2, min(high + 2 - high % 2, MIDDLE - MIDDLE % 2)
        self.low, self.high = max(0, min(low, high - 2)), max(2, high)
        edges = np.log2(EDGES[MIDDLE + 1 : -1][self.low : self.high + 1 : 2])
        self.wide = np.diff(edges)
        origin = edges[0] - 0.5  # where zero stands: half an octave below the smallest size
        sizes = (edges[1:] + edges[:-1]) / 2 - origin
        self.x = np.concatenate([-sizes[::-1], sizes])
        decades = range(int(np.ceil(edges[0] / OCTAVE)), int(np.floor(edges[-1] / OCTAVE)) + 1)
        places = [(d * OCTAVE - origin, f"10<sup>{d}</sup>".replace("-", MINUS)) for d in decades][::-1]
        kept = places[:: max(1, -(-len(places) // 4))]
        both = [(-at, MINUS + text) for at, text in kept] + [(0.0, "0")] + kept
        self.ticks = {"tickmode": "array", "tickvals": [at for at, _ in both], "ticktext": [text for _, text in both]}
        self.ticks |= {"range": [origin - edges[-1], edges[-1] - origin]}

    def ridge(self, counts: Counts) -> Numbers:
        """Heights from 0 to 1, each curve to its own highest point; exact zeros are said beside it, not drawn."""
        rest = counts.astype(float)
        rest[MIDDLE] = 0
        if self.log:
            up, down = rest[MIDDLE + 1 :], rest[:MIDDLE][::-1]
            above, below = (side[self.low : self.high].reshape(-1, 2).sum(1) / self.wide for side in (up, down))
            heights = np.concatenate([below[::-1], above])
        else:
            heights = np.add.reduceat(rest, self.cut)[:-1] / np.diff(self.edges)
        return heights / max(heights.max(), 1e-30)


def _reach(counts: Counts) -> float:
    """The largest size to show, so that every curve loses at most OUTER of itself."""
    rest = counts.astype(float)
    rest[:, MIDDLE] = 0
    size = rest[:, MIDDLE + 1 :] + rest[:, :MIDDLE][:, ::-1]
    total = size.sum(1)
    share = np.cumsum(size[total > 0], 1) / total[total > 0, None]
    if not len(share):
        return 1.0
    last = np.array([np.searchsorted(row, 1 - OUTER) for row in share])
    return float(EDGES[MIDDLE + 1 :][: MIDDLE + 1][min(int(np.percentile(last, 95)) + 1, MIDDLE - 1)])


def _zeros(counts: Counts) -> str:
    total = int(counts.sum())
    share = counts[MIDDLE] / total if total else 0
    return f"{share:.0%} zero" if share >= 0.005 else ""


def _outline(heights: Numbers, row: int) -> NDArray[np.int16]:
    """A curve over the floor of its row, from the floor and back to it."""
    return np.rint(ROW * (TALL * np.concatenate([[0], heights, [0]]) - row)).astype(np.int16)


def _ridges(shape: Shape, heights: Numbers, names: Sequence[str], colors: Sequence[str]) -> list[dict[str, Any]]:
    """A filled curve for each row. The first is at the top, behind the others."""
    x = shape.x[[0, *range(len(shape.x)), -1]].astype(np.float32)
    return [
        {"type": "scatter", "mode": "lines", "x": x, "y": _outline(heights[row], row), "fill": "toself",
         "line": {"color": color, "width": 1.5}, "fillcolor": faint(color, 0.35), "name": plain(name),
         "hoverinfo": "name", "showlegend": False}
        for row, (name, color) in enumerate(zip(names, colors, strict=True))
    ]  # fmt: skip


def _beside(shape: Shape, zeros: Sequence[str]) -> dict[str, Any]:
    """The shares of exact zeros, at the right end of each row."""
    at = [ROW * (0.28 - n) for n in range(len(zeros))]
    right = float(shape.ticks["range"][1])
    return {"type": "scatter", "mode": "text", "x": [right] * len(zeros), "y": at,
            "text": list(zeros), "textposition": "middle left", "textfont": {"size": 11}, "hoverinfo": "skip",
            "showlegend": False, "cliponaxis": False}  # fmt: skip


def _figure(title: str, data: list[dict[str, Any]], shape: Shape, kind: str, names: Sequence[str]) -> Picture:
    labels = {"tickmode": "array", "tickvals": [-ROW * n for n in range(len(names))]}
    labels |= {"ticktext": [plain(name, 40) for name in names], "range": [ROW * (0.6 - len(names)), ROW * (TALL + 0.1)]}
    scale = ", logarithmic on both sides of zero" if shape.log else ""
    across = axis(f"value of {WORDS[KEYS[kind]]}{scale}", **shape.ticks)
    tall = 160 + max(180, (34 if len(names) <= 16 else 22) * len(names))
    return figure(title, data, across, axis("", **labels, showgrid=False), tall)


ridges = View(
    "Layers",
    "Distributions at a step",
    "Histograms of every layer at one step, each to its own highest point; the share of exact zeros is written beside.",
    draw,
    choices,
)
history = View(
    "Layers",
    "One distribution over time",
    "Histograms of one layer from the first look, at the top, to the last.",
    draw_over_time,
    choices_over_time,
)
