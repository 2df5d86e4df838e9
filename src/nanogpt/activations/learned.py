"""Activations whose shape is learned. Their parameters start at the knobs' values and are never decayed."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.activations.base import Learned, keeping, mean
from nanogpt.errors import UserError


class PReLU(Learned):
    """f(x) = x where x > 0, else a x with a learned a. He et al. 2015. At the start E[f^2] = (1 + slope^2) / 2.

    slope: of the left side at the start. per: "channel" learns an a for each unit, "shared" one for the layer.
    """

    a: nn.Parameter

    def __init__(self, *, dim: int, slope: float = 0.25, per: Literal["channel", "shared"] = "channel") -> None:
        super().__init__()
        self.slope, self.per = slope, per
        self.learn("a", dim if per == "channel" else 1, slope)
        self.gain = keeping((1 + slope * slope) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.a.to(x.dtype) * x)


class Swish(Learned):
    """f(x) = x sigmoid(b x) with a learned b. Ramachandran et al. 2017.

    b = 0 is x/2, 1 is SiLU, 1.702 nearly GELU, and without end it becomes ReLU.
    beta: b at the start. per: "shared" learns one b for the layer, "channel" one for each unit.
    """

    b: nn.Parameter

    def __init__(self, *, dim: int, beta: float = 1.0, per: Literal["shared", "channel"] = "shared") -> None:
        super().__init__()
        self.beta, self.per = beta, per
        self.learn("b", dim if per == "channel" else 1, beta)
        self.gain = keeping(mean(lambda z: (z * (1 + math.tanh(beta * z / 2)) / 2) ** 2))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.b.to(x.dtype) * x)


class Snake(Learned):
    """f(x) = x + sin(a x)^2 / a with a learned a. Ziyin et al. 2020.

    It learns what repeats and goes on with it beyond the data. a = 0 is x, the limit.
    a: frequency at the start. per: "channel" learns an a for each unit, "shared" one for the layer.
    """

    a: nn.Parameter

    def __init__(self, *, dim: int, a: float = 1.0, per: Literal["channel", "shared"] = "channel") -> None:
        super().__init__()
        self.per = per
        self.learn("a", dim if per == "channel" else 1, a)
        wave = (3 - 4 * math.exp(-2 * a * a) + math.exp(-8 * a * a)) / 8
        self.gain = keeping(1 + (wave / (a * a) if abs(a) > 1e-3 else 3 * a * a))

    def forward(self, x: Tensor) -> Tensor:
        turned = self.a.to(x.dtype) * x
        return x + x * torch.sin(turned) * torch.sinc(turned / math.pi)  # no division by an a that has become 0


class StarReLU(Learned):
    """f(x) = s max(x, 0)^2 + b with learned s and b. Yu et al. 2022 (MetaFormer Baselines for Vision).

    s, b: at the start, such that a unit Gaussian leaves with mean 0 and variance 1; one of each for the layer.
    """

    s: nn.Parameter
    b: nn.Parameter

    def __init__(self, *, s: float = 0.8944, b: float = -0.4472) -> None:
        super().__init__()
        self.learn("s", 1, s)
        self.learn("b", 1, b)
        self.gain = keeping(1.5 * s * s + s * b + b * b)

    def forward(self, x: Tensor) -> Tensor:
        return self.s.to(x.dtype) * F.relu(x).square() + self.b.to(x.dtype)


class XIELU(Learned):
    """f(x) = p x^2 + beta x where x > 0, else n (exp(x) - 1 - x) + beta x, with learned p and n. Huang & Schlag 2024,
    arXiv 2411.13010.

    Its slope grows without end on the right, and falls below 0 on the left, where n > beta.
    p = softplus(p') and n = beta + softplus(n'): what is learned is p' and n', one of each for the layer.
    positive, negative: p and n at the start. beta: the slope at 0, not learned.
    """

    p: nn.Parameter
    n: nn.Parameter

    def __init__(self, *, positive: float = 0.8, negative: float = 0.8, beta: float = 0.5) -> None:
        super().__init__()
        if not positive > 0:
            raise UserError(f"positive={positive} must be above 0; nearest: 1e-3")
        if not negative > beta:
            raise UserError(f"negative={negative} must be above beta={beta}; nearest: negative={beta + 0.001}")
        self.positive, self.negative, self.beta = positive, negative, beta
        self.learn("p", 1, _before_softplus(positive))
        self.learn("n", 1, _before_softplus(negative - beta))

        def f(z: float) -> float:
            return beta * z + (positive * z * z if z > 0 else negative * (math.expm1(z) - z))

        self.gain = keeping(mean(lambda z: f(z) * f(z)))

    def forward(self, x: Tensor) -> Tensor:
        p, n = F.softplus(self.p).to(x.dtype), self.beta + F.softplus(self.n).to(x.dtype)
        left = x.clamp(max=0)  # exp of a large x would not be finite, nor its gradient
        return p * F.relu(x).square() + n * (torch.expm1(left) - left) + self.beta * x


def _before_softplus(y: float) -> float:
    """The x with log(1 + exp(x)) = y."""
    return y + math.log(-math.expm1(-y))
