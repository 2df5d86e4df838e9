"""Which parameters an optimizer treats alike. Every parameter is in exactly one group, or building fails."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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

    @property
    def decayed(self) -> list[Tensor]:
        return self.matrices + self.tables


def groups(model: nn.Module) -> Groups:
    """Sort a model's parameters by role and shape."""
    roles: dict[str, str] = model.roles() if hasattr(model, "roles") else {}  # type: ignore[operator]
    found = Groups([], [], [])
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
