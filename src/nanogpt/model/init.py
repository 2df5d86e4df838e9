"""Initial weights: every parameter is filled by exactly one rule, or building fails.

Each parameter has a role, and a scheme is a rule for each role:

    embedding   a row for each token                hidden     a matrix inside a block
    position    a row for each place                residual   a matrix that writes to the residual stream
    head        the matrix that makes logits        bias, scale: vectors, zeros and ones

A part with parameters of another kind gives, in `rules()`, a function that fills them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nanogpt.errors import UserError, nearest
from nanogpt.model.part import Part
from nanogpt.parts import at_least, build, number

MATRICES = ("embedding", "position", "hidden", "residual", "head")
VECTORS = ("bias", "scale")


@dataclass(frozen=True)
class Role:
    """What one parameter is for. `fill` is a part's own rule for its own kind of parameter (role "own")."""

    name: str
    gain: float = 1.0
    fill: Callable[[Tensor], Any] | None = None


def roles(model: nn.Module) -> dict[str, Role]:
    """Role of every parameter by its full name. Raises UserError for one that nothing knows."""
    found: dict[int, str] = {}
    result: dict[str, Role] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        own = _own_rules(module)
        for name, parameter in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
            if id(parameter) in found:
                raise UserError(f"parameter {name} is {found[id(parameter)]} too: share it through flow or the call")
            found[id(parameter)] = name
            role = own.get(name.rpartition(".")[2])
            if role is None:
                raise UserError(
                    f"parameter {name} has no rule for its initial values: {type(module).__name__} needs a method "
                    "rules(self) that returns {name: role} or {name: function that fills it}"
                )
            if callable(role):
                result[name] = Role("own", fill=role)
            elif role not in (*MATRICES, *VECTORS):
                raise UserError(f"parameter {name}: no role '{role}'{nearest(role, (*MATRICES, *VECTORS))}")
            else:
                result[name] = Role(role, number(module, "gain", 1.0))
    return result


def _own_rules(module: nn.Module) -> dict[str, Any]:
    """Roles of a module's own parameters: as the part says, or as PyTorch's kind of module implies."""
    if isinstance(module, Part) or hasattr(module, "rules"):
        return module.rules()  # type: ignore[operator]
    if isinstance(module, nn.Linear):
        return {"weight": getattr(module, "role", "hidden"), "bias": "bias"}
    if isinstance(module, nn.Embedding):
        return {"weight": "embedding"}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)):
        return {"weight": "scale", "bias": "bias"}
    if isinstance(module, nn.modules.conv._ConvNd):
        return {"weight": "hidden", "bias": "bias"}
    return {}


def fans(weight: Tensor) -> tuple[int, int]:
    """Numbers that feed one output, and that one input feeds; (n_out, n_in, ...) as PyTorch stores matrices."""
    field = weight[0][0].numel() if weight.ndim > 2 else 1
    return weight.shape[1] * field, weight.shape[0] * field


class Scheme:
    """A rule for each role. `embedding`: standard deviation of token and position vectors."""

    embedding: float

    def std(self, role: str, weight: Tensor, gain: float) -> float:
        """Standard deviation of a hidden, residual or head matrix."""
        raise NotImplementedError

    def fill(self, role: str, weight: Tensor, gain: float, random: torch.Generator) -> None:
        std = self.embedding if role in ("embedding", "position") else self.std(role, weight, gain)
        weight.normal_(0.0, std, generator=random)


class Normal(Scheme):
    """N(0, std^2) for every matrix. GPT-1; the lecture's GPT."""

    def __init__(self, *, std: float = 0.02) -> None:
        at_least(0, std=std)
        self.embedding = self._std = std

    def std(self, role: str, weight: Tensor, gain: float) -> float:
        return self._std


class GPT2(Normal):
    """N(0, std^2), and std / sqrt(2 n_layers) for what writes to the stream, which 2 n_layers branches add up in.
    Radford et al. 2019, section 2.3."""

    def __init__(self, *, n_layers: int, std: float = 0.02) -> None:
        super().__init__(std=std)
        self._branches = 2 * max(1, n_layers)

    def std(self, role: str, weight: Tensor, gain: float) -> float:
        return self._std / math.sqrt(self._branches) if role == "residual" else self._std


class Fans(Scheme):
    """What Kaiming and Xavier share: a variance from the shape of the matrix, normal or uniform."""

    def __init__(self, *, distribution: Literal["normal", "uniform"] = "normal", embedding: float = 0.02) -> None:
        at_least(0, embedding=embedding)
        self.distribution, self.embedding = distribution, embedding

    def fill(self, role: str, weight: Tensor, gain: float, random: torch.Generator) -> None:
        if self.distribution == "normal" or role in ("embedding", "position"):
            super().fill(role, weight, gain, random)
            return
        bound = math.sqrt(3) * self.std(role, weight, gain)  # U(-a, a) has the variance a^2 / 3
        weight.uniform_(-bound, bound, generator=random)


class Kaiming(Fans):
    """Var[w] = gain^2 / fan, gain sqrt(2) after a ReLU. He et al. 2015, eq. 10 (fan_in) and 14 (fan_out)."""

    def __init__(
        self,
        *,
        mode: Literal["fan_in", "fan_out"] = "fan_in",
        distribution: Literal["normal", "uniform"] = "normal",
        embedding: float = 0.02,
    ) -> None:
        super().__init__(distribution=distribution, embedding=embedding)
        self.mode = mode

    def std(self, role: str, weight: Tensor, gain: float) -> float:
        fan_in, fan_out = fans(weight)
        return gain / math.sqrt(fan_in if self.mode == "fan_in" else fan_out)


class Xavier(Fans):
    """Var[w] = 2 / (fan_in + fan_out), whatever the activation. Glorot & Bengio 2010, eq. 16."""

    def std(self, role: str, weight: Tensor, gain: float) -> float:
        return math.sqrt(2 / sum(fans(weight)))


class ZeroOutput(Scheme):
    """Zeros for the head and for what writes to the stream: each block starts as the identity and every token is
    equally likely. Zhang et al. 2019 (Fixup) for the branches; Yang et al. 2022 (Tensor Programs V, muTransfer) for
    the head. rest: the scheme of all other weights."""

    def __init__(self, *, n_layers: int, rest: str = "kaiming") -> None:
        self.rest = build(SCHEMES, rest, n_layers=n_layers)

    def fill(self, role: str, weight: Tensor, gain: float, random: torch.Generator) -> None:
        if role in ("residual", "head"):
            weight.zero_()
        else:
            self.rest.fill(role, weight, gain, random)


SCHEMES: dict[str, Callable[..., Any]] = {
    "normal": Normal,
    "gpt2": GPT2,
    "kaiming": Kaiming,
    "xavier": Xavier,
    "zero_output": ZeroOutput,
}


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
        elif role.name in VECTORS:
            values.fill_(1.0 if role.name == "scale" else 0.0)
        else:
            scheme.fill(role.name, values, role.gain, random)
        if not bool(values.isfinite().all()):
            raise UserError(f"parameter {name} ({role.name}) was not filled by its rule")
        parameter.copy_(values)


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for prefix, module in model.named_modules():
        yield from module.named_parameters(prefix, recurse=False)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
