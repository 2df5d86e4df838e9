"""Which code runs for an operation: a table of kernels for each, looked up by the arguments at every call.

PyTorch decides twice (Yang 2019): first by device and by what has to be done around the numbers (autograd, a mode), in
this table; then by dtype, inside the kernel. Keys come in an order, and a kernel that has done its part calls the
operation again with its own key left out, so that the next one gets its turn:

    add(a, b)  ->  AUTOGRAD: runs what is below, records a node  ->  MODE: logs, if asked to  ->  CPU: numpy adds
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from nanogpt.errors import UserError


class Key(IntEnum):
    """Reasons to run a kernel, the last one first."""

    CPU = 0
    """Calculate, with numpy."""
    META = 1
    """Work out shape and dtype, without numbers."""
    MODE = 2
    """Whatever a person put in between (see `mode`), as torch's TorchDispatchMode: below autograd, so that the
    operations of a backward pass are seen too."""
    AUTOGRAD = 3
    """Record how to go back."""


class _State(threading.local):
    def __init__(self) -> None:
        self.left_out: set[Key] = set()
        self.modes: list[Callable[..., Any]] = []


_state = _State()
OPS: dict[str, Operator] = {}
"""Every operation there is, by its name."""


class Operator:
    """One operation: its name, the names of its arguments, and its kernels."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.name, _, arguments = schema.rstrip(")").partition("(")
        self.arguments = tuple(a.strip() for a in arguments.split(","))
        self.kernels: dict[Key, Callable[..., Any]] = {}
        if self.name in OPS:
            raise UserError(f"an operation '{self.name}' is there already; give this one another name")

    def __call__(self, *args: Any) -> Any:
        if len(args) != len(self.arguments):
            raise UserError(f"{self.schema} takes {len(self.arguments)} arguments, not {len(args)}")
        key = self.key(args)
        if key == Key.MODE:
            return self._through_mode(args)
        kernel = self.kernels.get(key)
        if kernel is None:
            there = ", ".join(k.name for k in self.kernels)
            raise UserError(f"{self.name} has no kernel for {key.name} (there is: {there})")
        return kernel(*args)

    def key(self, args: tuple[Any, ...]) -> Key:
        """The first key, from the top, that the arguments and the surroundings ask for."""
        if Key.AUTOGRAD in self.kernels and Key.AUTOGRAD not in _state.left_out:
            return Key.AUTOGRAD
        if _state.modes and Key.MODE not in _state.left_out:
            return Key.MODE
        devices = {a.device for a in args if hasattr(a, "storage")}
        if len(devices) > 1:
            raise UserError(f"{self.name}: tensors on {' and '.join(sorted(devices))}; bring them to one device")
        return Key.META if devices == {"meta"} else Key.CPU

    def _through_mode(self, args: tuple[Any, ...]) -> Any:
        """The innermost mode, with itself taken off the stack while it runs."""
        taken = _state.modes.pop()
        try:
            return taken(self, args)
        finally:
            _state.modes.append(taken)

    def __repr__(self) -> str:
        return self.schema


@contextmanager
def below(key: Key) -> Iterator[None]:
    """Calls inside skip this key, and those above it."""
    before = _state.left_out
    _state.left_out = before | {k for k in Key if k >= key}
    try:
        yield
    finally:
        _state.left_out = before


@contextmanager
def mode(function: Callable[[Operator, tuple[Any, ...]], Any]) -> Iterator[None]:
    """Put a function between every operation and its calculation: function(operator, args) -> result; it calls
    `operator(*args)` to go on."""
    _state.modes.append(function)
    try:
        yield
    finally:
        _state.modes.remove(function)


@contextmanager
def logged() -> Iterator[list[str]]:
    """A list of the operations that are calculated inside, as `add (2, 3) (2, 3) -> (2, 3)`."""
    lines: list[str] = []

    def log(operator: Operator, args: tuple[Any, ...]) -> Any:
        out = operator(*args)
        shapes = " ".join(str(a.shape) for a in args if hasattr(a, "storage"))
        lines.append(f"{operator.name} {shapes} -> {out.shape}")
        return out

    with mode(log):
        yield lines
