"""What the ladder measures beside its arms: counts of all names, which are exact, and the rungs in one figure."""

from __future__ import annotations

from math import log

import numpy as np

from nanogpt.runs import best_row
from nanogpt.study.builtin.models import counted
from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series

LETTERS = 27


def counts(study: Study) -> Measurement:
    """N-grams of all names scored on all of them, as the first lecture does; and every rung's loss."""
    numbers = {}
    for order, name in ((2, "bigram"), (3, "trigram")):
        for k, words in ((0, "no smoothing"), (1, "each count + 1")):
            run = counted(study, f"all-{name}-{k}", "data.corpus=names-all", f"model.embed=ngram({order}, add(k={k}))")
            numbers[f"{name}, all names, {words}"] = best_row(run.metrics())["val/loss"]
    arms = list(study.plan.arms)
    losses = [np.array([score.val_loss for score in study.scores(arm).values()]) for arm in arms]
    published = {arm: one.reference for arm, one in study.plan.arms.items() if one.reference is not None}
    chart = Chart(
        "The ladder", "Loss on validation (the lectures' dev): mean and range over seeds; published numbers beside "
                      "ours.",
        "model", "loss (nats a letter)",
        [Series("ours", arms, [float(one.mean()) for one in losses], [float(one.min()) for one in losses],
                [float(one.max()) for one in losses]),
         Series("published", list(published), list(published.values()), dash="dot"),
         Series("every letter alike, ln 27", [arms[0], arms[-1]], [log(LETTERS)] * 2, dash="dot")],
        kind="points",
    )  # fmt: skip
    steps = ", ".join(f"{arm} {one.mean():.3f}" for arm, one in zip(arms, losses, strict=True))
    return Measurement(
        numbers, [f"From every letter alike, {log(LETTERS):.3f} nats, by rungs: {steps} (validation)."], [chart]
    )
