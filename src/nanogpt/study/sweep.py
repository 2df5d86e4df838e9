"""The learning rate of each arm: tried on seeds of its own, chosen on validation, widened where an edge wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """What was chosen, and whether better could lie beyond what was tried."""

    rate: float
    tried: Mapping[float, float]
    """Rate -> mean loss on validation."""

    @property
    def edge(self) -> bool:
        return self.rate in (min(self.tried), max(self.tried))


def choose(tried: Mapping[float, Sequence[float]]) -> Choice:
    """The rate with the lowest mean validation loss, the lower of two that are equal."""
    means = {rate: float(np.mean(losses)) for rate, losses in sorted(tried.items())}
    return Choice(min(means, key=lambda rate: means[rate]), means)


def wider(choice: Choice) -> float | None:
    """The next rate beyond an edge that won, by the factor of its neighbour; None where the best lies inside."""
    rates = sorted(choice.tried)
    if choice.rate == rates[0]:
        return rounded(rates[0] ** 2 / rates[1])
    if choice.rate == rates[-1]:
        return rounded(rates[-1] ** 2 / rates[-2])
    return None


def rounded(rate: float) -> float:
    """To three digits, as it is written in a run's name."""
    return float(f"{rate:.3g}")
