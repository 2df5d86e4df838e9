"""Learning rate over a run, as a share of the optimizer's own. Pure functions of (step, steps): nothing to save.

Every schedule may begin with a warm-up, a straight rise over `warmup` steps (or that share of the run, below 1), or
over the whole run where that is shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from nanogpt.errors import UserError
from nanogpt.parts import at_least
from nanogpt.spec import Value, to_text


class Schedule:
    """`schedule(step, steps)` is the share of the base rate in step 0, 1, ... steps - 1."""

    warmup: float

    def __call__(self, step: int, steps: int) -> float:
        warmup = length(self.warmup, steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return self.after(step, warmup, steps)

    def after(self, step: int, warmup: int, steps: int) -> float:
        raise NotImplementedError


def length(value: float, steps: int) -> int:
    """A number of steps, or a share of the run where it is below 1; not more than the run has."""
    return min(steps, unbounded(value, steps))


def unbounded(value: float, steps: int) -> int:
    return round(value * steps) if value < 1 else round(value)


def share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name}={value} must lie between 0 and 1; nearest: {min(1, max(0, value)):g}")


class Constant(Schedule):
    """The base rate throughout, after the warm-up.

    warmup: steps, or a share of the run below 1, of a straight rise.
    """

    def __init__(self, *, warmup: float = 0.0) -> None:
        at_least(0, warmup=warmup)
        self.warmup = warmup

    def after(self, step: int, warmup: int, steps: int) -> float:
        return 1.0


class Linear(Schedule):
    """Falls in a straight line to the share `final`, which it would reach in the step after the last.

    warmup: as constant's. final: share of the base rate at the end.
    """

    def __init__(self, *, warmup: float = 0.0, final: float = 0.0) -> None:
        at_least(0, warmup=warmup)
        share(final=final)
        self.warmup, self.final = warmup, final

    def after(self, step: int, warmup: int, steps: int) -> float:
        return self.final + (1 - self.final) * (1 - _done(step, warmup, steps))


class Cosine(Schedule):
    """Falls along half a cosine to `final` (Loshchilov and Hutter 2017, arXiv:1608.03983); step for step nanoGPT's.

    warmup: as constant's. final: share of the base rate at the end.
    """

    def __init__(self, *, warmup: float = 0.0, final: float = 0.1) -> None:
        at_least(0, warmup=warmup)
        share(final=final)
        self.warmup, self.final = warmup, final

    def after(self, step: int, warmup: int, steps: int) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * _done(step, warmup, steps)))


class WSD(Schedule):
    """Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395): full rate until the last `decay` steps, then a line.

    The long stable part is the same whatever the run's length: more steps can be added to a run that has not decayed.
    warmup: as constant's. decay: steps, or a share of the run below 1. final: share of the base rate at the end.
    """

    def __init__(self, *, warmup: float = 0.0, decay: float = 0.2, final: float = 0.0) -> None:
        at_least(0, warmup=warmup, decay=decay)
        share(final=final)
        self.warmup, self.decay, self.final = warmup, decay, final

    def after(self, step: int, warmup: int, steps: int) -> float:
        # `decay=1` is one step, as in every count: a decay over the whole run is `linear`.
        start = max(warmup, steps - length(self.decay, steps))
        return 1.0 if step < start else self.final + (1 - self.final) * (1 - _done(step, start, steps))


class Step(Schedule):
    """Times `factor` at each milestone: `step(at=0.5, factor=0.1)` is makemore's "0.1, then 0.01 from half way on".

    at: a step's number, or a share of the run where it is below 1; or a list of them, `step(at=[0.5, 0.75])`; by
    default half way. every: instead, each so many steps (or that share of the run). factor: from 0 to 1.
    warmup: as constant's.
    """

    def __init__(self, *, at: Value = 0.0, factor: float = 0.1, every: float = 0.0, warmup: float = 0.0) -> None:
        share(factor=factor)
        at_least(0, every=every, warmup=warmup)
        given = at if isinstance(at, list) else [at] if at else []
        numbers = [float(m) for m in given if isinstance(m, (int, float)) and m > 0]
        if len(numbers) != len(given) or (isinstance(at, list) and not at):
            raise UserError(f"at={to_text(at)} must be steps or shares of the run above 0; nearest: 0.5")
        if numbers and every:
            raise UserError("at and every: the rate falls either at milestones or at equal distances; give one of them")
        self.at: Value = at if numbers or every else 0.5
        self.factor, self.every, self.warmup = factor, every, warmup
        self._milestones = numbers or ([] if every else [0.5])

    def after(self, step: int, warmup: int, steps: int) -> float:
        if self.every:
            return self.factor ** (step // max(1, length(self.every, steps)))
        return self.factor ** sum(step >= length(m, steps) for m in self._milestones)


class InverseSqrt(Schedule):
    """sqrt(w / n) in step n = 1, 2, ... after w steps, which rise to 1 or are flat: no end of the run is assumed.
    Vaswani et al. 2017, section 5.3 (theirs also has the factor dim^-0.5, which is the optimizer's lr here).

    warmup: w - 1 steps, also where the run is shorter, or that share of it. before: "rise", a straight line; "flat",
    the full rate, as T5's 1 / sqrt(max(n, 10,000)) (Raffel et al. 2020, section 3.1.2).
    """

    def __init__(self, *, warmup: float = 0.05, before: Literal["rise", "flat"] = "rise") -> None:
        at_least(0, warmup=warmup)
        self.warmup, self.before = warmup, before

    def __call__(self, step: int, steps: int) -> float:
        w, n = unbounded(self.warmup, steps) + 1, step + 1
        if n >= w:
            return math.sqrt(w / n)
        return 1.0 if self.before == "flat" else n / w


def _done(step: int, start: int, steps: int) -> float:
    """How far the way from `start` to `steps` has been gone, 0 to 1."""
    return min(1.0, (step - start) / max(1, steps - start))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "wsd": WSD,
    "step": Step,
    "inverse_sqrt": InverseSqrt,
}
