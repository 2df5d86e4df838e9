"""Which parameters an optimizer treats alike. Every parameter is in exactly one group, or building fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from nanogpt.errors import UserError

MATRICES = ("hidden", "residual")
"""Roles (model.roles()) of weights inside the blocks: those that Muon makes orthogonal when they are matrices."""


class Groups(NamedTuple):
    matrices: list[Tensor]
    """Matrices inside the blocks."""
    tables: list[Tensor]
    """Everything else of two or more dimensions: embeddings, positions, the head, convolutions."""
    vectors: list[Tensor]
    """Biases, gains, scales: never decayed (nanoGPT's rule: decay pulls on what multiplies, not on what shifts)."""

    rates: Mapping[Tensor, float] = MappingProxyType({})
    """Factor on the learning rate of those whose factor is not 1 (muP: init/schemes.py)."""

    @property
    def decayed(self) -> list[Tensor]:
        return self.matrices + self.tables

    def split(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for torch, one for each (decayed or not, rate), those at the full rate first. Decay is divided by the
        rate, so that what a step takes from a weight, lr * weight_decay, is the same for all, as in the mup package."""
        found: dict[tuple[float, float], list[Tensor]] = {}
        for params, decay in ((self.decayed, weight_decay), (self.vectors, 0.0)):
            for parameter in params:
                rate = self.rates.get(parameter, 1.0)
                found.setdefault((rate, decay / rate), []).append(parameter)
        order = sorted(found, key=lambda key: key[0] != 1.0)
        return [{"params": found[key], "lr": lr * key[0], "weight_decay": key[1]} for key in order]

    def refuse_rates(self, why: str) -> None:
        """For a rule whose step is not of one size whatever the gradient's: those factors would be wrong for it."""
        if self.rates:
            raise UserError(f"model.init=mup has learning rates for Adam's kind of step; {why}; nearest: adamw")


def groups(model: nn.Module) -> Groups:
    """Sort a model's parameters by role and shape."""
    roles: dict[str, str] = model.roles() if hasattr(model, "roles") else {}  # type: ignore[operator]
    factors: dict[str, float] = model.rates() if hasattr(model, "rates") else {}  # type: ignore[operator]
    rates: dict[Tensor, float] = {p: factors.get(name, 1.0) for name, p in model.named_parameters()}
    found = Groups([], [], [], {p: rate for p, rate in rates.items() if rate != 1.0})
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            found.vectors.append(parameter)
        elif parameter.ndim == 2 and roles.get(name) in MATRICES:
            found.matrices.append(parameter)
        else:
            found.tables.append(parameter)
    return found


def check_cover(model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Refuse an optimizer that forgets a parameter or has one twice."""
    seen: dict[int, int] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    for name, parameter in model.named_parameters():
        times = seen.pop(id(parameter), 0)
        if times != 1:
            what = "no optimizer group" if times == 0 else f"{times} optimizer groups"
            raise UserError(f"parameter {name} is in {what}; each must be in exactly one")
    if seen:
        raise UserError(f"{len(seen)} parameters in its groups are not the model's")
