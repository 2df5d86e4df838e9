"""To run a model and leave no trace: random state, gradients, buffers and modes are as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

SEED = 0
"""Of whatever is random in a look, so that one look is like the next."""


def eager(model: nn.Module) -> nn.Module:
    """The model itself, out of what torch.compile and DistributedDataParallel wrap it in."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def device_of(model: nn.Module) -> torch.device:
    """Of its first parameter or, without one, buffer."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode, but for modules that keep statistics of batches: they go by the batch,
    as in training. Compiled code runs uncompiled, since it would not see hooks. Afterwards all is as before."""
    modules = list(model.modules())
    with ExitStack() as stack:
        for guard in (
            _random(device_of(model)), _buffers(modules), _modes(modules), _gradients(modules), _uncompiled()
        ):  # fmt: skip
            stack.enter_context(guard)
        yield


@contextmanager
def _random(device: torch.device) -> Iterator[None]:
    python, of_numpy = random.getstate(), np.random.get_state()
    host = torch.default_generator.get_state()
    module = getattr(torch, device.type, None)
    there = device.type != "cpu" and hasattr(module, "get_rng_state")
    on_device = module.get_rng_state(*([device] if device.type == "cuda" else [])) if there and module else None
    random.seed(SEED)
    np.random.seed(SEED)
    torch.default_generator.manual_seed(SEED)
    if on_device is not None and module:
        module.manual_seed(SEED)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)
        torch.default_generator.set_state(host)
        if on_device is not None and module:
            module.set_rng_state(on_device, *([device] if device.type == "cuda" else []))


@contextmanager
def _buffers(modules: list[nn.Module]) -> Iterator[None]:
    """Also those that a forward pass replaces by new ones."""
    held: list[tuple[nn.Module, dict[str, Tensor | None], dict[str, Tensor]]] = []
    for module in modules:
        if own := dict(module._buffers):
            held.append((module, own, {name: b.detach().clone() for name, b in own.items() if b is not None}))
    try:
        yield
    finally:
        with torch.no_grad():
            for module, own, values in held:
                for name, buffer in own.items():
                    if buffer is not None:
                        buffer.copy_(values[name])
                module._buffers.clear()
                module._buffers.update(own)


@contextmanager
def _modes(modules: list[nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for module in modules]
    for module in modules:  # by the dictionary: an assignment to a module takes ten times as long
        module.__dict__["training"] = module._buffers.get("running_mean") is not None
    try:
        yield
    finally:
        for module, training in modes:
            module.__dict__["training"] = training


@contextmanager
def _gradients(modules: list[nn.Module]) -> Iterator[None]:
    held = [(p, p.grad) for module in modules for p in module._parameters.values() if p is not None]
    try:
        yield
    finally:
        for parameter, gradient in held:
            if parameter.grad is not gradient:
                parameter.grad = gradient


@contextmanager
def _uncompiled() -> Iterator[None]:
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled, and to import it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
