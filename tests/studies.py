"""Studies without training: what a run would score is drawn at random, through the same executor's method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.config import compose
from nanogpt.runs import Run
from nanogpt.study.execution import Job, Said, Score
from nanogpt.study.fixed import Fixed, FixedArm
from nanogpt.study.folder import Study
from nanogpt.study.plan import Plan
from nanogpt.study.reading import read

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
        "noise_from": "known",
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
        loss, bpb = (base + test, 1.0) if job.test else (None, None)
        return Score(base + val, 1.0, loss, bpb, 1.0, None, 100)


@cache
def _shared(seed: int) -> float:
    return float(np.random.default_rng(seed).normal(0, 0.1))


@dataclass
class Left:
    """Leaves folders as runs would, with the scores that another executor gives."""

    scores: Any
    looks: int = 3
    """Steps, each of which looks at validation; the only one that does where there is one."""

    def run(self, jobs: Sequence[Job], said: Said) -> Iterator[tuple[Job, Score]]:
        for job, score in self.scores.run(jobs, said):
            run = Run.create(job.folder, job.name, compose(job.preset, job.overrides))
            for step in (1, 2, 3):
                loss = score.val_loss + 1 / step
                seen = {"val/loss": loss, "val/bpb": 1.0} if self.looks == 3 or step == 3 else {}
                run.log({"step": step, "seconds": 0.1 * step, "train/loss": loss, **seen})
            yield job, score


@dataclass
class Given:
    """Losses that are known beforehand: 2 for every arm, more or less by what is given for each seed, from 1."""

    more: dict[str, Sequence[float]]

    def run(self, jobs: Sequence[Job], said: Said) -> Iterator[tuple[Job, Score]]:
        for job in jobs:
            loss = 2 + (self.more[job.arm][job.seed - 1] if job.arm in self.more else 0.0)
            yield job, Score(loss, 1.0, loss, 1.0, 1.0, None, 100)


def finished(folder: Path, executor: Any, **fields: Any) -> Study:
    """A study of three arms that has ended, in a folder of its own."""
    (folder / "text.txt").write_text("".join(f"line {n} of a text\n" for n in range(200)))
    tiny = ["tokenizer=char", "model.dim=8", "model.n_layers=1", "model.context=8", "train.batch=2", "train.steps=3"]
    table: dict[str, Any] = {
        "name": "drawn", "folder": str(folder), "question": "Is b better?", "preset": "gpt-64",
        "set": [f"data.corpus={folder / 'text.txt'}", *tiny], "control": "a", "seeds": 4, "margin": 0.05,
        "arms": {"a": [], "b": ["model.norm=rmsnorm"], "c": ["model.norm=none"]}, "noise": 0.01, "noise_from": "known",
    }  # fmt: skip
    begun = Study.begin(read({**table, **fields}), folder, 1, 1)
    begun.conduct(executor, quiet)
    return Study.open(begun.path)
