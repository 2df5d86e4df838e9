"""Studies without training: what a run would score is drawn at random, through the same executor's method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from nanogpt.study.execution import Job, Said, Score
from nanogpt.study.fixed import Fixed, FixedArm
from nanogpt.study.plan import Plan, read

BEST = 3e-3
"""The learning rate at which a simulated run is best."""


def quiet(job: Job, facts: Any) -> None:
    """Nobody listens."""


def plan_of(arms: Sequence[str] = ("a", "b"), **fields: Any) -> Plan:
    table: dict[str, Any] = {
        "name": "simulated",
        "question": "Is b better than a?",
        "arms": {arm: [] for arm in arms},
        "control": arms[0],
        "seeds": 5,
        "noise": 0.01,
        "margin": 0.05,
        "sweep": {"lr": [1e-3, 3e-3, 1e-2]},
    }
    return read({**table, **fields})


def fixed(plan: Plan) -> Fixed:
    arm = FixedArm("modern", (), "", 0.0, 0.0, 10, 1.0, 10, 100, 0.1, 0.0, 1.0)
    return Fixed(plan, dict.fromkeys(plan.arms, arm), 1, 1)


@dataclass
class Simulated:
    """A loss is 2, plus what is the same for every arm of a seed, plus the arm's own effect, a parabola in log rate,
    and noise of which validation and test share half the variance."""

    random: np.random.Generator
    noise: float = 0.01
    effects: dict[str, float] = field(default_factory=dict)
    curvature: float = 0.02
    ran: list[Job] = field(default_factory=list)

    def run(self, jobs: Sequence[Job], said: Said) -> Iterator[tuple[Job, Score]]:
        for job in jobs:
            self.ran.append(job)
            yield job, self.score(job)

    def score(self, job: Job) -> Score:
        shared = _shared(job.seed)
        away = 0.0 if job.rate is None else np.log(job.rate / BEST) ** 2
        own, val, test = self.random.normal(0, self.noise / 2, 3)  # two arms: the difference has this deviation
        base = 2 + shared + self.effects.get(job.arm, 0.0) + self.curvature * away + own
        tested = (base + test, 1.0) if job.test else (None, None)
        return Score(base + val, 1.0, *tested, 1.0, None, 100)


@cache
def _shared(seed: int) -> float:
    return float(np.random.default_rng(seed).normal(0, 0.1))
