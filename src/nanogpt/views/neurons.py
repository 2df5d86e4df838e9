"""Neurons: the state of each by layer, what became of those that died, and the share of dead ones over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogpt.observers.checks.limits import RARE
from nanogpt.views.heatmap import frame
from nanogpt.views.rows import of, per_run
from nanogpt.views.source import Numbers, Source
from nanogpt.views.theme import NORMAL, by_depth, dash, plain, symbol
from nanogpt.views.view import Choice, Picture, View, axis, figure

STATES = ("dead", "rare", "normal", "always")
COLORS = ("#d55e00", "#f0c34e", NORMAL, "#0072b2")
"""Told apart by lightness too; a healthy neuron draws no attention."""
MEANING = ("dead: on no token", f"rare: on under {RARE:.0%}", "normal", f"always: a rectifier on over {1 - RARE:.0%}")
WIDE = (32, 64, 128, 192, 256)
ROWS = 110
"""Neurons in a row of the map: as few as keep it so low."""
MOST = 60
"""Neurons whose history is drawn: those with the most to tell."""


def states(active: Numbers, kind: str) -> Numbers:
    """0 dead, 1 rare, 2 normal, 3 always, from the share of tokens on which a unit is active; NaN stays NaN.

    Only a rectifier is meant to be off at times: a smooth unit that is active on every token is as it should be.
    """
    found = (active > 0).astype(float) + (active >= RARE) + ((active > 1 - RARE) & (kind == "rectified"))
    return np.where(np.isfinite(active), found, np.nan)


def with_units(found: Sequence[Source]) -> list[Choice]:
    return per_run(found, {one.name: [{}] for one in found if one.layers.units})


def draw_map(found: Sequence[Source], run: str) -> Picture | None:
    """Every neuron a cell, rows of WIDE for each layer; a frame for each step."""
    one = of(found, run)
    looks = [n for n, seen in enumerate(one.layers.seen) if seen.units]
    if not looks:
        return None
    blocks, labels, places, row = [], [], [], 0
    wide = _wide([unit.count for unit in one.layers.units])
    for unit in one.layers.units:
        now = states(one.layers.active(unit.name), unit.kind)[looks]
        rows = -(-unit.count // wide)
        padded = np.full((len(looks), (rows + 1) * wide), np.nan)  # one empty row between layers
        padded[:, : unit.count] = now
        blocks.append(padded.reshape(len(looks), rows + 1, wide))
        labels.append(plain(unit.name, 40))
        places.append(row + (rows - 1) / 2)
        row += rows + 1
    cells = np.concatenate(blocks, axis=1)[:, :-1]
    rows_of = [(label, n) for block, label in zip(blocks, labels, strict=True) for n in range(block.shape[1])][:-1]
    texts = [[f"{label}[{n * wide + column}]" for column in range(wide)] for label, n in rows_of]
    data = [{"type": "heatmap", "z": cells[-1].astype(np.float32), "text": texts, **_scale(), "xgap": 0.5, "ygap": 0.5,
             "hovertemplate": "%{text}<extra></extra>"}]  # fmt: skip
    frames = [
        {"name": str(one.steps[look]), "data": [{"z": z.astype(np.float32)}], "traces": [0]}
        for look, z in zip(looks, cells, strict=True)
    ]
    up = axis("", tickmode="array", tickvals=places, ticktext=labels, autorange="reversed", showgrid=False)
    height = 190 + max(120, int(min(12, 1000 / max(1, row)) * row))
    across = axis(f"neuron, {wide} in a row", showgrid=False)
    return {**figure("Neurons by layer", data, across, up, height), "frames": frames}


def _wide(counts: Sequence[int]) -> int:
    wide = next((w for w in WIDE if sum(-(-count // w) + 1 for count in counts) <= ROWS), WIDE[-1])
    return min(wide, max(counts))


def _scale() -> dict[str, Any]:
    """Four flat colours, named beside."""
    steps = [[edge / 4, color] for n, color in enumerate(COLORS) for edge in (n, n + 1)]
    bar = {"tickmode": "array", "tickvals": [0, 1, 2, 3], "ticktext": list(MEANING)}  # fmt: skip
    return {"colorscale": steps, "zmin": -0.5, "zmax": 3.5, "colorbar": bar, "hoverongaps": False}


def with_rare_units(found: Sequence[Source]) -> list[Choice]:
    """Where there is a history to tell."""
    has = {one.name: [one.layers.active(unit.name) for unit in one.layers.units] for one in found}
    return per_run(found, {name: [{}] for name, layers in has.items() if any((layer < RARE).any() for layer in layers)})


def draw_histories(found: Sequence[Source], run: str) -> Picture | None:
    """A row for each neuron that died, then for the rarely active ones, then for those dead throughout, over time."""
    one = of(found, run)
    rows: list[tuple[float, str, Numbers, Numbers, Numbers, Numbers]] = []
    for unit in one.layers.units:
        active = one.layers.active(unit.name)
        bias, norm = (_of_units(one, unit.name, f"neurons/{what}", active) for what in ("bias", "norm"))
        dead = (active == 0).sum(0)
        for n in np.flatnonzero(np.nanmin(active, 0, initial=np.inf) < RARE):
            state = states(active[:, n], unit.kind)
            telling = dead[n] if dead[n] < np.isfinite(active[:, n]).sum() else -1  # what was always dead tells least
            rows.append((-float(telling), f"{unit.name}[{n}]", state, active[:, n], bias[:, n], norm[:, n]))
    if not rows:
        return None
    order = {name: n for n, (_, name, *_) in enumerate(rows)}
    kept = sorted(_spread(rows), key=lambda row: order[row[1]])
    names, steps = [row[1] for row in kept], one.steps
    known = np.array([row[3:] for row in kept]).transpose(0, 2, 1)
    data = {
        "type": "heatmap", "x": [str(step) for step in steps], "y": [plain(name) for name in names],
        "z": np.array([row[2] for row in kept], np.float32), "customdata": known.astype(np.float32), **_scale(),
        "hovertemplate": "%{y}, step %{x}<br>active on %{customdata[0]:.1%} of tokens<br>bias %{customdata[1]:.3~g}, "
        "norm of incoming weights %{customdata[2]:.3~g}<extra></extra>",
    }  # fmt: skip
    return figure("Histories of neurons that were dead or rare", [data], **frame(names, steps))


def _spread(rows: list[Any]) -> list[Any]:
    """MOST of them, of every layer its worst."""
    by_layer: dict[str, list[Any]] = {}
    for row in sorted(rows, key=lambda row: row[0]):
        by_layer.setdefault(row[1].rpartition("[")[0], []).append(row)
    kept: list[Any] = []
    for place in range(MOST):
        kept += [layer[place] for layer in by_layer.values() if place < len(layer)]
    return kept[:MOST]


def _of_units(one: Source, name: str, array: str, like: Numbers) -> Numbers:
    try:
        return one.layers.of_units(name, array)
    except KeyError:  # a layer without biases
        return np.full(like.shape, np.nan)


def choices_of_share(found: Sequence[Source]) -> list[Choice]:
    return per_run(found, {one.name: [{"state": state} for state in STATES] for one in found if one.layers.units})


def draw_share(found: Sequence[Source], run: str, state: str) -> Picture | None:
    """A line for each layer."""
    one = of(found, run)
    units = one.layers.units
    data = []
    for n, (unit, color) in enumerate(zip(units, by_depth(len(units)), strict=True)):
        now = states(one.layers.active(unit.name), unit.kind)
        share = 100 * (now == STATES.index(state)).mean(1)
        known = np.isfinite(now).all(1)
        look = {"color": color, "width": 1.8, "dash": dash(n)}
        marks = {"symbol": symbol(n), "size": 5, "color": color}
        data.append({"type": "scatter", "mode": "lines+markers", "x": np.array(one.steps)[known], "y": share[known],
                     "name": plain(unit.name, 32), "line": look, "marker": marks})  # fmt: skip
    title = {"dead": "Dead neurons", "rare": "Rarely active neurons", "normal": "Neurons in normal use",
             "always": "Neurons that are always active"}[state]  # fmt: skip
    up = axis("share of the layer's neurons (%)", rangemode="tozero")
    return figure(f"{title} by layer", data, axis("step"), up, 400)


neuron_map = View(
    "Neurons",
    "Map of neurons",
    "Every neuron as a cell, at one step: dead on every token of the probe, rarely active, normal, always active. A "
    "rectifier is dead where it is zero, tanh and sigmoid where they are saturated.",
    draw_map,
    with_units,
)
neuron_share = View(
    "Neurons", "Dead neurons over time", "The share of each layer's neurons in one state.", draw_share, choices_of_share
)
neuron_history = View(
    "Neurons",
    "What became of them",
    "Neurons that were dead or rarely active at some look: when it began, and whether they came back. Point at a cell "
    "for how often it was active, its bias and the norm of its incoming weights.",
    draw_histories,
    with_rare_units,
)
