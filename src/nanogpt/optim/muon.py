"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum, made orthogonal.

For hidden matrices only."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a x + b x^3 + c x^5: as steep at 0 as can be; singular values end in 0.7 .. 1.2 for it."""


def orthogonalise(x_NRC: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32, eps: float = 1e-7) -> Tensor:
    """The nearest matrices with all singular values about 1 (Newton-Schulz), for N matrices at once."""
    a, b, c = COEFFICIENTS
    tall = x_NRC.shape[-2] > x_NRC.shape[-1]
    x = x_NRC.to(dtype)
    x = x.mT if tall else x  # the products below are of the short side squared
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    # Liu et al. 2025 (arXiv:2502.16982): an update as large as AdamW's, whose rates and decay can then be kept.
    "moonlight": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon's update, with equal shapes stacked: one batched product instead of many small ones."""

    def __init__(self, params: Any, *, lr: float, weight_decay: float, momentum: float, nesterov: bool, ns_steps: int,
                 scale: str, dtype: torch.dtype) -> None:  # fmt: skip
        self.nesterov, self.ns_steps, self.scale, self.dtype = nesterov, ns_steps, SCALES[scale], dtype
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for params in shapes.values():
                self._update(params, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            self.state[p].setdefault("momentum", torch.zeros_like(p))
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, momenta, group["momentum"]) if self.nesterov else momenta
        updates_NRC = orthogonalise(torch.stack(list(updates)), self.ns_steps, self.dtype).to(params[0].dtype)
        rows, columns = params[0].shape
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(updates_NRC.unbind()), alpha=-group["lr"] * self.scale(rows, columns))
