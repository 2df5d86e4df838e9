"""From scores to sentences: better, worse, equivalent within the margin, cannot tell yet (N more seeds)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nanogpt.proportions import counted
from nanogpt.study.plan import Plan
from nanogpt.study.statistics import (
    CHOICE,
    MOST_SEEDS,
    Estimate,
    bootstrap,
    detectable,
    estimate,
    half_width,
    holm,
    holm_levels,
    seeds_to_detect,
    seeds_to_settle,
)

BETTER, WORSE, EQUIVALENT, UNKNOWN = "better", "worse", "equivalent", "cannot tell"
FITS = {
    "better": {BETTER},
    "worse": {WORSE},
    "equivalent": {EQUIVALENT},
    "not worse": {BETTER, EQUIVALENT},
    "different": {BETTER, WORSE},
}
"""Verdicts under which a claim that expects this one counts as reproduced."""
Losses = Mapping[str, Mapping[int, float]]
"""Arm -> seed -> loss on the test split."""


@dataclass(frozen=True)
class Comparison:
    """What is compared: per seed, a statistic of the arms on the left minus that of those on the right."""

    name: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    of: str = "mean"
    expect: str = ""

    def differences(self, losses: Losses, seeds: Sequence[int]) -> list[float]:
        """One number for each seed. Below zero: the left side has the lower loss (or the smaller spread)."""
        return [self._side(self.left, losses, seed) - self._side(self.right, losses, seed) for seed in seeds]

    def _side(self, arms: Sequence[str], losses: Losses, seed: int) -> float:
        values = [losses[arm][seed] for arm in arms]
        return max(values) - min(values) if self.of == "spread" else float(np.mean(values))


@dataclass(frozen=True)
class Verdict:
    """The answer to one comparison. `estimate` has the plain interval at 1 - alpha, `wide` the one that holds for all
    comparisons of the family at once (Bonferroni), `interval` the one that the word rests on. `p`, `p_matters`:
    adjusted by Holm; `level`, `level_matters`: at which Holm tests this one."""

    comparison: Comparison
    differences: tuple[float, ...]
    estimate: Estimate
    wide: tuple[float, float]
    p: float
    p_matters: float
    level: float
    level_matters: float
    family: int
    plan: Plan

    @property
    def word(self) -> str:
        if self.p_matters <= self.plan.alpha:
            return EQUIVALENT
        if self.p <= self.plan.alpha:
            return BETTER if self.estimate.mean < 0 else WORSE
        return UNKNOWN

    @property
    def confidence(self) -> float:
        """Of the interval that the verdict rests on. Two one-sided tests at a level go with the interval at 1 - 2 level
        (Schuirmann 1987)."""
        return 1 - (2 * self.level_matters if self.word == EQUIVALENT else self.level)

    @property
    def interval(self) -> tuple[float, float]:
        """It lies within the margin where they are equivalent, excludes zero where one is better, else holds zero."""
        mean, sd = self.estimate.mean, self.estimate.sd
        half = half_width(sd, len(self.differences), 1 - self.confidence, extra(self.plan))
        return mean - half, mean + half

    @cached_property
    def seeds_needed(self) -> int | None:
        """In all, to settle it if the truth is what was seen, wherever this comparison comes in Holm's order."""
        alpha, sd = self.plan.alpha / self.family, self.estimate.sd
        if not sd:
            return len(self.differences)
        return seeds_to_settle(
            self.estimate.mean, sd, self.plan.margin, alpha, alpha, self.plan.power, extra(self.plan)
        )

    @property
    def more_seeds(self) -> int | None:
        """None: more than could be run."""
        return None if self.seeds_needed is None else max(1, self.seeds_needed - len(self.differences))

    @cached_property
    def bootstrapped(self) -> tuple[float, float]:
        return bootstrap(self.differences, self.plan.alpha)

    @property
    def sentence(self) -> str:
        """The verdict in words. Never a bare p value."""
        mean, (low, high) = self.estimate.mean, self.interval
        within = f"{percent(self.confidence)} interval [{low:+.4f}, {high:+.4f}]"
        size = f"{mean:+.4f} {units(self.plan)}, {within if len(set(self.differences)) > 1 else 'with every seed'}"
        spread = self.comparison.of == "spread"
        if self.word == EQUIVALENT:
            real = ", though not zero" if self.p <= self.plan.alpha and (low > 0 or high < 0) else ""
            return f"equivalent within the margin of {self.plan.margin:g}{real}: {size}"
        if self.word == UNKNOWN:
            return f"cannot tell yet ({self.more}): {size}"
        words = {BETTER: "smaller spread", WORSE: "larger spread"} if spread else {BETTER: "better", WORSE: "worse"}
        small = "" if abs(mean) >= self.plan.margin else f", by less than the margin of {self.plan.margin:g}"
        return f"{words[self.word]}{small}: {size}"

    @property
    def more(self) -> str:
        """How many seeds would settle it."""
        if self.more_seeds is not None:
            return counted(self.more_seeds, "more seed")
        if self.plan.sweep is None:
            return f"over {MOST_SEEDS} more seeds"
        return f"over {MOST_SEEDS} more seeds, unless the sweep has more than {self.plan.sweep.seeds}"

    @property
    def fits(self) -> bool:
        """Whether it is what the claim expects."""
        return self.word in FITS[self.comparison.expect]


def extra(plan: Plan) -> float:
    """What choosing learning rates adds to the variance of a mean difference (statistics.py)."""
    return 0.0 if plan.sweep is None else CHOICE / plan.sweep.seeds


def percent(confidence: float) -> str:
    """95%, 99.2%."""
    return f"{100 * confidence:.3g}%"


def units(plan: Plan) -> str:
    return "bits per byte" if plan.metric == "bpb" else "nats per token"


def claims(plan: Plan) -> list[Comparison]:
    """The primary family: what the study is for."""
    return [
        Comparison(one.says, tuple(plan.named(one.left)), tuple(plan.named(one.right)), one.of, one.expect)
        for one in plan.claims
    ]


def arms_against_control(plan: Plan) -> list[Comparison]:
    """Each arm against the control; the primary family of a plan without claims."""
    if plan.control is None:
        return []
    return [Comparison(arm, (arm,), (plan.control,)) for arm in plan.arms if arm != plan.control]


def primary(plan: Plan) -> list[Comparison]:
    return claims(plan) or arms_against_control(plan)


def decide(plan: Plan, family: Sequence[Comparison], losses: Losses) -> list[Verdict]:
    """Verdicts of a family of comparisons, which share the false alarms."""
    values = [one.differences(losses, plan.seeds) for one in family]
    found = [estimate(v, plan.margin, plan.alpha, extra(plan)) for v in values]
    wide = [estimate(v, plan.margin, plan.alpha / len(family), extra(plan)) for v in values]
    p, matters = [one.p for one in found], [one.p_matters for one in found]
    tests = zip(holm(p), holm(matters), holm_levels(p, plan.alpha), holm_levels(matters, plan.alpha), strict=True)
    return [
        Verdict(comparison, tuple(v), one, (w.low, w.high), *test, len(family), plan)
        for comparison, v, one, w, test in zip(family, values, found, wide, tests, strict=True)
    ]


@dataclass(frozen=True)
class Reach:
    """What a plan can tell before it has run. noise: standard deviation of one paired difference, and where that is
    from. detectable: the smallest true difference that it finds with the planned power, in the hardest place of Holm's
    order. floor: half the width of an interval. needed: seeds that would find a difference as large as the margin."""

    noise: float
    source: str
    seeds: int
    floor: float
    detectable: float
    needed: int | None

    @property
    def enough(self) -> bool:
        return self.needed is not None and self.needed <= self.seeds


def reach(plan: Plan, noise: float, source: str) -> Reach:
    alpha, n, more = plan.alpha / max(1, len(primary(plan))), len(plan.seeds), extra(plan)
    return Reach(
        noise=noise,
        source=source,
        seeds=n,
        floor=half_width(noise, n, plan.alpha, more),
        detectable=detectable(noise, n, alpha, plan.power, more),
        needed=seeds_to_detect(plan.margin, noise, alpha, plan.power, more),
    )
