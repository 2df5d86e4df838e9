"""Smooth activations that go on for ever on one side: softplus, GELU, Swish and their kin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.activations.base import Activation


class Softplus(Activation):
    """f(x) = log(1 + exp(x)). Dugas et al. 2001; Glorot et al. 2011."""

    gain = 1.0418668

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


class LogSigmoid(Activation):
    """f(x) = log(1 / (1 + exp(-x))) = -softplus(-x)."""

    gain = 1.0418668

    def forward(self, x: Tensor) -> Tensor:
        return F.logsigmoid(x)


class TanhShrink(Activation):
    """f(x) = x - tanh(x)."""

    gain = 2.3383675

    def forward(self, x: Tensor) -> Tensor:
        return F.tanhshrink(x)


class GELU(Activation):
    """f(x) = x Phi(x), Phi the normal distribution function (erf). Hendrycks & Gimpel 2016."""

    gain = 1.5335304

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class GELUTanh(Activation):
    """f(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GPT-2's approximation of GELU. Hendrycks & Gimpel 2016."""

    gain = 1.5335805

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class QuickGELU(Activation):
    """f(x) = x sigmoid(1.702 x), quickly nearly GELU. Hendrycks & Gimpel 2016; CLIP (Radford et al. 2021)."""

    gain = 1.5394588

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SiLU(Activation):
    """f(x) = x sigmoid(x), also called Swish-1. Elfwing et al. 2017; Ramachandran et al. 2017."""

    gain = 1.6765325

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class HardSwish(Activation):
    """f(x) = x clamp(x + 3, 0, 6) / 6: SiLU from straight pieces. Howard et al. 2019 (MobileNetV3)."""

    gain = 1.7366572

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(x)


class Mish(Activation):
    """f(x) = x tanh(softplus(x)). Misra 2019."""

    gain = 1.4868476

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(x)


class LiSHT(Activation):
    """f(x) = x tanh(x). Roy et al. 2019."""

    gain = 1.1486744

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(x)
