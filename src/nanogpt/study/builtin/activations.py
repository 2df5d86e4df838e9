"""Dead neurons beside losses, from what the observers wrote while the arms were trained."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from nanogpt.observers.store import Layers, Observation
from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series


def dead(seen: Observation) -> float:
    """Share of a model's neurons that are active on no token of the probe (a bounded one: saturated on every one); NaN
    where none is counted: the identity is no activation."""
    active = [seen.active(units.name) for units in seen.units]
    return float((np.concatenate(active) <= 0).mean()) if active else math.nan


def dead_neurons(study: Study) -> Measurement:
    """At the first look and at the last: means over the claim's seeds."""
    first, last, low, high, losses = {}, {}, {}, {}, {}
    for arm in study.plan.arms:
        looks = [Layers(study.run(arm, seed).path).seen for seed in study.plan.seeds]
        ends = [dead(seen[-1]) for seen in looks]
        if not math.isnan(ends[0]):
            first[arm] = float(np.mean([dead(seen[0]) for seen in looks]))
            last[arm], low[arm], high[arm] = float(np.mean(ends)), min(ends), max(ends)
            losses[arm] = float(np.mean([score.of("test", "loss") for score in study.scores(arm).values()]))
    numbers = {f"dead at the end, {arm}": share for arm, share in last.items()}
    numbers |= {f"dead at the start, {arm}": share for arm, share in first.items()}
    some = ", ".join(f"{arm} {100 * last[arm]:.1f}%" for arm in sorted(last, key=lambda arm: -last[arm]) if last[arm])
    says = f"Neurons that are active on no token of the probe, at the end: {some or 'none in any arm'}."
    if some:
        rank = float(stats.spearmanr(list(last.values()), list(losses.values())).statistic)
        numbers["rank correlation of dead share and test loss"] = rank
        says += f" Over all activations the rank correlation of that share with the test loss is {rank:.2f}."
    percent = {arm: (100 * low[arm], 100 * last[arm], 100 * high[arm]) for arm in last}
    return Measurement(
        numbers,
        [says],
        [
            Chart("Dead neurons by activation",
                  "Share of all hidden neurons that are active on no token of the probe (of tanh and sigmoid: "
                  "saturated on every one), at the end of training: mean and range over seeds.",
                  "activation", "dead neurons (%)",
                  [Series("at the end", list(percent), [p[1] for p in percent.values()],
                          [p[0] for p in percent.values()], [p[2] for p in percent.values()])], kind="bars"),
            Chart("Dead neurons and loss", "One point for each activation.", "dead neurons (%)",
                  "test loss (nats a letter)",
                  [Series(arm, [percent[arm][1]], [losses[arm]]) for arm in percent], kind="points"),
        ],
    )  # fmt: skip
