"""From where on something is called ill: every threshold with its source, or the reason for it."""

from __future__ import annotations

import math
from typing import NamedTuple

from nanogpt.observers.findings import Level


class Limit(NamedTuple):
    """`warn` and `bad`: values from which on a finding has that level. A ratio's holds for its inverse too."""

    warn: float
    bad: float
    why: str


NEVER = math.inf
"""What is not ideal, and kills nobody."""
LIMITS: dict[str, Limit] = {
    "dead": Limit(0.25, 0.40, "CS231n (Karpathy 2015): 40% are a sign; a fifth falls silent for a while in young ones"),
    "rare": Limit(0.50, 0.90, "active on under 1% of tokens; a sparse layer is ordinary (T5's: Li et al. 2022)"),
    "always": Limit(0.50, NEVER, "a rectifier that never closes is linear: half of a layer is then no activation"),
    "saturated": Limit(0.35, 0.60, "makemore part 3: 20% at the first tanh still trains, gain 3 saturates most of it"),
    "gradient": Limit(1e2, 1e4, "first layer over last: 0.63 or 1.6 a layer over ten; Adam forgives, SGD does not"),
    "activation": Limit(1e2, 1e4, "last layer over first, where no residual carries the signal past"),
    "stream": Limit(1e3, 1e5, "RMS, last block over first: every pre-norm model's grows; float16 ends at 6.5e4"),
    "too low": Limit(10**-4.5, 10**-6, "update over data, 30 times below makemore part 3's 1e-3"),
    "too high": Limit(0.10, 0.50, "update over data: a matrix made anew in ten steps; Muon's 0.02 to 0.05 is well"),
    "adds nothing": Limit(1e-3, -NEVER, "a block over its stream: Gromov et al. 2024 leave out what changes it least"),
    "entropy": Limit(0.05, 0.01, "nats, every head of a layer: entropy collapse, Zhai et al. 2023 (arXiv:2303.06296)"),
    "uniform": Limit(0.005, -NEVER, "share of ln(seen) by which every head of a layer misses the uniform entropy"),
    "logit": Limit(100, 1e4, "100: QK-clip of Kimi K2 (2025); 1e4: losses diverge in Wortsman et al. 2023"),
    "calibration": Limit(0.10, NEVER, "expected error: 4% to 16% is what Guo et al. 2017 call miscalibrated"),
}
"""Nobody's network is ill because of one number: what is within these is called well."""

USUAL = 1e-3
"""Update over data in a network that learns well, by makemore part 3: one part in a thousand a step."""
RARE = 0.01
"""Share of tokens under which a unit is rarely active, and above 1 minus which always."""
GROWN = 0.2
"""Share of a run after which is asked what training made of a network; before, only whether it can train at all."""
YOUNG = 20
"""Steps before which that is not asked either."""
LATE = 1000
"""Steps before which heads that look at all alike are called young: they start so, and leave it one after the other."""


def worse(value: float, name: str) -> float:
    """How far beyond its limit for a warning a value is that should be small: 1 at the limit, more beyond."""
    return value / LIMITS[name].warn


def level(value: float, name: str) -> Level:
    """Of a value of which more is worse."""
    limit = LIMITS[name]
    return "bad" if value >= limit.bad else "warn" if value >= limit.warn else "good"


def level_below(value: float, name: str) -> Level:
    """Of a value of which less is worse."""
    limit = LIMITS[name]
    return "bad" if value <= limit.bad else "warn" if value <= limit.warn else "good"
