"""The loss of each arm on the test split, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogpt.study.folder import Study
from nanogpt.study.verdict import units
from nanogpt.views.studies.source import number_of, studies
from nanogpt.views.theme import GREY, color, plain, symbol
from nanogpt.views.view import Choice, Picture, View, axis, figure


def choices(found: Sequence[Study]) -> list[Choice]:
    return [{"scale": scale} for study in found if study.plan.arms for scale in ("linear", "log")]


def draw(found: Sequence[Study], scale: str) -> Picture | None:
    study = found[0]
    values = study.outcome.losses(study.plan.metric)
    data: list[dict[str, Any]] = []
    for arm in study.plan.arms:
        n = number_of(study, arm)
        losses = list(values[arm].values())
        data.append({"type": "scatter", "mode": "markers", "x": losses, "y": [plain(arm)] * len(losses),
                     "name": plain(arm), "showlegend": False,
                     "marker": {"color": color(n), "symbol": symbol(n), "size": 8, "opacity": 0.75},
                     "customdata": list(values[arm]),
                     "hovertemplate": "seed %{customdata}: %{x:.4f}<extra></extra>"})  # fmt: skip
    means = [float(np.mean(list(values[arm].values()))) for arm in study.plan.arms]
    names = [plain(arm) for arm in study.plan.arms]
    mark = {"symbol": "line-ns-open", "size": 20, "color": GREY, "line": {"width": 2.5, "color": GREY}}
    data.append({"type": "scatter", "mode": "markers", "x": means, "y": names, "name": "mean", "marker": mark,
                 "hovertemplate": "mean %{x:.4f}<extra></extra>"})  # fmt: skip
    along = axis(f"{study.plan.metric} on the test split ({units(study.plan)})")
    along |= {"type": "log", "dtick": "D2"} if scale == "log" else {}
    up = axis("", type="category", categoryorder="array", categoryarray=names[::-1], automargin=True)
    return figure("Losses", data, along, up, 130 + 26 * len(names))


losses = View(
    "Comparisons",
    "Losses",
    "Each arm at its own learning rate, on the test split: a marker for each seed, a bar at their mean. Whether arms "
    "differ is seen in the paired differences, not here.",
    draw,
    choices,
    studies,
)
