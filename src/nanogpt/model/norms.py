"""Normalisation of vectors, (..., dim) -> (..., dim): of each vector alone, but for batch normalisation."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.kernels.rms import rms_norm
from nanogpt.model.part import Part, Rule
from nanogpt.parts import at_least, divides


class NoNorm(Part):
    """f(x) = x."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class LayerNorm(Part):
    """f(x) = w (x - mean) / sqrt(var + eps) + b, w = 1 and b = 0 at the start. Ba et al. 2016.

    bias: "zeros" learns b; "none" has no b. eps: keeps a vector of equal numbers from being divided by 0.
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
    """f(x) = w x / sqrt(mean(x^2) + eps). Zhang & Sennrich 2019.

    weight: "ones" learns w, 1 at the start; "plus_one" learns w - 1, 0 at the start (Gemma: a weight decay would then
    pull w to 1); "none" has no w (nanochat). eps: keeps a vector of zeros from being divided by 0.
    """

    def __init__(self, *, dim: int, eps: float = 1e-6, weight: Literal["ones", "plus_one", "none"] = "ones") -> None:
        super().__init__()
        at_least(0, eps=eps)
        self.dim, self.eps = dim, eps
        self.weight = None if weight == "none" else nn.Parameter(torch.empty(dim))
        self._shift = float(weight == "plus_one")

    def rules(self) -> dict[str, Rule]:
        return {"weight": nn.init.zeros_ if self._shift else "scale"}

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor | None = self.weight
        if weight is not None:
            weight = (weight + self._shift if self._shift else weight).to(x.dtype)  # one dtype, for the fused kernel
        return rms_norm(x, weight, self.eps)


class BatchNorm(Part):
    """f(x) = w (x - mean) / sqrt(var + eps) + b, mean and variance of each feature over the whole batch and all its
    times. Ioffe & Szegedy 2015.

    While training, every token sees all others through the mean and the variance, those of later times and of other
    texts too: it is NOT causal there, nor is it blind to padding. In evaluation it has the running mean and variance,
    two buffers, and is causal: each vector is then scaled alone. Any shape but the last counts as batch: (B, T, D) is
    normed over B and T, the (B, H, T, E) of a query over B, H and T. Each micro-batch is normed by itself.

    momentum: share of a batch in the running statistics, which become (1 - momentum) old + momentum new; the new
    variance is the unbiased one (PyTorch's meaning, and makemore's). eps: added to the variance.
    bias: "zeros" learns b; "none" has no b. w = 1 and b = 0 at the start.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, *, dim: int, eps: float = 1e-5, momentum: float = 0.1, bias: Literal["zeros", "none"] = "zeros"
    ) -> None:
        super().__init__()
        if not eps > 0:
            raise UserError(f"eps={eps} must be above 0; nearest: 1e-05")
        if not 0 < momentum <= 1:
            raise UserError(f"momentum={momentum} must be above 0 and at most 1; nearest: 0.1")
        self.dim, self.eps, self.momentum = dim, eps, momentum
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if bias == "zeros" else None
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def rules(self) -> dict[str, Rule]:
        return {"weight": "scale", "bias": "bias"}

    def forward(self, x: Tensor) -> Tensor:
        running = (self.running_mean, self.running_var)
        flat = x.reshape(-1, self.dim)
        flat = F.batch_norm(flat, *running, self.weight, self.bias, self.training, self.momentum, self.eps)
        return flat.view(x.shape)


class GroupNorm(Part):
    """f(x) = w (x - mean) / sqrt(var + eps) + b, mean and variance over each of the groups that a vector is cut into.
    Wu & He 2018.

    Each token is normed by itself, so it is causal (over an image a group reaches over all places). w = 1 and b = 0 at
    the start; one number of each for a feature. groups=1 is layernorm.
    groups: by default the most, up to 32, that leave 16 features or more in each: the paper's two choices.
    eps: added to the variance. bias: "zeros" learns b; "none" has no b.
    """

    def __init__(
        self, *, dim: int, groups: int | None = None, eps: float = 1e-5, bias: Literal["zeros", "none"] = "zeros"
    ) -> None:
        super().__init__()
        at_least(0, eps=eps)
        if groups is None:
            groups = max((g for g in range(1, 33) if dim % g == 0 and dim // g >= 16), default=1)
        divides("groups", groups, "dim", dim)
        if groups == dim > 1:
            raise UserError(f"groups={groups} leaves one number in each, which less its mean is 0; nearest: 1")
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if bias == "zeros" else None

    def rules(self) -> dict[str, Rule]:
        return {"weight": "scale", "bias": "bias"}

    def forward(self, x: Tensor) -> Tensor:
        x_GE = x.unflatten(-1, (self.groups, -1))
        y = F.layer_norm(x_GE, x_GE.shape[-1:], eps=self.eps).flatten(-2) * self.weight
        return y if self.bias is None else y + self.bias


class DynamicTanh(Part):
    """f(x) = w tanh(a x) + b with a learned a, one for the layer: no mean and no variance. Zhu et al. 2025
    (Transformers without Normalization).

    w = 1 and b = 0 at the start. a: at the start. bias: "zeros" learns b; "none" has no b.
    """

    def __init__(self, *, dim: int, a: float = 0.5, bias: Literal["zeros", "none"] = "zeros") -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(1))
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if bias == "zeros" else None
        self._start = a

    def rules(self) -> dict[str, Rule]:
        return {"a": lambda values: values.fill_(self._start), "weight": "scale", "bias": "bias"}

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight * torch.tanh(self.a * x)
        return y if self.bias is None else y + self.bias


NORMS = {
    "none": NoNorm,
    "layernorm": LayerNorm,
    "rmsnorm": RMSNorm,
    "batchnorm": BatchNorm,
    "groupnorm": GroupNorm,
    "dyt": DynamicTanh,
}
