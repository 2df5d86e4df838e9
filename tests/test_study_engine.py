"""The engine is judged as it judges: how often it raises a false alarm, and finds what is there, over whole studies,
learning rates and all, that differ from real ones only in that nothing is trained."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nanogpt.study.conduct import conduct, planned
from nanogpt.study.execution import Job
from nanogpt.study.plan import Arm, Plan
from nanogpt.study.verdict import BETTER, EQUIVALENT, UNKNOWN, WORSE, Verdict, arms_against_control, decide, reach
from tests.studies import BEST, Simulated, fixed, plan_of, quiet

STUDIES = 2000
RARELY = 1e-5
"""Chance that a test here fails though nothing is wrong."""


def verdicts(plan: Plan, executor: Simulated) -> list[Verdict]:
    outcome = conduct(fixed(plan), executor, quiet)
    return decide(plan, arms_against_control(plan), outcome.losses(plan.metric))


def bound(rate: float) -> tuple[int, int]:
    """Between which numbers of so many studies a rate shows."""
    low, high = stats.binom.interval(1 - RARELY, STUDIES, rate)
    return int(low), int(high)


def test_false_alarms_come_as_often_as_planned() -> None:
    """Two arms that are the same and have no rate to choose: 5% of studies see a difference, no more and no less."""
    random, plan = np.random.default_rng(), plan_of(margin=1e-6, sweep=None)
    alarms = sum(verdicts(plan, Simulated(random))[0].word in (BETTER, WORSE) for _ in range(STUDIES))
    low, high = bound(plan.alpha)
    assert low <= alarms <= high


ON, BETWEEN = [1e-3, 3.2e-3, 1e-2], [5.3e-4, 1.7e-3, 5.3e-3]
"""Rates of which one is the best, and of which the best lies half way between two."""


@pytest.mark.parametrize(
    ("seeds", "rates", "curvature"),
    [
        (5, ON, 0.0), (5, ON, 0.003), (5, ON, 0.01), (5, ON, 0.02), (5, BETWEEN, 0.005), (5, BETWEEN, 0.01),
        (20, ON, 0.007), (20, BETWEEN, 0.005), pytest.param(50, ON, 0.014, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_choosing_learning_rates_raises_no_more_false_alarms(seeds: int, rates: list[float], curvature: float) -> None:
    """The same two arms with rates chosen and edges widened, in a valley that is flat, or steep, or such that the noise
    of one run (0.007) tips the choice between neighbours: the best of those tried, taken as it is and its noise
    forgotten, would give 19% with five seeds and 42% with twenty, whose own noise hides less of it."""
    random, plan = np.random.default_rng(), plan_of(margin=1e-6, seeds=seeds, sweep={"lr": rates})
    studies = [verdicts(plan, Simulated(random, curvature=curvature)) for _ in range(STUDIES)]
    alarms = sum(one.word in (BETTER, WORSE) for (one,) in studies)
    assert alarms <= bound(plan.alpha)[1]


def test_false_alarms_stay_below_the_plan_over_all_arms() -> None:
    """Four arms that are the same against a control: any alarm at all in at most 5% of studies. Without Holm it would
    be some 15%."""
    random, plan = np.random.default_rng(), plan_of("abcde", margin=1e-6, sweep=None)
    words = [[one.word for one in verdicts(plan, Simulated(random))] for _ in range(STUDIES)]
    alarms = sum(BETTER in found or WORSE in found for found in words)
    assert 0 < alarms <= bound(plan.alpha)[1]


@pytest.mark.parametrize("sweep", [None, {"lr": [1e-3, 3e-3, 1e-2]}])
def test_an_effect_is_found_at_the_planned_power(sweep: dict[str, Any] | None) -> None:
    random, plan = np.random.default_rng(), plan_of(margin=1e-6, sweep=sweep)
    told = reach(plan, 0.01, "known")
    effects = {"b": -told.detectable}
    found = Counter(verdicts(plan, Simulated(random, effects=effects, curvature=0.1))[0].word for _ in range(STUDIES))
    low, high = bound(plan.power)
    assert low <= found[BETTER] <= high
    assert found[WORSE] <= bound(0.001)[1]


def test_a_difference_as_large_as_the_margin_is_seldom_called_equivalent() -> None:
    random, plan = np.random.default_rng(), plan_of(margin=0.02, sweep=None)
    words = Counter(verdicts(plan, Simulated(random, effects={"b": 0.02}))[0].word for _ in range(STUDIES))
    low, high = bound(plan.alpha)
    assert low <= words[EQUIVALENT] <= high


def test_arms_that_are_the_same_are_called_equivalent_where_the_margin_is_wide() -> None:
    random, plan = np.random.default_rng(), plan_of(margin=0.05)
    words = Counter(verdicts(plan, Simulated(random))[0].word for _ in range(200))
    assert words[EQUIVALENT] > 190


@pytest.mark.parametrize("own_seeds", [True, False])
def test_a_wider_sweep_gains_nothing_because_it_has_seeds_of_its_own(own_seeds: bool) -> None:
    """One arm tries 3 rates and the other 16, all equally good. Judged by the runs that chose, the second would win."""
    random, rates = np.random.default_rng(), [round(1e-4 * 1.3**n, 9) for n in range(16)]
    arms = {"a": Arm.model_validate({}), "b": Arm.model_validate({"lr": rates})}
    plan = plan_of(margin=1e-6, sweep={"lr": [1e-3, 3e-3, 1e-2], "widen": 0}).model_copy(update={"arms": arms})
    alarms = 0
    for _ in range(STUDIES // 4):
        executor = Simulated(random, curvature=0.0)
        if own_seeds:
            alarms += verdicts(plan, executor)[0].word in (BETTER, WORSE)
            continue
        lowest = {
            arm: {seed: min(executor.score(_job(arm, seed, rate)).val_loss for rate in tried) for seed in plan.seeds}
            for arm, tried in (("a", rates[:3]), ("b", rates))
        }
        alarms += decide(plan, arms_against_control(plan), lowest)[0].word in (BETTER, WORSE)
    most = stats.binom.isf(RARELY, STUDIES // 4, plan.alpha)
    assert (alarms <= most) == own_seeds


def test_only_the_runs_of_the_claim_are_scored_on_the_test_split() -> None:
    """What is tried, or measures the noise, is judged on validation."""
    jobs = list(planned(fixed(plan_of(noise=None, noise_from="", pilot=2))))
    assert {job.seed for job in jobs} == {1, 2, 3, 4, 5, 1001, 2001, 2002}
    assert {job.seed for job in jobs if job.test} == {1, 2, 3, 4, 5}


def _job(arm: str, seed: int, rate: float) -> Job:
    return Job("", arm, seed, rate, "", (), 1)


def test_an_edge_that_wins_is_widened_until_the_best_lies_inside() -> None:
    plan = plan_of(sweep={"lr": [1e-5, 3e-5, 1e-4], "widen": 10})
    executor = Simulated(np.random.default_rng(), noise=1e-4)
    choice = conduct(fixed(plan), executor, quiet).rates["b"]
    assert not choice.edge
    assert abs(np.log(choice.rate / BEST)) < np.log(3)
    assert {job.seed for job in executor.ran if job.seed > 1000}.isdisjoint(plan.seeds)
    claimed = [job for job in executor.ran if job.seed in plan.seeds]
    assert {job.rate for job in claimed if job.arm == "b"} == {choice.rate}
    assert 0.5 < choice.rate / BEST < 2
    stuck = plan_of(sweep={"lr": [1e-5, 3e-5, 1e-4], "widen": 1})
    assert conduct(fixed(stuck), Simulated(np.random.default_rng(), noise=1e-4), quiet).rates["b"].edge


def test_seeds_are_paired() -> None:
    """What is the same for all arms of a seed is ten times the noise, and costs nothing."""
    plan = plan_of(margin=1e-6)
    one = verdicts(plan, Simulated(np.random.default_rng(), effects={"b": 0.1}, noise=1e-3))[0]
    assert one.word == WORSE
    assert one.estimate.sd < 0.01


def test_claims_compare_groups_and_spreads() -> None:
    """Per seed, the mean or the spread of one side minus that of the other: numbers worked out by hand."""
    claims = [
        {"says": "mean", "left": ["a", "b"], "right": ["c", "d"]},
        {"says": "spread", "left": ["a", "b"], "right": ["c", "d"], "of": "spread"},
    ]
    plan = plan_of("abcd", claims=claims, seeds=2)
    from nanogpt.study.verdict import claims as family

    losses = {"a": {1: 1.0, 2: 2.0}, "b": {1: 2.0, 2: 5.0}, "c": {1: 4.0, 2: 4.0}, "d": {1: 4.5, 2: 4.0}}
    mean, spread = decide(plan, family(plan), losses)
    assert mean.differences == (1.5 - 4.25, 3.5 - 4.0)
    assert spread.differences == (1.0 - 0.5, 3.0 - 0.0)


def test_one_more_seed_is_said_as_one() -> None:
    """Differences that come nearer and nearer to what three seeds can tell."""
    plan, said = plan_of(seeds=3, margin=0.05), set()
    for shift in np.linspace(0.03, 0.2, 200):
        losses = {"a": {1: 2.0, 2: 2.0, 3: 2.0}, "b": {1: 2 + shift - 0.03, 2: 2 + shift, 3: 2 + shift + 0.03}}
        one = decide(plan, arms_against_control(plan), losses)[0]
        if one.word == UNKNOWN:
            assert f"({one.more_seeds} more seed{'' if one.more_seeds == 1 else 's'})" in one.sentence
            said.add(one.more_seeds)
    assert {1, 2} <= said


def test_more_seeds_are_asked_for_until_they_settle_it() -> None:
    """The number that "cannot tell yet" names finds what was seen, with the planned power."""
    plan = plan_of(seeds=3, margin=0.05)
    losses = {"a": {1: 2.0, 2: 2.0, 3: 2.0}, "b": {1: 2.03, 2: 2.10, 3: 2.08}}
    one = decide(plan, arms_against_control(plan), losses)[0]
    assert one.word == UNKNOWN
    assert one.more_seeds is not None
    assert f"{one.more_seeds} more seeds" in one.sentence
    random = np.random.default_rng()
    n = 3 + one.more_seeds
    draws = random.normal(one.estimate.mean, one.estimate.sd, (STUDIES, n))
    settled = 0
    bigger = plan_of(seeds=n, margin=0.05)
    for row in draws:
        again = {"a": dict.fromkeys(bigger.seeds, 2.0), "b": dict(zip(bigger.seeds, 2.0 + row, strict=True))}
        settled += decide(bigger, arms_against_control(bigger), again)[0].word != UNKNOWN
    assert settled >= bound(plan.power)[0]


@pytest.mark.parametrize(("mean", "word"), [(-0.2, BETTER), (0.2, WORSE), (0.001, EQUIVALENT)])
def test_a_verdict_is_a_sentence_and_no_bare_p_value(mean: float, word: str) -> None:
    plan = plan_of(seeds=4, margin=0.05)
    losses = {"a": dict.fromkeys(plan.seeds, 2.0), "b": {s: 2 + mean + 1e-3 * (-1) ** s for s in plan.seeds}}
    one = decide(plan, arms_against_control(plan), losses)[0]
    assert one.word == word
    assert one.sentence.startswith(word)
    assert "nats per token" in one.sentence
    assert "p =" not in one.sentence
