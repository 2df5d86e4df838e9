"""Attention heads: how sharply each looks, how large its logits are, how much goes to the first token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nanogpt.views.heatmap import colours, frame, grid
from nanogpt.views.rows import of, per_run
from nanogpt.views.source import Source
from nanogpt.views.theme import SEQUENTIAL, plain
from nanogpt.views.view import Choice, Picture, View, axis, figure

ARRAYS = {
    "entropy": ("attention/entropy", "entropy (nats)"),
    "largest logit": ("attention/logit", "largest logit"),
    "weight on the first token": ("attention/first", "weight on the first token"),
}
TITLES = {"entropy": "Attention entropy", "largest logit": "Largest attention logit",
          "weight on the first token": "Attention to the first token"}  # fmt: skip


def choices(found: Sequence[Source]) -> list[Choice]:
    has: dict[str, Sequence[Choice]] = {
        one.name: [
            {"quantity": word} for word, (array, _) in ARRAYS.items() if np.isfinite(one.layers.values(array)).any()
        ]
        for one in found
    }
    return per_run(found, has)


def draw(found: Sequence[Source], run: str, quantity: str) -> Picture | None:
    """A row for each layer with attention, a column for each head; a frame for each step."""
    one = of(found, run)
    array, unit = ARRAYS[quantity]
    values = one.layers.values(array)
    heads = [name.rpartition(":") for name in one.layers.names("attention")]
    layers = list(dict.fromkeys(layer for layer, _, _ in heads))
    wide = max((sum(1 for h in heads if h[0] == layer) for layer in layers), default=0)
    looks = [n for n in range(len(values)) if np.isfinite(values[n]).any()]
    if not looks or not wide:
        return None
    cells = np.full((len(values), len(layers), wide), np.nan, np.float32)
    taken: dict[str, int] = {}
    for column, (layer, _, _) in enumerate(heads):
        cells[:, layers.index(layer), taken.get(layer, 0)] = values[:, column]
        taken[layer] = taken.get(layer, 0) + 1
    data = {"type": "heatmap", "z": cells[looks[-1]], "x": list(range(wide)), "y": [plain(layer) for layer in layers],
            "xgap": 1, "ygap": 1, "colorbar": {"title": {"text": unit}}, **_range(array, values),
            "hovertemplate": "%{y}, head %{x}: %{z:.3~g}<extra></extra>"}  # fmt: skip
    if wide <= 16:
        data |= {"texttemplate": "%{z:.2~f}", "textfont": {"size": 10}}
    frames = [{"name": str(one.steps[n]), "data": [{"z": cells[n]}], "traces": [0]} for n in looks]
    up = axis("", type="category", autorange="reversed", showgrid=False)
    tall = 150 + max(150, 28 * len(layers))
    picture = figure(f"{TITLES[quantity]} by head", [data], axis("head", dtick=1, showgrid=False), up, tall)
    return {**picture, "frames": frames}


def _range(array: str, values: np.ndarray) -> dict[str, object]:
    """One range for all steps, so that a scrub shows what changes."""
    top = float(np.nanmax(np.where(np.isfinite(values), values, np.nan)))
    if array == "attention/first":
        return {"colorscale": SEQUENTIAL, "zmin": 0, "zmax": 1}
    low = min(0.0, float(np.nanmin(np.where(np.isfinite(values), values, np.nan))))
    return {"colorscale": SEQUENTIAL, "zmin": low, "zmax": max(top, low + 1e-6)}


def draw_over_time(found: Sequence[Source], run: str, quantity: str) -> Picture | None:
    """A row for each head, a column for each look."""
    one = of(found, run)
    array, unit = ARRAYS[quantity]
    values, names = one.layers.values(array), one.layers.names("attention")
    if not names or not np.isfinite(values).any():
        return None
    colors = {**colours("zero", []), **_range(array, values)}
    trace = grid(np.where(np.isfinite(values), values, np.nan).T, names, one.steps, **colors)
    trace["colorbar"] = {"title": {"text": unit}}
    return figure(f"{TITLES[quantity]} over time", [trace], **frame(names, one.steps))


attention = View(
    "Attention",
    "Heads at a step",
    "Each head of each layer: its mean entropy (0: it looks at one token), its largest logit before the softmax, its "
    "weight on the first token.",
    draw,
    choices,
)
attention_history = View("Attention", "Heads over time", "A row is a head, a column one look.", draw_over_time, choices)
