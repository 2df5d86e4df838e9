"""What the sweep saw: validation loss by learning rate, of each arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogpt.study.folder import Study
from nanogpt.study.verdict import units
from nanogpt.views.studies.source import number_of, studies
from nanogpt.views.theme import color, dash, plain, symbol
from nanogpt.views.view import Choice, Picture, View, axis, figure


def choices(found: Sequence[Study]) -> list[Choice]:
    return [{}] if found[0].outcome.rates else []


def draw(found: Sequence[Study]) -> Picture | None:
    study = found[0]
    data: list[dict[str, Any]] = []
    for arm, choice in study.outcome.rates.items():
        n, rgb = number_of(study, arm), color(number_of(study, arm))
        rates = sorted(choice.tried)
        at = float(np.interp(np.log(choice.rate), np.log(rates), [choice.tried[rate] for rate in rates]))
        data.append({"type": "scatter", "mode": "lines+markers", "name": plain(arm), "x": rates,
                     "y": [choice.tried[rate] for rate in rates],
                     "line": {"color": rgb, "width": 1.6, "dash": dash(n)},
                     "marker": {"symbol": symbol(n), "size": 6, "color": rgb}, "legendgroup": arm,
                     "hovertemplate": "%{x:.3g}: %{y:.4f}"})  # fmt: skip
        chosen = {"symbol": symbol(n), "size": 13, "color": rgb}
        data.append({"type": "scatter", "mode": "markers", "name": plain(arm), "x": [choice.rate], "y": [at],
                     "marker": chosen, "legendgroup": arm, "showlegend": False,
                     "hovertemplate": "chosen: %{x:.3g}"})  # fmt: skip
    up = axis(f"validation {study.plan.metric} ({units(study.plan)})")
    along = axis("learning rate", type="log", exponentformat="power")
    return figure("Learning rates", data, along, up, 420)


rates = View(
    "Runs",
    "Learning rates",
    "Validation loss at each learning rate, on seeds that the claim never sees; the large marker is where the rate was "
    "chosen: at the bottom of a parabola through the best three.",
    draw,
    choices,
    studies,
)
