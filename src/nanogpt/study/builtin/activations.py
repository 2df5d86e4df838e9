"""Dead neurons beside losses, from what the observers wrote while the arms were trained."""

from __future__ import annotations

import numpy as np
from scipy import stats

from nanogpt.observers.store import Layers, Observation
from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series


def dead(seen: Observation) -> float:
    """Share of a model's neurons that are active on no token of the probe."""
    active = np.concatenate([seen.active(units.name) for units in seen.units])
    return float((active <= 0).mean())


def dead_neurons(study: Study) -> Measurement:
    """At the first look and at the last: means over the claim's seeds."""
    arms = list(study.plan.arms)
    first, last, low, high, losses = {}, {}, {}, {}, {}
    for arm in arms:
        looks = [Layers(study.run(arm, seed).path).seen for seed in study.plan.seeds]
        ends = [dead(seen[-1]) for seen in looks]
        first[arm] = float(np.mean([dead(seen[0]) for seen in looks]))
        last[arm], low[arm], high[arm] = float(np.mean(ends)), min(ends), max(ends)
        losses[arm] = float(np.mean([score.of("test", "loss") for score in study.scores(arm).values()]))
    rank = float(stats.spearmanr([last[arm] for arm in arms], [losses[arm] for arm in arms]).statistic)
    some = ", ".join(
        f"{arm} {100 * last[arm]:.1f}%" for arm in sorted(arms, key=lambda arm: -last[arm]) if last[arm] > 0
    )
    numbers = {f"dead at the end, {arm}": last[arm] for arm in arms} | {
        f"dead at the start, {arm}": first[arm] for arm in arms
    }
    numbers["rank correlation of dead share and test loss"] = rank
    return Measurement(
        numbers=numbers,
        findings=[f"Neurons that are active on no token of the probe, at the end: {some or 'none in any arm'}. Over "
                  f"all activations the rank correlation of that share with the test loss is {rank:.2f}."],
        charts=[
            Chart("Dead neurons by activation",
                  "Share of all hidden neurons that are active on no token of the probe, at the end of training: mean "
                  "and range over seeds.",
                  "activation", "dead neurons (%)",
                  [Series("at the end", arms, [100 * last[a] for a in arms], [100 * low[a] for a in arms],
                          [100 * high[a] for a in arms])], kind="bars"),
            Chart("Dead neurons and loss", "One point for each activation.", "dead neurons (%)",
                "test loss (nats a letter)",
                  [Series(arm, [100 * last[arm]], [losses[arm]]) for arm in arms], kind="points"),
        ],
    )  # fmt: skip
