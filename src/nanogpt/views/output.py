"""What comes out: entropy, calibration, and where in a text and on which tokens the loss is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.views.source import Source
from nanogpt.views.theme import GREY, color, dash, faint, plain, symbol
from nanogpt.views.view import Choice, Picture, View, axis, figure


def tables(one: Source, array: str, columns: int) -> list[tuple[int, NDArray[np.float64]]]:
    """(step, table) of every look that holds a table of so many columns."""
    found = []
    for seen in one.layers.seen:
        table = seen.arrays.get(array)
        if table is not None and table.ndim == 2 and table.shape[1] == columns:
            found.append((seen.step, np.asarray(table, float)))
    return found


def at(held: list[tuple[int, NDArray[np.float64]]], step: int) -> NDArray[np.float64]:
    """What was last seen at a step."""
    steps = [there for there, _ in held]
    return held[max(0, int(np.searchsorted(steps, step, side="right")) - 1)][1]


def has(array: str, columns: int) -> Any:
    def choices(found: Sequence[Source]) -> list[Choice]:
        return [{}] if any(tables(one, array, columns) for one in found) else []

    return choices


def draw_calibration(found: Sequence[Source]) -> Picture | None:
    """Share that is right against confidence, with how many tokens there are at each below; a frame for each step."""
    held = {one.name: tables(one, "output/calibration", 3) for one in found}
    those = [one for one in found if held[one.name]]
    if not those:
        return None
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "calibrated", "hoverinfo": "skip",
         "line": {"color": GREY, "dash": "dash", "width": 1.5}}
    ]  # fmt: skip
    for one in those:
        n, name = one.number, plain(one.name, 28)
        look = {"line": {"color": color(n), "width": 2, "dash": dash(n)}, "name": name, "legendgroup": name}
        marks = {"marker": {"symbol": symbol(n), "size": 8, "color": color(n)}}
        hover = "confidence %{x:.2f}: %{y:.2f} ± %{error_y.array:.2f} right of %{customdata:,} tokens"
        data.append({"type": "scatter", "mode": "lines+markers", **look, **marks, **_points(held[one.name][-1][1]),
                     "hovertemplate": hover})  # fmt: skip
        bars = {"type": "bar", "yaxis": "y2", "showlegend": False, "legendgroup": name, "name": name}
        bars |= {"marker": {"color": faint(color(n), 0.75), "pattern": {"shape": ("", "/", ".", "x")[n % 4]}}}
        data.append({**bars, **_bars(held[one.name][-1][1]), "hovertemplate": "%{y:.1f}% of tokens"})
    steps = sorted({step for one in those for step, _ in held[one.name]})
    frames = []
    for step in steps:
        now = [at(held[one.name], step) for one in those]
        changes = [change for table in now for change in (_points(table), _bars(table))]
        frames.append({"name": str(step), "data": changes, "traces": list(range(1, 1 + len(changes)))})
    across = axis("confidence (probability of its first choice)", range=[0, 1], anchor="y2")
    most = max(float(np.max(_bars(table)["y"])) for one in those for _, table in held[one.name])
    picture = figure(
        f"Reliability: is it as often right as it is sure? {_of(found, 'output/calibration', 3)}", data, across,
        axis("share that is right", range=[0, 1], domain=[0.3, 1]), 500, barmode="group",
        yaxis2=axis("% of tokens", domain=[0, 0.2], nticks=3, range=[0, 1.05 * most]),
    )  # fmt: skip
    return {**picture, "frames": frames}


def _points(table: NDArray[np.float64]) -> dict[str, Any]:
    """With the standard error of a share of n tokens, by Agresti and Coull 1998: none of one token is no certainty."""
    kept = table[table[:, 0] > 0]
    tokens, right = kept[:, 0] + 4, (kept[:, 0] * kept[:, 2] + 2) / (kept[:, 0] + 4)
    return {
        "x": kept[:, 1],
        "y": kept[:, 2],
        "customdata": kept[:, 0],
        "error_y": bars(np.sqrt(right * (1 - right) / tokens)),
    }


def bars(errors: NDArray[np.float64]) -> dict[str, Any]:
    """A standard error on either side of each point."""
    return {"type": "data", "array": np.nan_to_num(errors), "thickness": 1, "width": 0}


def _bars(table: NDArray[np.float64]) -> dict[str, Any]:
    middle = (np.arange(len(table)) + 0.5) / len(table)
    return {"x": middle, "y": 100 * np.nan_to_num(table[:, 0]) / max(1, np.nansum(table[:, 0]))}


def _losses(found: Sequence[Source], array: str, title: str, across: dict[str, Any], x: Any) -> Picture | None:
    """Loss by row of a table (tokens, loss, its standard error): dotted at the first look, strong at the step shown.
    x(source, rows): where the rows stand."""
    held = {one.name: tables(one, array, 3) for one in found}
    those = [one for one in found if held[one.name]]
    data: list[dict[str, Any]] = []
    for one in those:
        n, name = one.number, plain(one.name, 28)
        (first, before), (_, last) = held[one.name][0], held[one.name][-1]
        same = {"type": "scatter", "x": x(one, len(last))}
        faintly = {"color": faint(color(n), 0.55), "width": 1.5, "dash": "dot"}
        data.append({**same, "mode": "lines", "y": before[:, 1], "name": f"{name}, step {first}", "line": faintly})
        look = {"line": {"color": color(n), "width": 2, "dash": dash(n)}, "name": f"{name}, at the step shown"}
        marks = {"marker": {"symbol": symbol(n), "size": 6, "color": color(n)}, "mode": "lines+markers"}
        hover = {
            "customdata": last[:, 0],
            "hovertemplate": "%{x}: %{y:.3f} ± %{error_y.array:.3f} nats, %{customdata:,} tokens",
        }
        data.append({**same, **look, **marks, **hover, **_loss(last)})
    if not data:
        return None
    frames = [
        {"name": str(step), "traces": [2 * n + 1 for n in range(len(those))],
         "data": [_loss(at(held[one.name], step)) for one in those]}
        for step in sorted({step for one in those for step, _ in held[one.name]})
    ]  # fmt: skip
    up = axis("loss (nats per token)", **span([table[:, 1] for one in those for _, table in held[one.name]]))
    return {**figure(f"{title} {_of(found, array, 3)}", data, across, up, 400), "frames": frames}


def _loss(table: NDArray[np.float64]) -> dict[str, Any]:
    return {"y": table[:, 1], "error_y": bars(table[:, 2])}


def _of(found: Sequence[Source], array: str, columns: int) -> str:
    """How much a picture goes by: `(512 tokens; bars: 1 standard error)`."""
    counts = {int(np.nansum(held[-1][1][:, 0])) for one in found if (held := tables(one, array, columns))}
    return f"({', '.join(f'{count:,}' for count in sorted(counts))} tokens; bars: 1 standard error)"


def span(values: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """A range that holds all of them, so that an axis stands still while steps go by."""
    known = np.concatenate([np.ravel(one) for one in values]) if values else np.zeros(0)
    known = known[np.isfinite(known)]
    if not known.size:
        return {}
    low, high = float(known.min()), float(known.max())
    pad = 0.06 * (high - low) or 0.1
    return {"range": [low - pad, high + pad]}


def draw_position(found: Sequence[Source]) -> Picture | None:
    def place(one: Source, rows: int) -> NDArray[np.float64]:
        context = one.settings.get("model.context")
        return np.arange(rows, dtype=float) * (context / rows if isinstance(context, int) and context > 0 else 1)

    across = axis("place in the window (tokens seen before)")
    return _losses(found, "output/position", "Loss by position", across, place)


def draw_frequency(found: Sequence[Source]) -> Picture | None:
    across = axis("tenth of the training text, 1: of the commonest tokens", dtick=1)
    return _losses(found, "output/frequency", "Loss by token frequency", across, lambda _, rows: np.arange(rows) + 1)


def draw_output(found: Sequence[Source], quantity: str) -> Picture | None:
    array, unit, title = QUANTITIES[quantity]
    data = []
    for one in found:
        values = one.layers.numbers(array)
        known = np.isfinite(values)
        if known.any():
            n = one.number
            data.append({"type": "scatter", "mode": "lines+markers", "x": np.array(one.steps)[known],
                         "y": values[known], "name": plain(one.name, 28),
                         "line": {"color": color(n), "width": 2, "dash": dash(n)},
                         "marker": {"symbol": symbol(n), "size": 5, "color": color(n)}, "showlegend": True,
                         "hovertemplate": "step %{x}: %{y:.4~g}"})  # fmt: skip
    return figure(title, data, axis("step"), axis(unit, rangemode="tozero"), 380) if data else None


QUANTITIES = {
    "entropy": ("output/entropy", "entropy (nats per token)", "Entropy of what it predicts"),
    "calibration error": ("output/error", "expected calibration error", "Calibration error"),
    "loss on the probe": ("loss", "loss (nats per token)", "Loss on the probe"),
}


def output_choices(found: Sequence[Source]) -> list[Choice]:
    return [
        {"quantity": word}
        for word, (array, _, _) in QUANTITIES.items()
        if any(np.isfinite(one.layers.numbers(array)).any() for one in found)
    ]


output = View(
    "Output",
    "Entropy and calibration error",
    "Entropy, calibration error and loss on the fixed probe.",
    draw_output,
    output_choices,
)
calibration = View(
    "Output",
    "Calibration",
    "On the diagonal a model is right as often as it is sure; below, it is too sure of itself. Bars: one standard "
    "error, of the few tokens of the probe.",
    draw_calibration,
    has("output/calibration", 3),
)
position = View(
    "Output",
    "Loss by position",
    "A model that uses its context predicts better the more of it there is. Bars: one standard error; point at a place "
    "for its tokens.",
    draw_position,
    has("output/position", 3),
)
frequency = View(
    "Output",
    "Loss by token frequency",
    "Common tokens are learned first. Bars: one standard error; point at a tenth for its tokens.",
    draw_frequency,
    has("output/frequency", 3),
)
