"""Learning curves: the mean over seeds of each arm, in the band from the lowest to the highest seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogpt.study.folder import Study
from nanogpt.study.verdict import units
from nanogpt.views.curves import X, smooth, thin
from nanogpt.views.source import Numbers, Source
from nanogpt.views.studies.source import number_of, studies
from nanogpt.views.theme import color, dash, faint, plain, symbol
from nanogpt.views.view import Choice, Picture, View, axis, figure

MANY = 8
"""Arms that can still be told apart; of more, those of each claim are drawn, and each beside the control alone."""
FEW = 3
"""Points of which no curve is made: where validation has fewer, the training loss is shown first (but nats per token of
two tokenizers do not compare, where bits per byte do)."""
WORDS = {"validation": "val/", "training": "train/"}


def choices(found: Sequence[Study]) -> list[Choice]:
    study = found[0]
    arms = list(study.plan.arms)
    if not arms:
        return []
    looked = max(len(_line(study, arm, study.plan.seeds[0], f"val/{study.plan.metric}", "step")[0]) for arm in arms)
    shown = list(WORDS) if looked >= FEW or study.plan.metric == "bpb" else list(reversed(WORDS))
    return [{"arms": g, "loss": loss, "x": x} for g in groups(study) for loss in shown for x in ("steps", "seconds")]


def groups(study: Study) -> dict[str, list[str]]:
    """What is drawn together, by the words for it."""
    plan, arms = study.plan, list(study.plan.arms)
    if len(arms) <= MANY:
        return {"all": arms}
    sides = {claim.says: plan.named([*claim.left, *claim.right]) for claim in plan.claims}
    found = {says: some for says, some in sides.items() if len(some) <= MANY}
    pairs = {arm: [plan.control, arm] for arm in arms if arm != plan.control} if plan.control else {}
    return {**found, **pairs, "all": arms}


def draw(found: Sequence[Study], arms: str, loss: str, x: str) -> Picture | None:
    study = found[0]
    data = [trace for arm in groups(study)[arms] for trace in _arm(study, arm, loss, x)]
    metric = study.plan.metric if loss == "validation" else "loss"
    up = axis(f"{loss} {metric} ({units(study.plan) if loss == 'validation' else 'nats per token'})")
    return figure("Curves", data, axis(X[x]), up, 440) if data else None


def _arm(study: Study, arm: str, loss: str, x: str) -> list[dict[str, Any]]:
    key = WORDS[loss] + (study.plan.metric if loss == "validation" else "loss")
    found = [_line(study, arm, seed, key, {"steps": "step"}.get(x, x)) for seed in study.plan.seeds]
    lines = [one for one in found if len(one[0])]
    if not lines:
        return []
    least = min(len(along) for along, _ in lines)  # of a run that diverged, what there is
    along = np.mean([line[0][:least] for line in lines], 0)
    values = np.array([line[1][:least] for line in lines])
    n, rgb = number_of(study, arm), color(number_of(study, arm))
    low, high = (thin(along, bound) for bound in (values.min(0), values.max(0)))
    band = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip",
            "legendgroup": arm, "fill": "toself", "fillcolor": faint(rgb, 0.18), "name": plain(arm),
            "x": np.concatenate([low[0], high[0][::-1]]), "y": np.concatenate([low[1], high[1][::-1]])}  # fmt: skip
    middle = thin(along, values.mean(0))
    line = {"type": "scatter", "mode": "lines+markers" if len(along) <= 30 else "lines", "x": middle[0], "y": middle[1],
            "name": plain(arm), "legendgroup": arm, "line": {"color": rgb, "width": 2, "dash": dash(n)},
            "marker": {"symbol": symbol(n), "size": 6, "color": rgb},
            "hovertemplate": "%{x:,.6~g}: %{y:.4f}"}  # fmt: skip
    return [band, line] if len(lines) > 1 else [line]


def _line(study: Study, arm: str, seed: int, key: str, x: str) -> tuple[Numbers, Numbers]:
    one = Source(study.run(arm, seed))
    along, values = one.column(x), one.column(key)
    known = np.isfinite(along) & np.isfinite(values)
    if key.startswith("train/") and known.any():
        return along[known], smooth(values[known])
    return along[known], values[known]


curves = View(
    "Runs",
    "Curves",
    "The mean over the seeds of the claim, in a band from the lowest to the highest; training losses are smoothed.",
    draw,
    choices,
    studies,
)
