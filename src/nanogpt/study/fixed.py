"""The plan as it is fixed before the first run: widths solved, budgets counted, paces measured, what it can tell.
Plain values, kept as plan.json; fixing.py works them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from nanogpt.errors import UserError
from nanogpt.proportions import counted
from nanogpt.study.execution import Job
from nanogpt.study.plan import SWEEP_SEEDS, Plan
from nanogpt.study.verdict import Reach, primary, reach

START_UP = 2.5
"""Seconds from the start of a process to its first step. It trains one run after the other: the next steps within half
a second, which is not counted."""


@dataclass(frozen=True)
class FixedArm:
    """An arm as it will run. `shared`: the share of its parameters that begin as the control's of the same seed do.
    `batches`: what it reads in a step; arms in which that is the same read the same, seed by seed."""

    preset: str
    overrides: tuple[str, ...]
    solved: str
    spent: float
    mismatch: float
    parameters: int
    training_flops: float
    steps: int
    tokens: int
    pace: float
    scoring: float
    shared: float
    batches: str = ""

    @property
    def seconds(self) -> float:
        """Of one run, guessed."""
        return self.pace * self.steps + self.scoring


@dataclass(frozen=True)
class Fixed:
    plan: Plan
    arms: dict[str, FixedArm]
    processes: int
    threads: int
    runs: str = ""
    """Folder of the runs."""

    @property
    def batches(self) -> dict[str, list[str]]:
        """What is read in a step -> the arms that read it. Empty where a plan was fixed without it."""
        found: dict[str, list[str]] = {}
        for name, arm in self.arms.items():
            if arm.batches:
                found.setdefault(arm.batches, []).append(name)
        return found

    def job(self, arm: str, seed: int, rate: float | None) -> Job:
        one, sweep = self.arms[arm], self.plan.sweep
        swept = [] if rate is None or sweep is None else [f"{sweep.key}={rate:g}"]
        name = f"{arm}-lr{rate:g}-seed{seed}" if swept else f"{arm}-seed{seed}"
        overrides = (*one.overrides, *swept, f"seed={seed}")
        claimed = seed <= SWEEP_SEEDS
        return Job(name, arm, seed, rate, one.preset, overrides, one.steps, self.runs, test=claimed)

    def seconds(self, jobs: Sequence[Job]) -> float:
        """Of these runs, guessed: processes start side by side, once."""
        return START_UP + sum(self.arms[job.arm].seconds for job in jobs) / self.processes

    def reach(self, measured: float | None = None) -> Reach | None:
        """What it can tell, by the assumed noise or the pilot's; None where nothing is compared, or not yet known."""
        if not primary(self.plan):
            return None
        if measured is not None:
            return reach(self.plan, measured, f"a pilot of {self.plan.pilot} seeds")
        if self.plan.noise is None:
            return None
        return reach(self.plan, self.plan.noise, f"assumed: {self.plan.noise_from or 'no reason given'}")

    def as_dict(self) -> dict[str, Any]:
        arms = {name: asdict(arm) for name, arm in self.arms.items()}
        return {"plan": self.plan.model_dump(), "arms": arms, "processes": self.processes, "threads": self.threads}

    @staticmethod
    def of(table: Mapping[str, Any], runs: str) -> Fixed:
        """As it was written by `as_dict`."""
        return TypeAdapter(Fixed).validate_python({**table, "runs": runs})


def check_reach(plan: Plan, found: Reach | None) -> None:
    """Refuse a study that could not find the smallest difference that matters, with the numbers that would do."""
    if found is None or found.enough:
        return
    seeds = "no number of seeds up to 1,000 would do" if found.needed is None else f"seeds = {found.needed} would do"
    raise UserError(
        f"study {plan.name}: {counted(found.seeds, 'seed')} cannot tell: with a noise of {found.noise:.3g} "
        f"({found.source}) they find a difference of {found.detectable:.3g} {plan.power:.0%} of the time, the margin "
        f"is {plan.margin:g}; {seeds}, or margin = {_up(found.detectable)}"
    )


def _up(value: float) -> str:
    return f"{value * 1.005:.2g}" if float(f"{value * 1.005:.2g}") >= value else f"{value * 1.06:.2g}"
