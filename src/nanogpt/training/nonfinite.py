"""Where a loss or gradient stopped being a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.errors import RunError

HINT = "a lower optim.optimizer.lr or a longer warm-up usually helps"


class NotFinite(RunError):
    """A loss, a gradient or a weight is no number any more."""


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(_finite(v) for v in value.values())
    return all(_finite(v) for v in value) if isinstance(value, (tuple, list)) else True


def first_bad_module(model: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Name of the first module, in the order of the forward pass, whose output is not finite; None where all are.

    `forward` runs the model, uncompiled (compiled code would ignore the hooks), on the batch in question.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not _finite(output):
                found.append(f"{name} ({type(module).__name__})")

        return hook

    # A module's hook fires when it returns, so the innermost culprit comes before those that contain it.
    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def first_bad_parameter(model: nn.Module) -> str | None:
    """Name of the first parameter that is not finite; None where all are."""
    return next((name for name, p in model.named_parameters() if not _finite(p)), None)


def first_bad_gradient(model: nn.Module) -> str | None:
    """Name of the parameter nearest to the loss whose gradient is not finite: the backward pass met it first."""
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    return bad[-1] if bad else None
