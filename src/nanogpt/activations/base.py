"""What every activation is, and how its gain is worked out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from nanogpt.model.part import Part, Rule
from nanogpt.parts import number


class Activation(Part):
    """(..., n) -> (..., n). `gain` is a class attribute, or set by the constructor where knobs decide it."""

    gain: float = 1.0
    inputs: int = 1
    """Numbers that go in for each unit of the hidden width."""
    outputs: int = 1
    """Numbers that come out for each."""


class Identity(Activation):
    """f(x) = x."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Learned(Activation):
    """An activation with numbers of its own, which gradients move.

    They are vectors, also where there is one: the optimizers' groups never decay vectors, and a decay would pull
    PReLU towards ReLU (He et al. 2015, section 2.1).
    """

    def __init__(self) -> None:
        super().__init__()
        self._starts: dict[str, float] = {}

    def learn(self, name: str, size: int, start: float) -> None:
        """Add a vector of `size` numbers that all start at this value."""
        self.register_parameter(name, nn.Parameter(torch.empty(size)))
        self._starts[name] = start

    def rules(self) -> dict[str, Rule]:
        return {name: partial(nn.init.constant_, val=start) for name, start in self._starts.items()}


def widths(act: nn.Module) -> tuple[int, int]:
    """How many numbers an activation, a user's too, takes and gives for each unit."""
    return number(act, "inputs", 1), number(act, "outputs", 1)


def keeping(power: float) -> float:
    """The gain that keeps the variance, from E[f(z)^2]; 1 where f gives nothing, or more than a number holds."""
    return power**-0.5 if 1e-12 < power < 1e12 else 1.0


def mean(f: Callable[[float], float]) -> float:
    """E[f(z)] of a unit Gaussian, by the trapezoidal rule: exact to 1e-8 where f bends at 0 only."""
    steps = 32
    points = [n / steps for n in range(-10 * steps, 10 * steps + 1)]
    return sum(f(z) * density(z) for z in points) / steps


def density(z: float) -> float:
    """phi(z), of the normal distribution."""
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def below(z: float) -> float:
    """Phi(z): the share of a normal distribution that lies below z."""
    return math.erfc(-z / math.sqrt(2)) / 2
