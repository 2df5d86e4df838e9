"""Normalisation of each vector alone, (..., dim) -> (..., dim)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.part import Part, Rule
from nanogpt.parts import at_least


class NoNorm(Part):
    """f(x) = x."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class LayerNorm(Part):
    """f(x) = w (x - mean) / sqrt(var + eps) + b, w = 1 and b = 0 at the start. Ba et al. 2016.

    bias: "zeros" learns b; "none" has no b.
    """

    def __init__(self, *, dim: int, eps: float = 1e-5, bias: Literal["zeros", "none"] = "zeros") -> None:
        super().__init__()
        at_least(0, eps=eps)
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if bias == "zeros" else None

    def rules(self) -> dict[str, Rule]:
        return {"weight": "scale", "bias": "bias"}

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(Part):
    """f(x) = w x / sqrt(mean(x^2) + eps), w = 1 at the start. Zhang & Sennrich 2019.

    weight: "ones" learns w; "none" has no w (as in nanochat).
    """

    def __init__(self, *, dim: int, eps: float = 1e-6, weight: Literal["ones", "none"] = "ones") -> None:
        super().__init__()
        at_least(0, eps=eps)
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.empty(dim)) if weight == "ones" else None

    def rules(self) -> dict[str, Rule]:
        return {"weight": "scale"}

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)  # one dtype, or there is no fused kernel
        return F.rms_norm(x, (self.dim,), weight, self.eps)


NORMS = {
    "none": NoNorm,
    "layernorm": LayerNorm,
    "rmsnorm": RMSNorm,
}
