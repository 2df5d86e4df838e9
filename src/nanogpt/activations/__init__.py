"""Activations: what happens to each number alone, (..., n) -> (..., n).

`gain` keeps the variance of a unit Gaussian through the activation and the matrix after it:
1 / sqrt(E[f(z)^2]) (He et al. 2015). Three are PyTorch's customs instead: tanh's 5/3, SELU's 3/4, and sigmoid's 1,
where the formula gives 1.59, 1 and 1.85. A user's activation without a gain has 1.

`inputs` and `outputs` say how many numbers a unit takes and gives: all but maxout and CReLU have 1 of each. Those over
the last dimension (softmax and its kin) see one token's units, never another token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanogpt.activations import learned, rectifiers, saturating, smooth, spline, vectors
from nanogpt.activations.base import Activation, Identity
from nanogpt.activations.saturating import Tanh

__all__ = ["ACTIVATIONS", "Activation", "Identity", "Tanh"]

ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "identity": Identity,
    "step": saturating.Step,
    "sign": saturating.Sign,
    "sigmoid": saturating.Sigmoid,
    "hard_sigmoid": saturating.HardSigmoid,
    "tanh": Tanh,
    "lecun_tanh": saturating.LeCunTanh,
    "hardtanh": saturating.HardTanh,
    "softsign": saturating.Softsign,
    "arctan": saturating.Arctan,
    "isru": saturating.ISRU,
    "gaussian": saturating.Gaussian,
    "sin": saturating.Sin,
    "relu": rectifiers.ReLU,
    "relu6": rectifiers.ReLU6,
    "relu2": rectifiers.ReLU2,
    "leaky_relu": rectifiers.LeakyReLU,
    "rrelu": rectifiers.RReLU,
    "shifted_relu": rectifiers.ShiftedReLU,
    "threshold_relu": rectifiers.ThresholdReLU,
    "hardshrink": rectifiers.HardShrink,
    "softshrink": rectifiers.SoftShrink,
    "elu": rectifiers.ELU,
    "celu": rectifiers.CELU,
    "selu": rectifiers.SELU,
    "softplus": smooth.Softplus,
    "logsigmoid": smooth.LogSigmoid,
    "tanhshrink": smooth.TanhShrink,
    "gelu": smooth.GELU,
    "gelu_tanh": smooth.GELUTanh,
    "quick_gelu": smooth.QuickGELU,
    "silu": smooth.SiLU,
    "hardswish": smooth.HardSwish,
    "mish": smooth.Mish,
    "lisht": smooth.LiSHT,
    "prelu": learned.PReLU,
    "swish": learned.Swish,
    "snake": learned.Snake,
    "star_relu": learned.StarReLU,
    "xielu": learned.XIELU,
    "kan": spline.KAN,
    "crelu": vectors.CReLU,
    "maxout": vectors.Maxout,
    "softmax": vectors.Softmax,
    "sparsemax": vectors.Sparsemax,
    "gumbel_softmax": vectors.GumbelSoftmax,
}
