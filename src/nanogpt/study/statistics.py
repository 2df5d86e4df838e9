"""Paired differences between seeds: intervals, tests, and how many seeds they need.

The t interval is the primary one: with five seeds a bootstrap has hardly more values than the data and is too narrow
(it stands beside). Several comparisons share the false alarms by Holm (1979); "no difference that matters" is tested by
two one-sided tests against the margin (Schuirmann 1987); power is integrated over the estimated standard deviation.

Where each arm's learning rate was chosen, on seeds of its own, the choice is noisy too, and the same for all seeds of
the claim, so their spread does not show it: an arm that had bad luck is a little worse in every pair. CHOICE bounds
what that adds (docs/studies.md), and every interval and test here is so much wider: `extra` is CHOICE over the seeds of
the sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import ndtr

Numbers = NDArray[np.float64]
RESAMPLES = 9999
CHOICE = 0.15
"""Variance that choosing on one seed adds to a mean difference, at most, as a share of the variance of one difference:
simulated over all curvatures of the valley of learning rates (tests/test_study_engine.py holds it to that)."""
MOST_SEEDS = 1000
"""Beyond it the answer to "how many seeds" is: not this way."""
QUANTILES = 1000
"""Of the chi distribution, over which a power is averaged."""


@dataclass(frozen=True)
class Estimate:
    """The mean of paired differences. low, high: its interval. p: two-sided, of no difference at all; p_matters: of a
    difference that is at least the margin (the larger of the two one-sided tests)."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    p: float
    p_matters: float


def estimate(differences: Sequence[float] | Numbers, margin: float, alpha: float, extra: float = 0.0) -> Estimate:
    """Of at least two differences, with a t interval of confidence 1 - alpha."""
    values = np.asarray(differences, float)
    n, mean, sd = len(values), float(np.mean(values)), float(np.std(values, ddof=1))
    error = sd * math.sqrt(1 / n + extra)
    half = half_width(sd, n, alpha, extra)
    if error == 0:  # the arms are the same to the last bit, or differ by the same in every seed
        return Estimate(n, mean, sd, mean, mean, float(mean == 0), float(abs(mean) >= margin))
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    p_matters = float(stats.t.sf((margin - abs(mean)) / error, n - 1))
    return Estimate(n, mean, sd, mean - half, mean + half, p, p_matters)


def half_width(sd: float, n: int, alpha: float, extra: float = 0.0) -> float:
    """Of the t interval of n differences with this standard deviation."""
    return float(stats.t.isf(alpha / 2, n - 1)) * sd * math.sqrt(1 / n + extra)


def bootstrap(differences: Sequence[float] | Numbers, alpha: float) -> tuple[float, float]:
    """The percentile interval of the mean; the same each time."""
    values = np.asarray(differences, float)
    means = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of a family, adjusted: each below alpha then is one that Holm's procedure rejects at alpha."""
    order = np.argsort(p_values)
    adjusted, highest = [0.0] * len(order), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """The level at which Holm's procedure tests each: alpha over all for the smallest, over one fewer for the next, and
    from the first that is not rejected on, the level at which that one was not. Rejected: p at most its level."""
    order = np.argsort(p_values)
    levels, stopped = [0.0] * len(order), 0.0
    for rank, place in enumerate(order):
        levels[place] = stopped or alpha / (len(order) - rank)
        if p_values[place] > levels[place]:
            stopped = levels[place]
    return levels


def power(difference: float, sd: float, n: int, alpha: float, extra: float = 0.0) -> float:
    """Chance that a two-sided t test of n pairs finds this true difference."""
    shift = difference / sd * math.sqrt(n)
    reach = stats.t.isf(alpha / 2, n - 1) * _spreads(n - 1) * math.sqrt(1 + n * extra)
    return float(np.mean(ndtr(shift - reach) + ndtr(-shift - reach)))


def power_equivalence(difference: float, margin: float, sd: float, n: int, alpha: float, extra: float = 0.0) -> float:
    """Chance that two one-sided tests show this true difference to be within the margin."""
    scale = math.sqrt(n) / sd
    room = margin * scale - stats.t.isf(alpha, n - 1) * _spreads(n - 1) * math.sqrt(1 + n * extra)
    inside = ndtr(room - difference * scale) - ndtr(-room - difference * scale)
    return float(np.mean(np.where(room > 0, inside, 0.0)))


@lru_cache(maxsize=4096)
def _spreads(freedom: int) -> Numbers:
    """Estimated over true standard deviation: its quantiles, over which a power is averaged. The same integral as the
    noncentral t distribution, whose functions in scipy answer NaN in its far tails."""
    return np.sqrt(stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, freedom) / freedom)


def detectable(sd: float, n: int, alpha: float, wanted: float, extra: float = 0.0) -> float:
    """The smallest true difference that n pairs find with the wanted power."""
    high = sd
    while power(high, sd, n, alpha, extra) < wanted:
        high *= 2
    return float(optimize.brentq(lambda d: power(d, sd, n, alpha, extra) - wanted, 0.0, high, xtol=1e-6 * sd))


def seeds_to_detect(difference: float, sd: float, alpha: float, wanted: float, extra: float = 0.0) -> int | None:
    """The fewest pairs that find it with the wanted power; None where more than MOST_SEEDS would be needed."""
    return _fewest(lambda n: power(difference, sd, n, alpha, extra) >= wanted)


def seeds_to_settle(mean: float, sd: float, margin: float, alpha: float, alpha_matters: float,
                    wanted: float, extra: float = 0.0) -> int | None:  # fmt: skip
    """The fewest pairs that settle it if the truth is what was seen: that find the difference, or show it too small to
    matter, whichever takes fewer."""
    ways = [_fewest(lambda n: power(mean, sd, n, alpha, extra) >= wanted)] if mean else []
    if abs(mean) < margin:
        ways.append(_fewest(lambda n: power_equivalence(mean, margin, sd, n, alpha_matters, extra) >= wanted))
    return min((n for n in ways if n is not None), default=None)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """By halving: the smallest n from 2 that is enough, where more always is."""
    low, high = 1, 2
    while not enough(high):
        if high == MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
