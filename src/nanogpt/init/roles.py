"""What each parameter of a model is for: initial weights and learning rates go by it.

    embedding   a row for each token                hidden     a matrix inside a block
    position    a row for each place                residual   a matrix that writes to the residual stream
    head        the matrix that makes logits        bias, scale: vectors, zeros and ones

A part with parameters of another kind gives, in `rules()`, a function that fills them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nanogpt.errors import UserError, nearest
from nanogpt.model.part import Part
from nanogpt.parts import number

TABLES = ("embedding", "position")
MATRICES = (*TABLES, "hidden", "residual", "head")
VECTORS = ("bias", "scale")


@dataclass(frozen=True)
class Role:
    """What one parameter is for, and what a rule for its initial values may need to know.

    name: one of the words above, or "own" where the part fills it. gain, then: of the activation that feeds a matrix
    and of the one that follows it. fill: a part's own rule. parameter: its full name. of, fan_in: of a bias, the role
    of the matrix that it is added to and the numbers that feed one output of that matrix (0: there is none).
    """

    name: str
    gain: float = 1.0
    then: float = 1.0
    fill: Callable[[Tensor], Any] | None = None
    parameter: str = ""
    of: str = ""
    fan_in: int = 0


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
            rule = own.get(name.rpartition(".")[2])
            if rule is None:
                raise UserError(
                    f"parameter {name} has no rule for its initial values: {type(module).__name__} needs a method "
                    "rules(self) that returns {name: role} or {name: function that fills it}"
                )
            result[name] = _role(name, rule, module, own)
    return result


def _role(name: str, rule: Any, module: nn.Module, own: dict[str, Any]) -> Role:
    if callable(rule):
        return Role("own", fill=rule, parameter=name)
    if rule not in (*MATRICES, *VECTORS):
        raise UserError(f"parameter {name}: no role '{rule}'{nearest(rule, (*MATRICES, *VECTORS))}")
    gains = {"gain": number(module, "gain", 1.0), "then": number(module, "then", 1.0)}
    weight, of = getattr(module, "weight", None), own.get("weight")
    if rule == "bias" and of in MATRICES and isinstance(weight, Tensor) and weight.ndim > 1:
        return Role(rule, **gains, parameter=name, of=str(of), fan_in=fans(weight)[0])
    return Role(rule, **gains, parameter=name)


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
