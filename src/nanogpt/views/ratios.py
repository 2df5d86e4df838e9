"""How large gradients and updates are beside the weights that they change, and the gradient of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogpt.views.rows import groups, of, per_run
from nanogpt.views.source import Numbers, Source
from nanogpt.views.theme import GREY, MINUS, by_depth, dash, plain, symbol
from nanogpt.views.view import Choice, Picture, View, axis, figure

KINDS = {"update to data": "updates", "gradient to data": "weight_gradients"}
USUAL = -3
"""log10 of update over data in a network that learns well (makemore, part 3)."""


def matrices(one: Source, kind: str) -> list[str]:
    """Rows of that kind with a size to compare with: a bias starts at zero and a gain at one, both without spread."""
    std = dict(zip(one.layers.names("weights"), one.series("weights", "std").T, strict=True))
    return [name for name in one.layers.names(kind) if not name.endswith("bias") and _spread(std.get(name))]


def _spread(std: Numbers | None) -> bool:
    known = std[np.isfinite(std)] if std is not None else np.zeros(0)
    return bool(known.size) and known[0] > 0


def ratio(one: Source, kind: str, name: str) -> Numbers:
    """log10 of the norm over that of the weights, at every look."""
    top = one.series(kind, "norm")[:, one.layers.names(kind).index(name)]
    below = one.series("weights", "norm")[:, one.layers.names("weights").index(name)]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log10(top / below)
    return np.where(np.isfinite(found), found, np.nan)


def choices(found: Sequence[Source]) -> list[Choice]:
    has: dict[str, Sequence[Choice]] = {
        one.name: [
            {"ratio": word, "rows": rows}
            for word, kind in KINDS.items()
            for rows in _first_mixed(groups(matrices(one, kind)))
        ]
        for one in found
    }
    return per_run(found, has)


def _first_mixed(found: dict[str, list[str]]) -> list[str]:
    """The whole network at once, by the median of each role, then each role by layer."""
    return (["every role, median of its layers"] if len(found) > 1 else []) + list(found)


def draw(found: Sequence[Source], run: str, ratio: str, rows: str) -> Picture | None:
    one, kind = of(found, run), KINDS[ratio]
    of_role = groups(matrices(one, kind))
    lines: dict[str, Numbers]
    if rows in of_role:
        lines = {name: _ratio(one, kind, name) for name in of_role[rows]}
    else:
        lines = {role: _median([_ratio(one, kind, name) for name in names]) for role, names in of_role.items()}
    lines = {name: values for name, values in lines.items() if np.isfinite(values).any()}
    if not lines:
        return None
    data = layer_lines(one.steps, lines)
    if kind == "updates":
        ends = [min(one.steps), max(one.steps)]
        data.append({"type": "scatter", "mode": "lines", "x": ends, "y": [USUAL, USUAL],
                     "name": f"10<sup>{MINUS}3</sup>, usual",
                     "line": {"color": GREY, "dash": "dash", "width": 1.5}, "hoverinfo": "skip"})  # fmt: skip
    title = {"updates": "Update to data", "weight_gradients": "Gradient to data"}[kind]
    up = {
        "updates": "log<sub>10</sub> ‖update‖ / ‖weights‖",
        "weight_gradients": "log<sub>10</sub> ‖gradient‖ / ‖weights‖",
    }
    return figure(title, data, axis("step"), axis(up[kind]), 440)


_ratio = ratio


def _median(values: Sequence[Numbers]) -> Numbers:
    table = np.array(values)
    known = np.isfinite(table).any(0)
    out = np.full(table.shape[1], np.nan)
    out[known] = np.nanmedian(table[:, known], 0)
    return out


def layer_lines(steps: Sequence[int], lines: dict[str, Numbers]) -> list[dict[str, Any]]:
    """A line for each layer, in colours from the first to the last, each with a dash and a marker."""
    data = []
    for n, ((name, values), color) in enumerate(zip(lines.items(), by_depth(len(lines)), strict=True)):
        known = np.isfinite(values)
        look, marks = {"color": color, "width": 1.4, "dash": dash(n)}, {"symbol": symbol(n), "size": 4, "color": color}
        data.append({"type": "scatter", "mode": "lines+markers", "x": np.array(steps)[known], "y": values[known],
                     "name": plain(name, 32), "line": look, "marker": marks,
                     "hovertemplate": "step %{x}: %{y:.3~g}"})  # fmt: skip
    return data


def gradient_choices(found: Sequence[Source]) -> list[Choice]:
    has: dict[str, Sequence[Choice]] = {
        one.name: [{"rows": rows} for rows in groups(one.layers.names("weight_gradients"))] for one in found
    }
    return per_run(found, has)


def draw_gradients(found: Sequence[Source], run: str, rows: str) -> Picture | None:
    one = of(found, run)
    names = one.layers.names("weight_gradients")
    values = one.series("weight_gradients", "norm")
    kept = groups(names).get(rows, [])
    lines = {name: np.where(values[:, names.index(name)] > 0, values[:, names.index(name)], np.nan) for name in kept}
    lines = {name: line for name, line in lines.items() if np.isfinite(line).any()}
    if not lines:
        return None
    up = axis("gradient norm (nats per unit)", type="log", dtick=1)
    return figure("Gradient norm by layer", layer_lines(one.steps, lines), axis("step"), up, 420)


ratios = View(
    "Gradients and updates",
    "Ratios",
    "How much of itself a matrix changes in one step (about one part in a thousand where a network learns well), and "
    "its gradient beside it.",
    draw,
    choices,
)
gradients = View(
    "Gradients and updates",
    "Gradient norm by layer",
    "Where it shrinks or grows from layer to layer, gradients vanish or explode.",
    draw_gradients,
    gradient_choices,
)
