"""Memory, and how a tensor looks at it: a row of numbers, and strides.

Number (i, j, k) of a tensor lies at place

    offset + i stride[0] + j stride[1] + k stride[2]

of its storage (Yang 2019, "PyTorch internals"). A view is another shape, stride and offset on the same storage: a
transpose swaps two strides, a slice moves the offset, an expanded dimension has stride 0. Nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from nanogpt.errors import UserError

Shape = tuple[int, ...]


class Storage:
    """Numbers in a row, or on the device "meta" only their count.

    numbers: a numpy array of one dimension, used as raw memory; None on "meta".
    version: how often it was changed in place: what autograd saved is still right if this has not moved.
    rewrites: changes that autograd recorded: views made before one of these would have an old history.
    """

    __slots__ = ("dtype", "numbers", "rewrites", "size", "version")

    def __init__(self, size: int, dtype: np.dtype, numbers: np.ndarray | None) -> None:
        self.size, self.dtype, self.numbers = size, dtype, numbers
        self.version = self.rewrites = 0

    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


def contiguous(shape: Shape) -> Shape:
    """Strides of rows one after the other, the last dimension in neighbouring places: (2, 3, 4) -> (12, 4, 1)."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def whole_numbers(what: str, given: Sequence[Any]) -> Shape:
    """Sizes or dimensions, given as (2, 3) or ((2, 3),). Raises UserError where one is no whole number."""
    numbers = tuple(given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given)
    if not all(isinstance(n, (int, np.integer)) for n in numbers):
        raise UserError(f"{what}{numbers}: these are whole numbers, as in {what}(2, 3)")
    return tuple(map(int, numbers))


def sizes(what: str, given: Any) -> Shape:
    """A shape to fill. Raises UserError for a negative size."""
    shape = whole_numbers(what, [given])
    if min(shape, default=0) < 0:
        raise UserError(f"{what}{shape}: no size is below 0")
    return shape


def dimensions(what: str, given: Sequence[Any], shape: Shape) -> Shape:
    """Counted from the front: -1 is the last one. Raises UserError for one that is not there."""
    dims = whole_numbers(what, given)
    for d in dims:
        if not -len(shape) <= d < len(shape):
            raise UserError(f"{what}: a tensor {shape} has no dimension {d}")
    return tuple(d % len(shape) for d in dims)


def address(index: Sequence[int], strides: Shape, offset: int) -> int:
    """The place in the storage of the number at `index`: the formula above."""
    return offset + sum(i * s for i, s in zip(index, strides, strict=True))


def broadcast(what: str, a: Shape, b: Shape) -> Shape:
    """The shape that both can be expanded to, compared from the right. Raises UserError where there is none."""
    out = []
    for n, m in zip_longest(reversed(a), reversed(b), fillvalue=1):
        if n != m and 1 not in (n, m):
            raise UserError(f"{what}: {a} and {b} cannot be broadcast: sizes must be equal, or 1, from the right")
        out.append(m if n == 1 else n)
    return tuple(reversed(out))


def restride(shape: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides under which the same memory, read in the same order, has the shape `new`; None where it must be copied.

    Neighbouring dimensions that one step leads through are joined into runs; each run is then cut up from its end.
    """
    if math.prod(shape) == 0:
        return contiguous(new)
    runs: list[list[int]] = []  # [numbers left, step between them]
    for size, stride in zip(shape, strides, strict=True):
        if runs and runs[-1][1] == size * stride:
            runs[-1] = [runs[-1][0] * size, stride]
        elif size > 1:
            runs.append([size, stride])
    out: list[int] = []
    for size in reversed(new):
        if size == 1:
            out.append(1)  # never used: such an index is always 0
            continue
        while runs and runs[-1][0] == 1:
            runs.pop()
        if not runs or runs[-1][0] % size:
            return None
        out.append(runs[-1][1])
        runs[-1] = [runs[-1][0] // size, runs[-1][1] * size]
    return tuple(reversed(out))


def filled(what: str, given: Sequence[Any], shape: Shape) -> Shape:
    """The new shape with its -1 replaced. Raises UserError where the count of numbers is another."""
    new = whole_numbers(what, given)
    size, known = math.prod(shape), math.prod(n for n in new if n != -1)
    whole = tuple(size // known if n == -1 and known else n for n in new)
    if new.count(-1) > 1 or min(whole, default=0) < 0 or math.prod(whole) != size:
        raise UserError(f"a tensor {shape} of {size} numbers has no view of shape {new}")
    return whole


def expanded(given: Sequence[Any], shape: Shape) -> Shape:
    """The shape to broadcast to, with its -1 replaced. Raises UserError where `shape` cannot be."""
    wanted = whole_numbers("expand", given)
    new = len(wanted) - len(shape)
    full = tuple(shape[d - new] if n == -1 and d >= new else n for d, n in enumerate(wanted))
    if new < 0 or min(full, default=0) < 0 or any(n not in (1, m) for n, m in zip(shape, full[new:], strict=True)):
        raise UserError(f"a tensor {shape} cannot be expanded to {wanted}: only new dimensions, and those of size 1")
    return full


class Strided:
    """A way to look at a storage: shape, strides, and the place of the first number."""

    def __init__(self, storage: Storage, shape: Shape, strides: Shape, offset: int = 0) -> None:
        self.storage, self.shape, self.strides, self.offset = storage, shape, strides, offset

    @property
    def dtype(self) -> np.dtype:
        return self.storage.dtype

    @property
    def device(self) -> str:
        return "meta" if self.storage.numbers is None else "cpu"

    @property
    def version(self) -> int:
        """How often the memory under it was changed in place, through this tensor or another one."""
        return self.storage.version

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise UserError("a tensor of shape () has no length")
        return self.shape[0]

    def is_contiguous(self) -> bool:
        wanted = zip(self.shape, self.strides, contiguous(self.shape), strict=True)
        return 0 in self.shape or all(n == 1 or stride == step for n, stride, step in wanted)

    def numpy(self) -> np.ndarray:
        """A numpy array over the same memory."""
        if self.storage.numbers is None:
            raise UserError(f"a tensor {self.shape} on the device meta has a shape, but no numbers")
        if 0 in self.shape:  # its offset may be the end of the memory
            return np.empty(self.shape, self.dtype)
        step = self.dtype.itemsize
        strides = tuple(s * step for s in self.strides)
        return np.ndarray(self.shape, self.dtype, self.storage.numbers, self.offset * step, strides)

    def item(self) -> float:
        if self.numel() != 1:
            raise UserError(f"item() is for one number, and this is {self.shape}; nearest: .sum().item()")
        return self.numpy().reshape(-1)[0].item()
