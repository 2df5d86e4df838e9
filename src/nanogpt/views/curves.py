"""Loss and everything else that is logged at each step, of one run or of several over each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from nanogpt.views.source import Numbers, Source
from nanogpt.views.theme import color, dash, faint, plain, symbol
from nanogpt.views.view import Choice, Picture, View, axis, figure

MOST = 2000
"""Points of a line. A screen is not wider; the lowest and the highest of each bucket are kept, so that no spike is."""
SMOOTH, LEAST = 150, 8
"""A smoothed line looks back over so small a part of the run, but that many points: more would lag behind a loss that
falls."""
DENSE = 50
"""Points from which on a line is smoothed."""
X = {"steps": "step", "tokens": "tokens", "FLOPs": "training FLOPs", "seconds": "seconds of training"}
UNITS = {
    "loss": "loss (nats per token)",
    "bpb": "bits per byte of text",
    "lr": "learning rate",
    "grad_norm": "gradient norm (all parameters, before clipping)",
    "tokens_per_second": "tokens per second",
}
NOT_DRAWN = ("step", "tokens", "seconds")


def quantity(key: str) -> str:
    """`train/loss` and `val/loss` are drawn together, as `loss`."""
    return key.partition("/")[2] if key.startswith(("train/", "val/")) else key


def quantities(found: Sequence[Source]) -> list[str]:
    """What can be drawn, the loss first."""
    names = list(dict.fromkeys(quantity(k) for one in found for k in one.keys() if k not in NOT_DRAWN))  # noqa: SIM118
    return sorted(names, key=lambda name: (name != "loss", name != "bpb"))


def axes(found: Sequence[Source], y: str) -> list[str]:
    """What can be along the bottom: what is known of some run that has this quantity."""
    has = [one for one in found if any(quantity(key) == y for key in one.keys())]  # noqa: SIM118
    return [x for x in X if any(np.isfinite(place(one, x)).any() for one in has)]


def choices(found: Sequence[Source]) -> list[Choice]:
    return [
        {"y": name, "x": x, "scale": scale}
        for name in quantities(found)
        for x in axes(found, name)
        for scale in ("linear", "log")
    ]


def draw(found: Sequence[Source], x: str, y: str, scale: str) -> Picture | None:
    data = [trace for one in found for trace in lines(one, x, y, alone=len(found) == 1)]
    if not data:
        return None
    logged = {"type": "log", "dtick": "D2"} if scale == "log" else {}
    upward = axis(unit(found, y), **logged)
    first = unit(found, y).partition(" (")[0]
    return figure(f"{first[0].upper()}{first[1:]} by {X[x]}", data, axis(_bottom(x)), upward, 420)


def unit(found: Sequence[Source], y: str) -> str:
    """Of somebody's own module nobody knows the unit of the loss."""
    own = any("model.dim" not in one.settings for one in found)
    return "loss" if y == "loss" and own else UNITS.get(y) or plain(y)


def _bottom(x: str) -> str:
    return {"seconds": "time in training (seconds)", "FLOPs": "operations in training (FLOPs)"}.get(x, X[x])


def place(one: Source, x: str) -> Numbers:
    """What is along the bottom, for each row of the log."""
    if x == "FLOPs":
        return one.column("tokens") * (one.cost.training_flops if one.cost else np.nan)
    return one.column({"steps": "step"}.get(x, x))


def lines(one: Source, x: str, y: str, alone: bool) -> list[dict[str, Any]]:
    """Traces of one run: what was measured at each step, faint, with its smoothed line; evaluations, marked."""
    along, name = place(one, x), plain(one.name, 32)
    rgb, traces = color(one.number), []
    for key, word in ((f"train/{y}", "train"), (y, "")):
        values = one.column(key)
        known = np.isfinite(values) & np.isfinite(along)
        if not known.any():
            continue
        label = " ".join(w for w in ("" if alone else name, word) if w) or plain(y, 32)
        smoothed, dense = smooth(values[known]), known.sum() >= DENSE
        if dense:
            traces.append(line(along[known], values[known], f"{label}, every step", color=faint(rgb, 0.28), width=1))
            traces[-1] |= {"showlegend": alone, "hoverinfo": "skip"}
            label += ", smoothed" if alone else ""
        shape = {"color": rgb, "width": 2, "dash": dash(one.number)}
        traces.append(line(along[known], smoothed if dense else values[known], label, **shape))
    values = one.column(f"val/{y}")
    known = np.isfinite(values) & np.isfinite(along)
    if known.any():
        label = "val" if alone else f"{name} val"
        marked = thin(along[known], values[known], 200)
        rgb = color(one.number + 1) if alone else rgb
        look = {"marker": {"symbol": symbol(one.number), "size": 7, "color": rgb}, "mode": "lines+markers"}
        traces.append({**line(*marked, label, color=rgb, width=1.2, dash="dot"), **look})
    return traces


def line(x: Numbers, y: Numbers, name: str, **look: Any) -> dict[str, Any]:
    x, y = thin(x, y)
    mode = "lines" if len(x) > 1 else "markers"
    hover = "%{x:,.6~g}: %{y:.5~g}"
    return {"type": "scatter", "mode": mode, "x": x.astype(np.float32), "y": y.astype(np.float32), "name": name,
            "line": look, "hovertemplate": hover}  # fmt: skip


def smooth(values: Numbers) -> Numbers:
    """The exponential moving average, unbiased at its start (Kingma and Ba 2015)."""
    keep = 1 - 1 / max(LEAST, len(values) / SMOOTH)
    return np.array(_averages(keep, tuple(values.tolist())))


@lru_cache(maxsize=64)  # the same line is drawn over steps, tokens, FLOPs and seconds
def _averages(keep: float, values: tuple[float, ...]) -> list[float]:
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(mean / weight)
    return out


def thin(x: Numbers, y: Numbers, most: int = MOST) -> tuple[Numbers, Numbers]:
    """At most so many points: of each bucket of neighbours the lowest and the highest, in their order."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most // 2 + 1).astype(int)[:-1]
    ends = [*edges[1:], len(x)]
    kept = {0, len(x) - 1}
    for start, end in zip(edges, ends, strict=True):
        kept |= {int(start + np.argmin(y[start:end])), int(start + np.argmax(y[start:end]))}
    places = np.array(sorted(kept))
    return x[places], y[places]


curves = View(
    "Curves",
    "Curves",
    "Training loss at every step, faint, with its smoothed line; evaluations on the validation split are marked.",
    draw,
    choices,
)
