"""One view over all runs of a study: how many are done, what each at work is doing, how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from nanogpt.study.conduct import planned
from nanogpt.study.execution import Job
from nanogpt.study.fixed import START_UP, Fixed
from nanogpt.study.plan import SWEEP_SEEDS
from nanogpt.training.progress import duration

SELDOM = 20.0
"""Seconds between two plain lines about runs that have not ended."""


class Count:
    """Runs that are left and the time that they will take. A claim's run is one and the same whatever its rate."""

    def __init__(self, fixed: Fixed) -> None:
        self.fixed = fixed
        self.waiting = {self.key(job): job for job in planned(fixed)}
        self.pace = {name: arm.pace for name, arm in fixed.arms.items()}
        self.at_work: dict[str, tuple[Job, Mapping[str, Any]]] = {}
        self.done = 0

    @staticmethod
    def key(job: Job) -> tuple[str, int, float | None]:
        return job.arm, job.seed, job.rate if job.seed > SWEEP_SEEDS else None

    def __call__(self, job: Job, facts: Mapping[str, Any]) -> None:
        if "ended" in facts:
            self.done += 1
            self.at_work.pop(job.name, None)
            self.waiting.pop(self.key(job), None)
        elif "queued" in facts:
            self.waiting[self.key(job)] = job
        elif "step" in facts:
            self.pace[job.arm] = facts["per_step"]
            self.at_work[job.name] = (job, facts)

    @property
    def total(self) -> int:
        return self.done + len(self.waiting)

    def left(self) -> float:
        """Seconds."""
        seconds = 0.0
        for job in self.waiting.values():
            _, facts = self.at_work.get(job.name, (job, {}))
            seconds += self.pace[job.arm] * (job.steps - facts.get("step", 0)) + self.fixed.arms[job.arm].scoring
        return seconds / self.fixed.processes + (0.0 if self.at_work or self.done else START_UP)


class Lines:
    """Plain lines: one for each run that ends."""

    def __init__(self, count: Count, quiet: bool) -> None:
        self.count, self.quiet, self.said_at = count, quiet, time.monotonic()

    def __call__(self, job: Job, facts: Mapping[str, Any]) -> None:
        self.count(job, facts)
        if "known" in facts or self.quiet:
            return
        ended = facts.get("ended")
        if ended or time.monotonic() - self.said_at > SELDOM:
            self.said_at = time.monotonic()
            what = _ended(job, ended) if ended else f"{job.name} step {facts.get('step', 0)}/{job.steps}"
            print(f"{self.count.done}/{self.count.total} runs  {what}  {duration(self.count.left())} left", flush=True)

    def close(self) -> None:
        pass


class Display:
    """A bar over all runs, a line for each at work; those that ended stay above."""

    def __init__(self, count: Count, console: Console) -> None:
        self.count, self.console = count, console
        self.bar = Progress(TextColumn("runs"), MofNCompleteColumn(), BarColumn(None), TextColumn("{task.description}"))
        self.task = self.bar.add_task("", total=None)
        self.live = Live(self.bar, console=console, refresh_per_second=4)
        self.live.start()

    def __call__(self, job: Job, facts: Mapping[str, Any]) -> None:
        self.count(job, facts)
        if "ended" in facts and "known" not in facts:
            self.console.print(Text(_ended(job, facts["ended"])))
        left = f"{duration(self.count.left())} left"
        self.bar.update(self.task, completed=self.count.done, total=self.count.total, description=left)
        lines = [
            Text(f"  {one.name}  step {seen['step']}/{one.steps}  loss {seen['loss']:.4f}", style="dim")
            for one, seen in self.count.at_work.values()
        ]
        self.live.update(Group(self.bar, *lines))

    def close(self) -> None:
        self.live.stop()


def _ended(job: Job, score: Any) -> str:
    """Without what it has on the test split: that is looked at once, when all is chosen and run."""
    lost = "  diverged" if score.diverged else ""
    return f"{job.name}  val {score.val_loss:.4f}{lost}"


def view(fixed: Fixed, quiet: bool = False) -> Lines | Display:
    """What suits where the output goes."""
    console = Console()
    return Display(Count(fixed), console) if console.is_terminal and not quiet else Lines(Count(fixed), quiet)
