"""Initial weights: every parameter is filled by exactly one rule, or building fails.

Each parameter has a role (roles.py), and a scheme (schemes.py has the table) is a rule for each role.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.init.roles import Role, roles


class Scheme:
    """A rule for each role: `std` is enough for one that draws from a normal distribution."""

    bias: float = 0.0
    """Standard deviation of biases; 0: they start at zero."""
    unties: bool = False
    """Whether embedding and head must be two matrices, since the scheme treats them differently as width grows."""

    def std(self, role: Role, weight: Tensor) -> float:
        """Standard deviation of a matrix or a table."""
        raise NotImplementedError

    def fill(self, role: Role, weight: Tensor, random: torch.Generator) -> None:
        """Fill a matrix or a table."""
        weight.normal_(0.0, self.std(role, weight), generator=random)

    def fill_bias(self, role: Role, bias: Tensor, random: torch.Generator) -> None:
        if self.bias:
            bias.normal_(0.0, self.bias, generator=random)
        else:
            bias.zero_()

    def rate(self, role: Role, weight: Tensor) -> float:
        """Learning rate of this parameter, as a factor on the optimizer's own."""
        return 1.0


@torch.no_grad()
def initialise(model: nn.Module, scheme: Scheme, seed: int) -> None:
    """Fill every parameter. Each draws from a generator of its own, seeded by its name, so that two models
    with one seed agree wherever a name and a shape agree, whatever else differs between them."""
    for (name, parameter), (_, role) in zip(_named(model), roles(model).items(), strict=True):
        random = torch.Generator().manual_seed(_number(f"{seed}/{name}"))
        values = torch.full(parameter.shape, math.nan)
        if role.fill is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(random.initial_seed())
                role.fill(values)
        elif role.name == "scale":
            values.fill_(1.0)
        elif role.name == "bias":
            scheme.fill_bias(role, values, random)
        else:
            scheme.fill(role, values, random)
        if not bool(values.isfinite().all()):
            raise UserError(f"parameter {name} ({role.name}) was not filled by its rule")
        parameter.copy_(values)


def rates(model: nn.Module, scheme: Scheme) -> dict[str, float]:
    """Learning-rate factor of every parameter by its name."""
    return {n: scheme.rate(role, p) for (n, p), role in zip(_named(model), roles(model).values(), strict=True)}


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for prefix, module in model.named_modules():
        yield from module.named_parameters(prefix, recurse=False)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
