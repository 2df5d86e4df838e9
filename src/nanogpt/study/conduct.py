"""A study from its first run to its scores: sweep, widen, claim. Knows neither folders nor processes.

rates, scores = conduct(fixed, executor, said)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nanogpt.errors import UserError
from nanogpt.study.execution import Executor, Job, Said, Score
from nanogpt.study.fixed import Fixed
from nanogpt.study.plan import PILOT_SEEDS, SWEEP_SEEDS, Plan, rounded
from nanogpt.study.sweep import Choice, choose, wider

Scores = dict[str, dict[int, Score]]


@dataclass
class Outcome:
    """What the runs of a study said: each arm's learning rate, and its scores by seed, of the claim's runs."""

    rates: dict[str, Choice] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)

    def losses(self, metric: str, split: str = "test") -> dict[str, dict[int, float]]:
        return {arm: {s: one.of(split, metric) for s, one in by.items()} for arm, by in self.scores.items()}


def conduct(fixed: Fixed, executor: Executor, said: Said) -> Outcome:
    """Run what the plan says. An executor that knows an answer already may give it at once."""
    rates = sweep(fixed, executor, said)
    outcome = Outcome(rates)
    for job, score in executor.run(claim_jobs(fixed, {arm: c.rate for arm, c in rates.items()}), said):
        outcome.scores.setdefault(job.arm, {})[job.seed] = score
    return outcome


def sweep(fixed: Fixed, executor: Executor, said: Said) -> dict[str, Choice]:
    """The rate of each arm, chosen on validation, by seeds that the claim never sees."""
    plan = fixed.plan
    if plan.sweep is None:
        return {}
    waiting = {arm: [rounded(rate) for rate in plan.arms[arm].lr or plan.sweep.lr] for arm in plan.arms}
    found: dict[str, dict[float, list[float]]] = {arm: {} for arm in plan.arms}
    chosen: dict[str, Choice] = {}
    for _ in range(plan.sweep.widen + 1):
        for job, score in sorted(executor.run(sweep_jobs(fixed, waiting), said), key=lambda pair: pair[0].seed):
            assert job.rate is not None
            found[job.arm].setdefault(job.rate, []).append(score.of("val", plan.metric))
        chosen = {arm: choose(losses) for arm, losses in found.items()}
        waiting = {arm: [rate] for arm, choice in chosen.items() if (rate := wider(choice)) is not None}
        if not waiting:
            break
    return chosen


def sweep_jobs(fixed: Fixed, rates: Mapping[str, Iterable[float]]) -> list[Job]:
    sweep = fixed.plan.sweep
    seeds = range(SWEEP_SEEDS + 1, SWEEP_SEEDS + 1 + (sweep.seeds if sweep else 0))
    return [fixed.job(arm, seed, rate) for arm, some in rates.items() for rate in some for seed in seeds]


def claim_jobs(fixed: Fixed, rates: Mapping[str, float]) -> list[Job]:
    """Seed by seed, so that a study that is stopped early has whole pairs."""
    return [fixed.job(arm, seed, rates.get(arm)) for seed in fixed.plan.seeds for arm in fixed.plan.arms]


def pilot_arms(plan: Plan) -> list[str]:
    """The two of which a pilot measures the noise: the control (or first arm), and the first other one."""
    first = plan.control or next(iter(plan.arms))
    return [first, next(arm for arm in plan.arms if arm != first)]


def pilot_jobs(fixed: Fixed) -> list[Job]:
    """Both at the middle of their rates, on seeds of a pilot's own."""
    plan, arms = fixed.plan, pilot_arms(fixed.plan)
    rates = {arm: _middle(plan.arms[arm].lr or (plan.sweep.lr if plan.sweep else [])) for arm in arms}
    seeds = range(PILOT_SEEDS + 1, PILOT_SEEDS + 1 + plan.pilot)
    return [fixed.job(arm, seed, rates[arm]) for seed in seeds for arm in arms]


def _middle(rates: Sequence[float]) -> float | None:
    return rounded(sorted(rates)[len(rates) // 2]) if rates else None


def pilot(fixed: Fixed, executor: Executor, said: Said) -> float | None:
    """The standard deviation of a paired difference, measured on validation; None where the plan has no pilot."""
    if not fixed.plan.pilot:
        return None
    jobs = pilot_jobs(fixed)
    losses = {(job.arm, job.seed): score.of("val", fixed.plan.metric) for job, score in executor.run(jobs, said)}
    one, other = dict.fromkeys(job.arm for job in jobs)
    differences = [losses[one, seed] - losses[other, seed] for seed in dict.fromkeys(job.seed for job in jobs)]
    sd = float(np.std(differences, ddof=1))
    if not sd:
        raise UserError(
            f"pilot: {one} and {other} differ by {differences[0]:g} with every seed, so it measured no noise; what "
            "would do: another arm first, or noise=0.01 (assumed)"
        )
    return sd


def planned(fixed: Fixed) -> Iterator[Job]:
    """Every run that is known before the first has ended: without what widening adds."""
    plan = fixed.plan
    if plan.pilot:
        yield from pilot_jobs(fixed)
    if plan.sweep:
        rates = {arm: [rounded(rate) for rate in plan.arms[arm].lr or plan.sweep.lr] for arm in plan.arms}
        yield from sweep_jobs(fixed, rates)
    middles = {arm: _middle(plan.arms[arm].lr or plan.sweep.lr) for arm in plan.arms} if plan.sweep else {}
    yield from claim_jobs(fixed, {arm: rate for arm, rate in middles.items() if rate is not None})
