"""The plan of a study: what is compared with what, at which cost, how often, and what would count as an answer.

A plan is a small TOML file, or `Plan(...)` in Python. Everything that could be bent after the results are known (the
primary measurement, the test, the margin, the criterion of "reproduced") is a field of it, so it is fixed before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, model_validator

from nanogpt.study.short import written_out

SWEEP_SEEDS, PILOT_SEEDS = 1000, 2000
"""Learning rates are chosen on seeds from 1001, a pilot has those from 2001; the claim has 1, 2, ... or those named."""
Budget = Literal["none", "params", "flops", "tokens", "seconds"]
Expected = Literal["better", "worse", "equivalent", "not worse", "different"]
Statistic = Literal["mean", "spread"]
Patterns = list[str]
LEAST = 1e-20
"""Of what is swept; the most is one over it."""


def rounded(rate: float) -> float:
    """To three digits, as it is written in a run's name."""
    return float(f"{rate:.3g}")


def _spaced(rates: list[float]) -> list[float]:
    """What can be swept: a valley needs a rate on each side of it."""
    if len(rates) < 3 or any(one >= other for one, other in pairwise(rates)):
        raise ValueError("at least three rates, each above the one before; as in [1e-3, 3e-3, 1e-2]")
    if not LEAST <= rates[0] <= rates[-1] <= 1 / LEAST:
        raise ValueError(f"rates from {LEAST:g} to {1 / LEAST:g}")
    if alike := [pair for pair in pairwise(rates) if rounded(pair[0]) == rounded(pair[1])]:
        raise ValueError(f"{alike[0][0]!r} and {alike[0][1]!r} are the same rate in three digits, as runs are named")
    return rates


Rates = Annotated[list[float], AfterValidator(_spaced)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Arm(Section):
    """One of the things that are compared: named changes of the base."""

    set: list[str] = Field([], description="overrides, as on the command line: model.ffn=geglu")
    preset: str | None = Field(None, description="another preset than the study's")
    solve: str | None = Field(None, description="the whole number that is solved for so that the budget is met")
    lr: Rates | None = Field(None, description="learning rates to begin the sweep with, where they differ")
    reference: float | None = Field(None, description="the published number, shown beside ours")
    about: str = Field("", description="a few words")


class Sweep(Section):
    """Learning rates, tried for each arm on seeds of their own; the best one on validation is the arm's."""

    lr: Rates = Field(description="at least three, evenly spaced on a log scale; an edge that wins is widened")
    seeds: int = Field(1, ge=1, le=100, description="runs of each rate, on seeds that the claim never sees")
    widen: int = Field(3, ge=0, le=20, description="times that a winning edge may be widened")
    key: str = Field("optim.optimizer.lr", description="what is swept")


class Claim(Section):
    """One comparison that the study is for: a statistic of the arms on the left minus that of those on the right.

    left, right: names of arms, or patterns of them (`*-none`). of: their mean, or their spread (largest minus
    smallest: how much the choice among them matters). expect: the verdict under which the claim counts as reproduced.
    """

    says: str
    left: Patterns
    right: Patterns
    expect: Expected = "better"
    of: Statistic = "mean"


class Check(Section):
    """A number beside a published one or between bounds: what else has to hold for "reproduced".

    number: `test/ARM`, `val/ARM` (mean over seeds, nats per token), `params/ARM`, or one that `measure` answers.
    """

    number: str
    says: str = ""
    reference: float | None = None
    tolerance: float | None = Field(None, ge=0, description="largest distance from the reference")
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _can_fail(self) -> Check:
        if self.tolerance is not None and self.reference is None:
            raise ValueError(f"{self.number}: tolerance={self.tolerance:g} of what? it needs a reference")
        if self.at_least is None and self.at_most is None and self.tolerance is None:
            raise ValueError(f"{self.number}: needs reference and tolerance, or at_least or at_most")
        low, high = self.bounds
        if low > high:
            raise ValueError(f"{self.number}: no number is at least {low:g} and at most {high:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the number has to lie."""
        low, high = -math.inf, math.inf
        if self.reference is not None and self.tolerance is not None:
            low, high = self.reference - self.tolerance, self.reference + self.tolerance
        return (max(low, low if self.at_least is None else self.at_least),
                min(high, high if self.at_most is None else self.at_most))  # fmt: skip


class Plan(Section):
    """A study before it has run. See docs/studies.md; `nanogpt study plan NAME` says what it would cost and tell."""

    name: str = Field(description="of its folder", pattern=r"^[A-Za-z0-9_][\w.-]*$", max_length=60)
    question: str = Field(description="one sentence that ends in a question mark")
    source: str = Field("", description="the paper or lecture")
    preset: str = Field("modern", description="the base of every arm")
    set: list[str] = Field([], description="overrides of every arm")
    arms: dict[str, Arm] = Field({}, description="name -> changes of the base")
    control: str | None = Field(None, description="the arm with which each other one is compared")
    match: Budget = Field("none", description="what every arm may spend as much of as the control")
    tolerance: float = Field(0.01, gt=0, lt=1, description="largest share by which a budget may be missed")
    seeds: list[StrictInt] = Field(description="of the claim; a number n stands for 1 ... n")
    metric: Literal["loss", "bpb"] = Field("loss", description="on the test split; bpb where tokenizers differ")
    margin: float = Field(0.02, gt=0, description="the smallest difference that would matter, in units of the metric")
    noise: float | None = Field(None, gt=0, description="assumed standard deviation of a difference between two seeds")
    noise_from: str = Field("", description="where that number comes from")
    pilot: int = Field(0, ge=0, le=100, description="instead of noise: seeds of a pilot that measures it")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="false alarms that are accepted, over all claims (or arms)")
    power: float = Field(0.8, gt=0.5, lt=1, description="chance to find a difference as large as the margin")
    sweep: Sweep | None = Field(None, description="none: each arm's own learning rate is what it is")
    claims: list[Claim] = Field([], description="the criterion of 'reproduced', beside checks")
    checks: list[Check] = []
    reference: str = Field("", description="what the arms' reference numbers are")
    measure: list[str] = Field(
        [], description="functions FILE.py:NAME beside this file, called when all runs are there"
    )
    not_controlled: list[str] = Field([], description="what the author knows to be left open")
    is_quick: bool = Field(False, description="whether it is the quick form")
    folder: str = Field("", description="where this file lies; measure is looked for there")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """`seeds = 5`; an arm that is only a list of overrides; `[grid]`, whose product is the arms."""
        return written_out(data) if isinstance(data, Mapping) else data

    def named(self, patterns: Iterable[str]) -> list[str]:
        """Arms that one of the patterns fits, in the plan's order."""
        return [arm for arm in self.arms if any(fnmatchcase(arm, pattern) for pattern in patterns)]
