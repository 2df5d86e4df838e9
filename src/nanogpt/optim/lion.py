"""Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2): the sign of a momentum."""

from __future__ import annotations

from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """All parameters of a group at once, with torch's own operations over lists."""

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "Lion takes no closure"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in params]
            beta1, beta2 = group["betas"]
            steps = torch._foreach_lerp(momenta, grads, 1 - beta1)
            torch._foreach_sign_(steps)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, steps, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, grads, 1 - beta2)
