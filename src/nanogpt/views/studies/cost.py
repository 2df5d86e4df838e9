"""What each arm costs: time, memory, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogpt.study.folder import Study
from nanogpt.views.studies.source import studies
from nanogpt.views.theme import COLORS, plain
from nanogpt.views.view import Choice, Picture, View, axis

PANELS = ("seconds of training", "memory (MB)", "parameters")


def choices(found: Sequence[Study]) -> list[Choice]:
    return [{}] if found[0].plan.arms else []


def draw(found: Sequence[Study]) -> Picture | None:
    study = found[0]
    names = [plain(arm) for arm in study.plan.arms]
    scores = [list(study.scores(arm).values()) for arm in study.plan.arms]
    columns = [
        [float(np.median([one.seconds for one in some])) for some in scores],
        [float(np.median([(one.memory or 0) / 1e6 for one in some])) for some in scores],
        [float(study.fixed.arms[arm].parameters) for arm in study.plan.arms],
    ]
    layout: dict[str, Any] = {"title": {"text": "Cost by arm"}, "showlegend": False, "height": 120 + 26 * len(names)}
    data = []
    for n, (title, values) in enumerate(zip(PANELS, columns, strict=True)):
        end = "" if n == 0 else str(n + 1)
        left = n * 0.345
        layout[f"xaxis{end}"] = axis(title, domain=[left, left + 0.31], anchor=f"y{end}", rangemode="tozero", nticks=4)
        layout[f"yaxis{end}"] = {"type": "category", "categoryorder": "array", "categoryarray": names[::-1],
                                 "anchor": f"x{end}", "automargin": True, "showticklabels": n == 0}  # fmt: skip
        data.append({"type": "bar", "orientation": "h", "x": values, "y": names, "xaxis": f"x{end}", "yaxis": f"y{end}",
                     "marker": {"color": COLORS[n]}, "name": title,
                     "hovertemplate": "%{y}: %{x:,.4~g}<extra></extra>"})  # fmt: skip
    return {"data": data, "layout": layout}


cost = View(
    "Runs",
    "Cost by arm",
    "Seconds of training of one run and the most memory that it took (medians over seeds; the first run of a process "
    "loads what the others find there, which is counted as its own), and its parameters.",
    draw,
    choices,
    studies,
)
