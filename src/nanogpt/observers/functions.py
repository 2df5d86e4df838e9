"""Activations that are no modules: `F.relu(self.fc(x))`, `x.tanh()` in someone's forward, seen as they are called.

A function has the name of the module in whose forward it stands and its own: `layers.0.relu`. Not seen is what happens
in one fused operation, as in nn.LSTM, or in TorchScript: `unseen` says where.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NAMES = (
    "relu", "relu6", "gelu", "silu", "mish", "elu", "celu", "selu", "leaky_relu", "softplus", "hardtanh", "hardswish",
    "hardsigmoid", "logsigmoid", "softsign", "tanh", "sigmoid",
)  # fmt: skip
"""Of activations; with an underscore they work in place."""
FUNCTIONS: dict[Any, str] = {
    function: name
    for name in NAMES
    for home in (F, torch, Tensor)
    for written in (name, f"{name}_")
    if callable(function := getattr(home, written, None))
}
FUSED = (nn.RNNBase, nn.RNNCellBase, torch.jit.ScriptModule)
"""What happens inside of these is out of sight."""


def unseen(model: nn.Module) -> list[str]:
    """Modules with activations that cannot be seen: `lstm (LSTM)`."""
    return [
        f"{name or 'model'} ({type(one).__name__})" for name, one in model.named_modules() if isinstance(one, FUSED)
    ]


class Function(nn.Module):
    """One function with its other arguments as a module, so that it can be tried on numbers."""

    def __init__(self, name: str, function: Callable[..., Tensor], rest: tuple[Any, ...], kwargs: Any) -> None:
        super().__init__()
        self.called, self.function, self.rest, self.kwargs = name, function, rest, kwargs

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.clone(), *self.rest, **self.kwargs)  # it may work in place


class Functions(TorchFunctionMode):
    """Within, `tell(name, module, output, input)` is called for each of FUNCTIONS that stands in the forward of a
    module of `model`, but for those in `known` and our own: these are activations, or have theirs as modules. A tensor
    that it returns takes the output's place."""

    def __init__(
        self, model: nn.Module, known: set[int], tell: Callable[[str, nn.Module, Tensor, Tensor], Tensor | None]
    ) -> None:
        super().__init__()
        self.names = {id(module): name for name, module in model.named_modules()}
        self.known, self.tell = known, tell
        self.callers: list[nn.Module] = []

    def __enter__(self) -> Any:
        modules = torch.nn.modules.module
        self.handles = [
            modules.register_module_forward_pre_hook(lambda module, _: self.callers.append(module)),
            modules.register_module_forward_hook(self._left, always_call=True),
        ]
        return super().__enter__()

    def _left(self, *_: Any) -> None:
        self.callers.pop()

    def __exit__(self, *problem: Any) -> Any:
        for handle in self.handles:
            handle.remove()
        return super().__exit__(*problem)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        name = FUNCTIONS.get(func)
        if name is not None and args and self._counts(args[0]):
            where = self.names[id(self.callers[-1])]
            module = Function(name, func, args[1:], kwargs or {})
            new = self.tell(f"{where}.{name}" if where else name, module, y, args[0])
            if new is not None:
                return y.copy_(new) if y is args[0] else new  # it worked in place
        return y

    def _counts(self, x: Any) -> bool:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not self.callers:
            return False
        caller = self.callers[-1]
        ours = type(caller).__module__.startswith("nanogpt.")
        return id(caller) in self.names and not ours and not any(id(module) in self.known for module in self.callers)
