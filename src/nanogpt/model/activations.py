"""Activations: what happens to each number alone, (..., n) -> (..., n).

`gain` keeps the variance of a unit Gaussian through the activation and the matrix after it:
1 / sqrt(E[f(z)^2]) (He et al. 2015). Two are PyTorch's convention instead: tanh's 5/3, and sigmoid's 1, where
the formula gives 1.85. A user's activation without a gain has 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.part import Part


class Activation(Part):
    gain = 1.0


class Identity(Activation):
    """f(x) = x."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class ReLU(Activation):
    """f(x) = max(x, 0). Nair & Hinton 2010."""

    gain = 2**0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class ReLU2(Activation):
    """f(x) = max(x, 0)^2. So et al. 2021 (Primer). E[f^2] = 3/2."""

    gain = 1.5**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class GELU(Activation):
    """f(x) = x Phi(x), Phi the normal distribution function (erf). Hendrycks & Gimpel 2016."""

    gain = 1.5335304

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class GELUTanh(Activation):
    """f(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GPT-2's approximation of GELU."""

    gain = 1.5335820

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class SiLU(Activation):
    """f(x) = x sigmoid(x), also called Swish-1. Elfwing et al. 2017; Ramachandran et al. 2017."""

    gain = 1.6765325

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class Sigmoid(Activation):
    """f(x) = 1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


class Tanh(Activation):
    """f(x) = tanh(x)."""

    gain = 5 / 3

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


ACTIVATIONS = {
    "identity": Identity,
    "relu": ReLU,
    "relu2": ReLU2,
    "gelu": GELU,
    "gelu_tanh": GELUTanh,
    "silu": SiLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
}
