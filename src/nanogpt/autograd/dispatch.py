"""Which code runs for an operation: a table of kernels for each, looked up by the arguments at every call.

PyTorch decides twice (Yang 2019): first by device and by what has to be done around the numbers (autograd, a mode), in
this table; then by dtype, inside the kernel. Keys come in an order, and a kernel that has done its part calls the
operation again with its own key left out, so that the next one gets its turn:

    add(a, b)  ->  AUTOGRAD: runs what is below, records a node  ->  MODE: logs, if asked to  ->  CPU: numpy adds
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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


class State(threading.local):
    """What holds for the calls inside a `with`, in this thread.

    highest: keys above it have had their turn. modes: the innermost last. recording: whether operations are put on the
    tape. packing: what keeps saved tensors, and what gives them back (see tape.py)."""

    highest = Key.AUTOGRAD
    modes: tuple[Callable[[Operator, tuple[Any, ...]], Any], ...] = ()
    recording = True
    packing: tuple[Callable[[Any], Any], Callable[[Any], Any]] | None = None

    @contextmanager
    def having(self, **values: Any) -> Iterator[None]:
        before = {name: getattr(self, name) for name in values}
        self.__dict__.update(values)
        try:
            yield
        finally:
            self.__dict__.update(before)


STATE = State()
OPS: dict[str, Operator] = {}
"""Every operation there is, by its name."""


def is_tensor(x: Any) -> bool:
    return hasattr(x, "storage")


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
        if key != Key.MODE:
            return self.kernels[key](*args)
        *others, innermost = STATE.modes
        with STATE.having(modes=tuple(others)):  # it may call operations of its own
            return innermost(self, args)

    def key(self, args: tuple[Any, ...]) -> Key:
        """The first key, from the top, that the arguments and the surroundings ask for."""
        if STATE.highest >= Key.AUTOGRAD:
            return Key.AUTOGRAD
        if STATE.modes and STATE.highest >= Key.MODE:
            return Key.MODE
        devices = {a.device for a in args if is_tensor(a)}
        if len(devices) > 1:
            raise UserError(f"{self.name}: tensors on {' and '.join(sorted(devices))}; bring them to one device")
        return Key.META if devices == {"meta"} else Key.CPU

    def __repr__(self) -> str:
        return self.schema


def below(key: Key) -> AbstractContextManager[None]:
    """Calls inside skip this key, and those above it."""
    return STATE.having(highest=min(STATE.highest, Key(key - 1)))


def mode(function: Callable[[Operator, tuple[Any, ...]], Any]) -> AbstractContextManager[None]:
    """Put a function between every operation and its calculation: function(operator, args) -> result; it calls
    `operator(*args)` to go on."""
    return STATE.having(modes=(*STATE.modes, function))


@contextmanager
def logged() -> Iterator[list[str]]:
    """A list of the operations that are calculated inside, as `add (2, 3) (2, 3) -> (2, 3)`."""
    lines: list[str] = []

    def log(operator: Operator, args: tuple[Any, ...]) -> Any:
        out = operator(*args)
        shapes = " ".join(str(a.shape) for a in args if is_tensor(a))
        lines.append(f"{operator.name} {shapes} -> {out.shape}")
        return out

    with mode(log):
        yield lines
