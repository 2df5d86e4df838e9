"""Activations that look at several numbers at once, or change how many there are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.activations.base import Activation, below, keeping, mean
from nanogpt.errors import UserError
from nanogpt.parts import at_least


class CReLU(Activation):
    """f(x) = [max(x, 0), max(-x, 0)], (..., n) -> (..., 2 n). Shang et al. 2016. E[f^2] = 1/2 for each number.

    What reads it has two inputs for each unit.
    """

    gain = 2**0.5
    outputs = 2

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(x), F.relu(-x)], -1)


class Maxout(Activation):
    """f(x) = max(x_1 ... x_k) of each unit's k numbers, (..., n k) -> (..., n). Goodfellow et al. 2013.

    k: pieces; the k numbers of a unit are neighbours.
    """

    def __init__(self, *, dim: int, k: int = 2) -> None:
        super().__init__()
        at_least(1, k=k)
        self.dim, self.k = dim, k
        self.inputs = k
        self.gain = keeping(mean(lambda z: z * z * k * below(z) ** (k - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.dim, self.k)).amax(-1)


class Softmax(Activation):
    """f(x)_i = exp(x_i) / sum_j exp(x_j), over the last dimension. Bridle 1990.

    The outputs are shares of 1, of size 1/n: its gain is left at 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(-1)


class Sparsemax(Activation):
    """f(x) = the point of the simplex that is nearest to x: max(x - tau, 0), with tau such that the sum is 1. Martins &
    Astudillo 2016.

    Over the last dimension; most outputs are exactly 0. Its gain is left at 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        down = x.sort(-1, descending=True).values
        excess = down.cumsum(-1) - 1
        count = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
        support = (count * down > excess).sum(-1, keepdim=True)
        tau = excess.gather(-1, support - 1) / support.to(x.dtype)
        return (x - tau).clamp(min=0)


class GumbelSoftmax(Activation):
    """f(x) = softmax((x + g) / temperature), g = -log(-log(u)) with u ~ U(0, 1) while training. Jang et al. 2016;
    Maddison et al. 2016.

    Evaluation adds no noise. Its gain is left at 1.
    temperature: towards 0 the result is one-hot, drawn with the chances softmax(x).
    """

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise UserError(f"temperature={temperature} must be above 0; nearest: 1e-3")
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            wait = torch.empty_like(x).exponential_()  # -log(u)
            x = x - wait.clamp(min=torch.finfo(x.dtype).tiny).log()
        return (x / self.temperature).softmax(-1)
