"""By hand: passes with an activation replaced.

with ng.ablate(model, "blocks.2.ffn"):
    ng.trace(model, "To be").logits
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nanogpt.errors import UserError, nearest
from nanogpt.observers.functions import NAMES
from nanogpt.observers.layers import layers_of, replaced
from nanogpt.observers.sites import first_tensor, sites
from nanogpt.observers.trace import module_of
from nanogpt.observers.undisturbed import undisturbed

Change = Callable[[Tensor], Tensor]
"""What an activation becomes."""


@contextmanager
def patch(model: Any, activations: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, these modules return these tensors, whatever they compute: `with ng.patch(model, {"blocks.0": x}): ...`.

    Any name that `ng.trace` gives will do, but for attention weights; a module's is for all the places where it stands.
    Each must have the shape of what it replaces, or one that broadcasts to it. UserError for a name that nothing
    has, and, when the model runs, for a wrong shape.
    """

    def put(name: str, new: Tensor) -> Change:
        def change(old: Tensor) -> Tensor:
            try:
                return new.to(old.device, old.dtype).expand(old.shape)
            except RuntimeError:
                raise UserError(
                    f"patch: {name} is {_shape(old)} here, and what it should become is {_shape(new)}"
                ) from None

        return change

    if not isinstance(activations, Mapping):
        raise UserError(f"patch: the second argument must be {{name: tensor}}, not a {type(activations).__name__}")
    for name, new in activations.items():
        if not isinstance(new, Tensor):
            raise UserError(f"patch: {name} must become a tensor, not {type(new).__name__}")
    with _changed(module_of(model), {name: put(name, new) for name, new in activations.items()}):
        yield


@contextmanager
def ablate(model: Any, *names: str, by: Literal["zero", "mean"] = "zero") -> Iterator[None]:
    """Within, these modules return nothing of what they compute: zeros, or of each unit its mean over all tokens of
    the pass (all but the last dimension). Names and UserError as in `patch`."""
    if by not in ("zero", "mean"):
        raise UserError(f"ablate: by={by!r}: not one of its words{nearest(str(by), ['zero', 'mean'])}")

    def change(old: Tensor) -> Tensor:
        empty = torch.zeros_like(old) if by == "zero" else old.mean(tuple(range(old.ndim - 1)), keepdim=True)
        return empty.expand(old.shape)

    with _changed(module_of(model), dict.fromkeys(names, change)):
        yield


@contextmanager
def _changed(module: nn.Module, changes: Mapping[str, Change]) -> Iterator[None]:
    """Within, what has these names becomes what is made of it."""
    modules, told, passes = dict(module.named_modules()), set[str](), list[object]()

    def hook(name: str) -> Any:
        def ran(one: nn.Module, args: Any, output: Any) -> Any:
            old = first_tensor(output)
            if old is None:
                raise UserError(f"{name} returns no tensor to replace")
            return replaced(output, old, changes[name](old))

        return ran

    def layer(name: str, output: Tensor) -> Tensor | None:
        told.add(name)
        return changes[name](output) if name in layers else None

    for name in changes:
        _known(name, modules)
    layers = [name for name in changes if name not in modules]
    with ExitStack() as stack:
        for name in changes.keys() - set(layers):
            stack.callback(modules[name].register_forward_hook(hook(name)).remove)
        if layers:
            with undisturbed(module):
                observed = sites(module)
            stack.enter_context(layers_of(module, observed, layer))
            stack.callback(module.register_forward_pre_hook(lambda *_: passes.append(1)).remove)
        yield
    if passes and (missed := [name for name in layers if name not in told]):
        raise UserError(f"no activation that ran is called '{missed[0]}'{nearest(missed[0], told)}")


def _known(name: str, modules: Mapping[str, nn.Module]) -> None:
    """UserError for what can be the name neither of a module nor of an activation: `layers.0.relu@linear1`."""
    if not isinstance(name, str):
        raise UserError(f"the name of a module is a string, not a {type(name).__name__}; nearest: one of ng.trace's")
    act = re.split("[@#]", name)[0]
    parent, _, function = act.rpartition(".")
    if not name or (name not in modules and not (parent in modules and (function in NAMES or act != name))):
        raise UserError(f"no module '{name}'{nearest(name, filter(None, modules))}")


def _shape(x: Tensor) -> str:
    return " x ".join(map(str, x.shape)) or "a number"
