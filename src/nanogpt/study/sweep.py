"""The learning rate of each arm: tried on seeds of its own, chosen on validation, widened where an edge wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nanogpt.study.plan import rounded

STEEPEST = 10.0
"""One neighbour counts as at most so many times as much worse as the other: beyond a cliff, where training diverges,
a loss says nothing about where the valley is. Not less: at 3 two rates that are nearly tied are told apart by noise
again, a quarter of a step to either side, which gave 8 to 12% false alarms with 20 and 50 seeds."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and whether better could lie beyond what was tried."""

    rate: float
    tried: Mapping[float, float]
    """Rate -> mean loss on validation."""

    @property
    def best(self) -> float:
        """Of those tried, the lower of two that are equal."""
        return min(sorted(self.tried), key=lambda rate: self.tried[rate])

    @property
    def edge(self) -> bool:
        return self.best in (min(self.tried), max(self.tried))


def choose(tried: Mapping[float, Sequence[float]]) -> Choice:
    """The bottom of the parabola through the best rate and its neighbours, in the log of the rate; at an edge the best.

    The best of those tried jumps from one rate to the next when noise tips it, which costs as much as the rates lie
    apart, and an arm that was unlucky so would be called worse; the parabola moves as little as the noise does.
    """
    means = {rate: float(np.mean(losses)) for rate, losses in sorted(tried.items())}
    choice = Choice(0.0, means)
    rates = list(means)
    at = rates.index(choice.best)
    if choice.edge:
        return Choice(choice.best, means)
    below, above = means[rates[at - 1]] - means[choice.best], means[rates[at + 1]] - means[choice.best]
    below, above = min(below, STEEPEST * above), min(above, STEEPEST * below)
    aside = 0.5 * (below - above) / (below + above) if below + above else 0.0
    step = rates[at + 1] / rates[at] if aside > 0 else rates[at] / rates[at - 1]
    return Choice(rounded(choice.best * math.exp(aside * math.log(step))), means)


def wider(choice: Choice) -> float | None:
    """The next rate beyond an edge that won, by the factor of its neighbour; None where the best lies inside."""
    rates = sorted(choice.tried)
    if choice.best == rates[0]:
        return rounded(rates[0] ** 2 / rates[1])
    if choice.best == rates[-1]:
        return rounded(rates[-1] ** 2 / rates[-2])
    return None
