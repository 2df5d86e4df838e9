"""When a unit of an activation rests: where its output says nothing and its gradient is nothing.

Found by evaluating the activation, so that no table of names is needed and a user's own is known as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from nanogpt.activations import Activation, Identity

NEAR = 0.015
"""Share of a bounded activation's range within which it counts as saturated: of tanh it is |t| > 0.97, Karpathy's."""
NOTHING = 1e-6
"""A smooth unit's output below which it counts as zero: GELU and SiLU come near it and never get there."""
FAR = (-1e4, -2e4, 1e4, 2e4)
FLAT = 10
"""Equal neighbours on the grid that make a flat piece: half a unit long."""


@dataclass(frozen=True)
class Rest:
    """kind: rectified (rests at exactly one value, as ReLU at 0), bounded (near either bound: saturated) or smooth
    (near 0, or near the limit of one side, as ELU's -1)."""

    kind: str
    limits: tuple[float, ...] = (0.0,)
    tolerance: float = 0.0

    def resting(self, y: Tensor) -> Tensor:
        """True where the output rests, of the same shape."""
        y = y.float() if y.element_size() < 4 else y  # quicker than to compare bf16
        at = [(y == limit) if not self.tolerance else (y - limit).abs() < self.tolerance for limit in self.limits]
        return at[0] if len(at) == 1 else at[0] | at[1]


PRODUCT = Rest("smooth", tolerance=NOTHING)
"""Of gated units, whose output is a product."""


def is_activation(module: nn.Module) -> bool:
    """Whether a module works on each number alone, and bends it: ours, PyTorch's, or by trying it anyone's."""
    if isinstance(module, Activation):
        return not isinstance(module, Identity)
    home = type(module).__module__
    if home.startswith("torch.nn"):
        named = type(module).__name__
        return home == "torch.nn.modules.activation" and "Softm" not in named and not named.endswith(
            ("LogSoftmax", "Attention", "GLU")
        )  # fmt: skip
    if next(module.children(), None) or next(module.buffers(), None) is not None:
        return False
    sizes = [p.numel() for p in module.parameters() if p.numel() > 1]
    return len(set(sizes)) < 2 and _bends(module, sizes[0] if sizes else 8)


@torch.no_grad()
def _bends(module: nn.Module, width: int) -> bool:
    """By its answers: a change of one number changes no other, and it is not a x + b."""
    x = torch.linspace(-3, 3, 2 * width, device=_device(module)).view(2, width) + 0.1
    other = x.clone()
    other[0, 0] = 2.0
    try:
        y, changed, doubled, turned, zero = (module.forward(v.clone()) for v in (x, other, 2 * x, -x, 0 * x))
        if not isinstance(y, Tensor) or y.shape != x.shape or not y.is_floating_point():
            return False
        alone = torch.equal(y.flatten()[1:], changed.flatten()[1:])
        straight = torch.allclose(y + turned, 2 * zero, atol=1e-5) and torch.allclose(
            doubled - zero, 2 * (y - zero), atol=1e-5
        )
    except Exception:  # a module that asks for something else than one tensor is no activation
        return False
    return alone and not straight


@torch.no_grad()
def rest_of(module: nn.Module, width: int) -> Rest:
    """How the units of an activation of `width` inputs rest. One that mixes its numbers, as softmax, counts as
    smooth."""
    device = _device(module)
    grid = torch.linspace(-4.5, 4.5, 181, device=device)
    rows = torch.cat([grid, torch.tensor(FAR, device=device)])[:, None].expand(-1, width).contiguous()
    try:
        y = module.forward(rows)
    except Exception:  # it wants another shape: nothing is known of it
        return PRODUCT
    if not isinstance(y, Tensor) or y.shape != rows.shape or not _each_alone(module, rows, y):
        return PRODUCT
    values = y[:, 0].double().cpu()
    near, (low, lower, high, higher) = values[:-4], values[-4:].tolist()
    bottom, top = (low if _same(low, lower) else None), (high if _same(high, higher) else None)
    flat = _flat(near.tolist())
    span = float(values.max() - values.min())
    if bottom is not None and top is not None:
        if flat is not None and len(near.unique()) <= 2:  # a step is always at one of its bounds
            return Rest("rectified")
        limits = (bottom, top) if bottom != top else (bottom,)
        return Rest("bounded", limits, 0.0 if flat is not None else NEAR * span)
    if flat is not None:
        return Rest("rectified", (flat,))
    one = bottom if bottom is not None else top
    return Rest("smooth", (one,), NEAR * abs(one)) if one else PRODUCT


def _each_alone(module: nn.Module, rows: Tensor, y: Tensor) -> bool:
    if rows.shape[1] == 1:
        return True
    other = rows.clone()
    other[:, -1] += 1.0
    return torch.equal(module.forward(other)[:, 0], y[:, 0])


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-3 * max(1.0, abs(a))


def _flat(values: list[float]) -> float | None:
    """The value of the first piece that does not change at all."""
    run = 1
    for before, now in pairwise(values):
        run = run + 1 if now == before else 1
        if run >= FLAT:
            return now
    return None


def _device(module: nn.Module) -> torch.device | None:
    return next((p.device for p in module.parameters()), None)
