"""How every picture looks: colours that all can tell apart, a dash and a marker beside each, two themes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito 2008, in the order of their contrast with white and with black."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")
MINUS = "\u2212"
GREY = "#888888"
"""Of lines that only guide the eye: seen on white and on black."""
DEPTH = ((0, 114, 178), (0, 158, 115), (230, 159, 0), (213, 94, 0))
"""From the first layer to the last: colours of the same palette, with what lies between."""
SEQUENTIAL = "Viridis"
"""Smith and van der Walt 2015: lightness grows evenly, with and without colour blindness."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
INKS = {
    "light": {"text": "#1b1f24", "paper": "#ffffff", "grid": "#e4e7eb", "line": "#8a949e"},
    "dark": {"text": "#e6e8ea", "paper": "#15181c", "grid": "#2c333b", "line": "#6b7682"},
}
NORMAL, MIDDLE = "#c3ccd6", "#f2f2f2"
"""What draws no attention: a healthy neuron, and zero on a scale with two ends."""
DARK = {NORMAL: "#3d4853", MIDDLE: "#22272d"}
"""The same on a dark page."""
DIVERGING = [[0.0, "#0072b2"], [0.5, MIDDLE], [1.0, "#d55e00"]]


def template(theme: str) -> dict[str, Any]:
    """A plotly template, "light" or "dark"."""
    ink = INKS[theme]
    axis = {
        "showline": True, "linecolor": ink["line"], "gridcolor": ink["grid"], "zeroline": False, "ticks": "outside",
        "tickcolor": ink["line"], "ticklen": 4, "automargin": True, "exponentformat": "power", "minexponent": 4,
        "separatethousands": True,
        "title": {"standoff": 8, "font": {"size": 13}}, "tickfont": {"size": 12},
    }  # fmt: skip
    bar = {"outlinewidth": 0, "thickness": 14, "ticks": "outside", "ticklen": 3, "tickcolor": ink["line"],
           "len": 220, "lenmode": "pixels", "y": 1, "yanchor": "top",
           "title": {"side": "right", "font": {"size": 12}}, "tickfont": {"size": 11}}  # fmt: skip
    layout = {
        "font": {"family": FONT, "size": 13, "color": ink["text"]},
        "title": {"x": 0.01, "xanchor": "left", "font": {"size": 16}},
        "paper_bgcolor": ink["paper"],
        "plot_bgcolor": ink["paper"],
        "colorway": list(COLORS),
        "xaxis": axis,
        "yaxis": axis,
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "legend": {"bgcolor": "rgba(0,0,0,0)", "font": {"size": 12}, "tracegroupgap": 4},
        "margin": {"l": 64, "r": 24, "t": 56, "b": 52},
        "annotationdefaults": {"font": {"size": 12}, "showarrow": False},
    }
    return {"layout": layout, "data": {"heatmap": [{"colorbar": bar}]}}


def color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def dash(number: int) -> str:
    """Dashes and symbols shift against each other after each round, so that 36 pairs of them are distinct."""
    return DASHES[(number + number // len(COLORS)) % len(DASHES)]


def symbol(number: int) -> str:
    return SYMBOLS[(number + 2 * (number // len(COLORS))) % len(SYMBOLS)]


def by_depth(count: int) -> list[str]:
    """A colour for each of so many layers, first to last."""
    return [_between(n / max(1, count - 1)) for n in range(count)]


def _between(place: float) -> str:
    """The colour at a place from 0 to 1 along DEPTH."""
    at = place * (len(DEPTH) - 1)
    low = min(int(at), len(DEPTH) - 2)
    mixed = [round(a + (b - a) * (at - low)) for a, b in zip(DEPTH[low], DEPTH[low + 1], strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})"


def faint(rgb: str, alpha: float) -> str:
    """The same colour, see-through."""
    if rgb.startswith("#"):
        parts = [int(rgb[n : n + 2], 16) for n in (1, 3, 5)]
    else:
        parts = [int(n) for n in re.findall(r"\d+", rgb)[:3]]
    return f"rgba({parts[0]},{parts[1]},{parts[2]},{alpha})"


def plain(text: object, long: int | None = None) -> str:
    """Text from a run as plotly shows it: plotly reads some HTML in its texts and %{...} in its templates, and none of
    either is ours. Control characters, and those that turn the direction of writing, are left out."""
    kept = "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" else " " for c in str(text))
    if long and len(kept) > long:
        kept = kept[: long - 1] + "…"
    return kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%&#123;")


def shown(token: str) -> str:
    """A token so that its blanks can be seen."""
    return plain("".join({" ": "·", "\n": "↵", "\t": "→"}.get(c, c) for c in token) or "∅", 9)


def ticks(labels: Sequence[str | int], most: int = 12) -> dict[str, Any]:
    """An axis of equal columns: as many of their labels as can be read, the first and the last among them."""
    count = len(labels)
    every = max(1, -(-(count - 1) // max(1, most - 1)))
    places = [n for n in range(0, count, every) if n + every <= count - 1 or n == count - 1]
    if count and count - 1 not in places:
        places.append(count - 1)
    return {"tickmode": "array", "tickvals": [str(labels[n]) for n in places], "tickangle": 0}
