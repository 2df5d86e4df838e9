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

    r is worked out again on the way back, so that a second derivative comes out right, and nothing but x is kept.
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
        gx_ND = (grad * x).reshape(-1, D)
        if weight is None:
            h, dot, dw = grad, gx_ND.sum(-1), None
        else:
            h, dot, dw = grad * weight, gx_ND.mv(weight), gx_ND.t().mv(r.reshape(-1))
        return torch.addcmul(h * r, x, r.pow(3).mul_(dot.view(r.shape)), value=-1 / D), dw, None


def _inverse(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps), (..., 1)."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square().div_(x.shape[-1]).add_(eps).rsqrt_()
