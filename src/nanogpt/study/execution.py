"""Who trains the runs of a study. An executor has one method, so that a cluster's can take the place of this machine's.

    for job, score in executor.run(jobs, said): ...

`said(job, facts)` is told of progress; jobs are answered in whatever order they end. Nothing else is asked of it: what
was finished before is known to the caller (folder.py), and a run that was begun goes on from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Job:
    """One run: an arm, a seed, and the learning rate where one is swept. `folder`: where the run's folder is made.
    Plain values only, so that it can be sent anywhere."""

    name: str
    arm: str
    seed: int
    rate: float | None
    preset: str
    overrides: tuple[str, ...]
    steps: int
    folder: str = ""
    test: bool = True
    """Whether it is scored on the test split: what only helps to choose never sees it."""


@dataclass(frozen=True)
class Score:
    """What became of a run. Losses in nats per token, bpb in bits per byte, of the checkpoint that is best on val; of
    the test split None where the job did not ask."""

    val_loss: float
    val_bpb: float
    test_loss: float | None
    test_bpb: float | None
    seconds: float
    """Spent on training steps."""
    memory: int | None
    """Most bytes that the process held beyond what it began with, or that the device gave; None: not known here."""
    tokens: int
    diverged: bool = False
    """The loss was not finite: counted as the uniform guess."""

    def of(self, split: str, metric: str) -> float:
        value = getattr(self, f"{split}_{metric}")
        assert isinstance(value, float)
        return value


Said = Callable[[Job, Mapping[str, Any]], None]
"""Told of each run: {"queued"}, then {"step", "steps", "per_step" (seconds), "loss"} now and then, then {"ended"}."""


class Executor(Protocol):
    def run(self, jobs: Sequence[Job], said: Said) -> Iterator[tuple[Job, Score]]: ...
