"""The statistics of studies against scipy, simulation, and definitions that are worked out in another way."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nanogpt.study.statistics import (
    bootstrap,
    detectable,
    estimate,
    holm,
    holm_levels,
    power,
    power_equivalence,
    seeds_to_detect,
    seeds_to_settle,
)

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.floats(0.01, 3), st.floats(0.001, 0.3))
@settings(max_examples=60, deadline=None)
def test_an_estimate_is_scipys(values: list[float], margin: float, alpha: float) -> None:
    if np.std(values) < 1e-6:
        return
    one = estimate(values, margin, alpha)
    test = stats.ttest_1samp(values, 0.0)
    interval = test.confidence_interval(1 - alpha)
    lower = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    upper = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert one.p == pytest.approx(test.pvalue, abs=1e-9)
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert one.p_matters == pytest.approx(max(lower, upper), abs=1e-9)


def test_arms_that_are_the_same_to_the_last_bit_are_equivalent() -> None:
    same, shifted = estimate([0.0] * 3, 0.1, 0.05), estimate([0.5] * 3, 0.1, 0.05)
    assert (same.p, same.p_matters) == (1, 0)
    assert (shifted.p, shifted.p_matters) == (0, 1)


@given(P_VALUES)
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    """An hypothesis is rejected when every set of hypotheses that holds it is, each at its Bonferroni level."""
    for n, adjusted in enumerate(holm(p)):
        sets = [s for k in range(1, len(p) + 1) for s in combinations(range(len(p)), k) if n in s]
        assert adjusted == pytest.approx(max(min(1.0, len(s) * min(p[m] for m in s)) for s in sets))


@given(P_VALUES, st.floats(0.01, 0.2))
def test_holms_levels_reject_what_his_adjusted_values_do(p: list[float], alpha: float) -> None:
    levels = holm_levels(p, alpha)
    for one, level, adjusted in zip(p, levels, holm(p), strict=True):
        if abs(adjusted - alpha) > 1e-12:
            assert (one <= level) == (adjusted <= alpha)
    assert holm_levels([0.001, 0.2, 0.02, 0.03], 0.05) == pytest.approx([0.05 / 4, 0.05 / 3, 0.05 / 3, 0.05 / 3])


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_is_that_of_the_noncentral_t(n: int, alpha: float) -> None:
    critical, shift = stats.t.isf(alpha / 2, n - 1), 1.5 * n**0.5
    expected = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert power(1.5, 1.0, n, alpha) == pytest.approx(expected, abs=1e-4)
    assert power(0.0, 1.0, n, alpha) == pytest.approx(alpha, abs=1e-3)


def test_power_of_equivalence_is_what_simulated_studies_find() -> None:
    n, runs, truth, margin = 7, 20_000, 0.3, 1.2
    draws = np.random.default_rng(5).normal(truth, 1.0, (runs, n))
    found = np.mean([estimate(row, margin, 0.05).p_matters <= 0.05 for row in draws[:2000]])
    expected = power_equivalence(truth, margin, 1.0, n, 0.05)
    assert abs(found - expected) < 5 * (expected * (1 - expected) / 2000) ** 0.5


@given(st.floats(0.001, 10), st.integers(2, 20), st.floats(0.005, 0.1), st.floats(0.6, 0.95))
@settings(max_examples=30, deadline=None)
def test_what_is_detectable_needs_that_many_seeds(sd: float, n: int, alpha: float, wanted: float) -> None:
    smallest = detectable(sd, n, alpha, wanted)
    assert power(smallest, sd, n, alpha) == pytest.approx(wanted, abs=1e-3)
    assert seeds_to_detect(smallest * 1.001, sd, alpha, wanted) == n
    assert seeds_to_detect(smallest * 0.999, sd, alpha, wanted) in (n + 1, None)


def test_seeds_that_settle_are_the_fewest_of_the_two_ways() -> None:
    clear = seeds_to_settle(0.1, 0.05, 0.02, 0.05, 0.05, 0.8)
    assert clear == seeds_to_detect(0.1, 0.05, 0.05, 0.8)
    none = seeds_to_settle(0.0, 0.05, 0.1, 0.05, 0.05, 0.8)
    assert none is not None
    assert power_equivalence(0.0, 0.1, 0.05, none, 0.05) >= 0.8 > power_equivalence(0.0, 0.1, 0.05, none - 1, 0.05)
    assert seeds_to_settle(1e-6, 1.0, 1e-3, 0.05, 0.05, 0.8) is None


def test_no_more_seeds_are_asked_for_than_a_plan_may_have() -> None:
    """Searched for by halving, whose steps go beyond 1,000."""
    answers = [seeds_to_detect(difference, 1.0, 0.05, 0.8) for difference in np.linspace(0.085, 0.095, 60)]
    numbers = [n for n in answers if n is not None]
    assert None in answers and 990 < max(numbers) <= 1000
    assert numbers == sorted(numbers, reverse=True)


def test_the_bootstrap_is_the_same_each_time_and_scipys() -> None:
    values = np.random.default_rng(3).normal(0.2, 1.0, 40)
    scipys = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999).confidence_interval
    assert bootstrap(values, 0.05) == bootstrap(values, 0.05)
    assert bootstrap(values, 0.05) == pytest.approx((scipys.low, scipys.high), abs=0.03)
