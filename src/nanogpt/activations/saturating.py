"""Activations that level off on both sides, or come back: thresholds, sigmoids, bumps and waves."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.activations.base import Activation, keeping, mean
from nanogpt.parts import at_least


class Step(Activation):
    """f(x) = 1 where x >= 0, else 0. McCulloch & Pitts 1943; Rosenblatt 1958.

    Its gradient is 0 wherever there is one, so the backward pass takes that of the ramp (clamp(x, -1, 1) + 1) / 2:
    1/2 where |x| <= 1, else 0 (the straight-through estimator: Bengio et al. 2013; saturating, Hubara et al. 2016).
    """

    gain = 2**0.5

    def forward(self, x: Tensor) -> Tensor:
        ramp = F.hardtanh(x) / 2
        return (x >= 0).to(x.dtype) + (ramp - ramp.detach())


class Sign(Activation):
    """f(x) = 1 where x >= 0, else -1. Hubara et al. 2016 (binarised networks).

    The backward pass takes the gradient of clamp(x, -1, 1), 1 where |x| <= 1, else 0: the straight-through estimator.
    """

    def forward(self, x: Tensor) -> Tensor:
        ramp = F.hardtanh(x)
        return 2 * (x >= 0).to(x.dtype) - 1 + (ramp - ramp.detach())


class Sigmoid(Activation):
    """f(x) = 1 / (1 + exp(-x)). Rumelhart et al. 1986. Its gain is PyTorch's custom."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


class HardSigmoid(Activation):
    """f(x) = clamp(x + 3, 0, 6) / 6. Courbariaux et al. 2015 (other slopes); Howard et al. 2019 (this one)."""

    gain = 1.8978404

    def forward(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(x)


class Tanh(Activation):
    """f(x) = tanh(x). LeCun et al. 1989. Its gain is PyTorch's custom."""

    gain = 5 / 3

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class LeCunTanh(Activation):
    """f(x) = 1.7159 tanh(2x/3), so that f(1) = 1 and f(-1) = -1. LeCun et al. 1998 (Efficient BackProp), 4.4."""

    gain = 1.1543695

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


class HardTanh(Activation):
    """f(x) = clamp(x, -1, 1). Collobert 2004."""

    gain = 1.3920361

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(x)


class Softsign(Activation):
    """f(x) = x / (1 + |x|). Bergstra et al. 2009; Glorot & Bengio 2010."""

    gain = 2.3375334

    def forward(self, x: Tensor) -> Tensor:
        return F.softsign(x)


class Arctan(Activation):
    """f(x) = arctan(x)."""

    gain = 1.4912076

    def forward(self, x: Tensor) -> Tensor:
        return torch.atan(x)


class ISRU(Activation):
    """f(x) = x / sqrt(1 + alpha x^2). Carlile et al. 2017.

    alpha: f levels off at 1 / sqrt(alpha).
    """

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__()
        at_least(0, alpha=alpha)
        self.alpha = alpha
        self.gain = keeping(mean(lambda z: z * z / (1 + alpha * z * z)))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.alpha * x.square()).rsqrt()


class Gaussian(Activation):
    """f(x) = exp(-x^2), a radial basis function. Broomhead & Lowe 1988. E[f^2] = 1 / sqrt(5)."""

    gain = 5**0.25

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-x.square())


class Sin(Activation):
    """f(x) = sin(w0 x). Sitzmann et al. 2020 (SIREN). E[f^2] = (1 - exp(-2 w0^2)) / 2.

    w0: frequency. SIREN has 30, with matrices of 1/30 of the usual size: the same function, and gradients of the
    matrices 30 times as large.
    """

    def __init__(self, *, w0: float = 1.0) -> None:
        super().__init__()
        self.w0 = w0
        self.gain = keeping(-math.expm1(-2 * w0 * w0) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.w0 * x)
