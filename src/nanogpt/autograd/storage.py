"""Memory, and how a tensor looks at it: a row of numbers, and strides.

Number (i, j, k) of a tensor lies at place

    offset + i stride[0] + j stride[1] + k stride[2]

of its storage (Yang 2019, "PyTorch internals"). A view is another shape, stride and offset on the same storage: a
transpose swaps two strides, a slice moves the offset, an expanded dimension has stride 0. Nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

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

    def data_ptr(self) -> int:
        """Where the memory lies: two tensors that answer alike share it."""
        return 0 if self.numbers is None else self.numbers.ctypes.data

    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


def contiguous(shape: Shape) -> Shape:
    """Strides of rows one after the other, the last dimension in neighbouring places: (2, 3, 4) -> (12, 4, 1)."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_contiguous(shape: Shape, strides: Shape) -> bool:
    wanted = contiguous(shape)
    return 0 in shape or all(n == 1 or s == w for n, s, w in zip(shape, strides, wanted, strict=True))


def address(index: Sequence[int], strides: Shape, offset: int) -> int:
    """The place in the storage of the number at `index`: the formula above."""
    return offset + sum(i * s for i, s in zip(index, strides, strict=True))


def broadcast(*shapes: Shape) -> Shape | None:
    """The shape that all can be expanded to: right-aligned, equal sizes, or 1. None where there is none."""
    out = []
    for n in range(1, max(map(len, shapes), default=0) + 1):
        sizes = {shape[-n] for shape in shapes if len(shape) >= n} - {1}
        if len(sizes) > 1:
            return None
        out.append(sizes.pop() if sizes else 1)
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


def filled(new: Sequence[int], shape: Shape) -> Shape:
    """The new shape with its -1 replaced. Raises UserError where the count of numbers is another."""
    size, known = math.prod(shape), math.prod(n for n in new if n != -1)
    whole = tuple(size // known if n == -1 and known else n for n in new)
    if list(new).count(-1) > 1 or min(whole, default=0) < 0 or math.prod(whole) != size:
        raise UserError(f"a tensor {shape} of {size} numbers has no view of shape {tuple(new)}")
    return whole


class Strided:
    """A way to look at a storage: shape, strides, and the place of the first number."""

    def __init__(self, storage: Storage, shape: Shape, strides: Shape, offset: int = 0) -> None:
        self.storage, self.shape, self.strides, self.offset = storage, shape, strides, offset

    def look(self, shape: Shape, strides: Shape, offset: int | None = None) -> Self:
        """Another view of the same storage."""
        return type(self)(self.storage, shape, strides, self.offset if offset is None else offset)

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
        return is_contiguous(self.shape, self.strides)

    def numpy(self) -> np.ndarray:
        """A numpy array over the same memory."""
        if self.storage.numbers is None:
            raise UserError(f"a tensor {self.shape} on the device meta has a shape, but no numbers")
        step = self.dtype.itemsize
        strides = tuple(s * step for s in self.strides)
        return np.ndarray(self.shape, self.dtype, self.storage.numbers, self.offset * step, strides)

    def item(self) -> float:
        if self.numel() != 1:
            raise UserError(f"item() is for one number, and this is {self.shape}; nearest: .sum().item()")
        return self.numpy().reshape(-1)[0].item()
