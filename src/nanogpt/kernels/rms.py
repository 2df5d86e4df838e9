"""RMS norm in training on a CPU: torch has no kernel for it there and goes back through each of its operations, which
takes three times as long as the backward pass written out (docs/LOG.md)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """w x / sqrt(mean(x^2) + eps) over the last dimension, (..., D) -> (..., D); without w where it is None."""
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if plain and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        scaled: Tensor = RootMeanSquare.apply(x, weight, eps)
        return scaled
    return F.rms_norm(x, x.shape[-1:], weight, eps)


class RootMeanSquare(torch.autograd.Function):
    """With r = 1 / sqrt(mean(x^2) + eps) and h = g w, g being the gradient of w x r,

        dx = r h - x r^3 mean(h x),  dw = sum of g x r over all vectors.

    torch's kernel for the backward pass of layer norm, told that all means are 0, does this in two passes over the
    numbers, but also takes r mean(h) away, which is put back. r is worked out again on the way back, and nothing but x
    is kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        y = x * _inverse(x, eps)
        return y if weight is None else y.mul_(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, float], output: Tensor) -> None:
        x, weight, ctx.eps = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        D, r = x.shape[-1], _inverse(x, ctx.eps)
        if torch.is_grad_enabled():  # a second derivative is wanted, which that kernel has not
            h = grad if weight is None else grad * weight
            dw = None if weight is None else (grad * x * r).reshape(-1, D).sum(0)
            return r * h - x * r.pow(3) * (h * x).mean(-1, keepdim=True), dw, None
        dx, dw, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, [D], torch.zeros_like(r), r, weight, None, [True, weight is not None, False]
        )
        sum_h = grad.sum(-1) if weight is None else grad.reshape(-1, D).mv(weight)
        return dx.add_(sum_h.view(r.shape).mul(r).div_(D)), dw, None


def _inverse(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps), (..., 1)."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square().div_(x.shape[-1]).add_(eps).rsqrt_()
