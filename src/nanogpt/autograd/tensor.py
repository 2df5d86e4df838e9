"""The tensor: a view of a storage, and what autograd knows about it. Its operations are in ops.py."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nanogpt.autograd import storage as memory
from nanogpt.autograd.dispatch import OPS, STATE
from nanogpt.autograd.storage import Shape, Storage, Strided
from nanogpt.autograd.tape import AccumulateGrad, Hook, Node, must_be_like, run
from nanogpt.errors import UserError

DTYPES = tuple(np.dtype(name) for name in ("float64", "float32", "int64", "bool"))


def _unary(name: str) -> Callable[[Tensor], Tensor]:
    return lambda x: OPS[name](x)


def _binary(name: str) -> Callable[[Tensor, Tensor | float], Tensor]:
    """Broadcast, then one operation on equal shapes; a plain number stays a number."""

    def call(a: Tensor, b: Tensor | float) -> Tensor:
        if not isinstance(b, Tensor):
            return OPS[name](a, _number(name, a, b))
        shape = memory.broadcast(name, a.shape, b.shape)
        return OPS[name](_stretched(a, shape), _stretched(b, shape))

    return call


def _stretched(x: Tensor, shape: Shape) -> Tensor:
    return x if x.shape == shape else OPS["expand"](x, shape)


class Tensor(Strided):
    """Numbers in some shape, and where they came from. Made by `tensor(...)`, by operations, by views of others.

    requires_grad: operations on it are recorded. grad: d(result)/d(this) of a leaf, after `result.backward()`.
    grad_fn: the node that made it; None for a leaf.
    """

    __array_ufunc__ = None  # numpy leaves `np.float64(2) * x` to us

    def __init__(self, storage: Storage, shape: Shape, strides: Shape, offset: int = 0) -> None:
        super().__init__(storage, shape, strides, offset)
        self.requires_grad = False
        self.grad: Tensor | None = None
        self.grad_fn: Node | None = None
        self.base: Tensor | None = None
        self._seen_rewrites = storage.rewrites
        self._accumulate: AccumulateGrad | None = None

    # -- autograd -----------------------------------------------------------------------------------------------------

    def detach(self) -> Tensor:
        """The same numbers (the memory is shared), without a past."""
        return Tensor(self.storage, self.shape, self.strides, self.offset)

    def look(self, shape: Shape, strides: Shape, offset: int | None = None) -> Tensor:
        """Another view of the same storage; autograd is told by the operation that asks for it."""
        view = Tensor(self.storage, shape, strides, self.offset if offset is None else offset)
        view.base = self if self.base is None else self.base
        return view

    @property
    def is_leaf(self) -> bool:
        return self.grad_fn is None

    def requires_grad_(self, on: bool = True) -> Tensor:
        if on and self.dtype.kind != "f":
            raise UserError(f"{self.dtype} numbers have no gradient; nearest: .to('float64')")
        if not on and not self.is_leaf:
            raise UserError(f"this tensor {self.shape} was made of others that require a gradient; nearest: .detach()")
        self.requires_grad = on
        return self

    def node(self) -> Node:
        """Where its gradient goes: the node that made it, or the one that adds to `grad`."""
        if self.grad_fn is not None:
            return self.grad_fn
        self._accumulate = self._accumulate or AccumulateGrad(self)
        return self._accumulate

    def backward(
        self, gradient: Tensor | None = None, *, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add d(this)/d(leaf) to the `grad` of every leaf. gradient: of whatever this goes into; 1 for one number.
        retain_graph: keep what was saved for a second pass. create_graph: gradients that have gradients."""
        run(*_root(self, gradient), retain=retain_graph or create_graph, create=create_graph)

    def register_hook(self, hook: Hook) -> Callable[[], None]:
        """Call `hook` with its gradient, which it may replace by what it returns. Answers how to take it off again."""
        hooks = _must_require(self).node().hooks
        hooks.append(hook)
        return lambda: hooks.remove(hook) if hook in hooks else None

    def retain_grad(self) -> None:
        """Keep `grad` although this is no leaf."""
        if not _must_require(self).is_leaf:
            self.node().retaining = weakref.ref(self)

    def check_history(self) -> None:
        """Raises UserError for a view whose base was since changed on the tape: its own history is of old numbers."""
        if self.base is not None and self._seen_rewrites != self.storage.rewrites:
            raise UserError(f"this view {self.shape} was made before its base was changed in place; make it again")

    def _rewrite(self, work: Callable[[Tensor], Tensor]) -> Tensor:
        """Put work(self) in the place of these numbers.

        On the tape it is an ordinary operation on a copy, whose result takes this tensor's name: what others saved of
        the old numbers is then out of date, which their version says.
        """
        recorded = STATE.recording
        if recorded and self.requires_grad and self.is_leaf:
            raise UserError("a leaf that requires a gradient cannot be changed in place; nearest: with no_grad():")
        if any(s == 0 and n > 1 for s, n in zip(self.strides, self.shape, strict=True)):
            raise UserError(f"several numbers of this tensor {self.shape} are one in memory; nearest: .clone()")
        out = work(self.clone() if recorded else self)
        changed = recorded and (out.requires_grad or self.requires_grad)
        if self.base is not None and (changed or (recorded and self.base.requires_grad)):
            raise UserError("a change in place of a view is not on this tape; nearest: change its base, or a clone")
        must_be_like(out, self.dtype, self.shape, "what is to be put in place of this tensor's numbers")
        self.numpy()[...] = out.numpy()
        self.storage.version += 1
        if changed:
            if self.grad_fn is not None and self.grad_fn.retaining:  # a retained gradient is of the new numbers
                out.node().retaining, self.grad_fn.retaining = self.grad_fn.retaining, None
            self.grad_fn, self.requires_grad = out.grad_fn, out.requires_grad
            self.storage.rewrites += 1
            self._seen_rewrites = self.storage.rewrites
        return self

    def add_(self, other: Tensor | float) -> Tensor:
        return self._rewrite(lambda x: x + other)

    def sub_(self, other: Tensor | float) -> Tensor:
        return self._rewrite(lambda x: x - other)

    def mul_(self, other: Tensor | float) -> Tensor:
        return self._rewrite(lambda x: x * other)

    def zero_(self) -> Tensor:
        return self._rewrite(lambda x: zeros(x.shape, x.dtype))

    def copy_(self, other: Tensor) -> Tensor:
        return self._rewrite(lambda x: _tensor("copy_", other).expand(*x.shape).clone())

    # -- operations ---------------------------------------------------------------------------------------------------

    __add__ = __radd__ = _binary("add")
    __mul__ = __rmul__ = _binary("mul")
    __sub__, __truediv__, __gt__ = _binary("sub"), _binary("div"), _binary("gt")
    eq = __eq__ = _binary("eq")  # type: ignore[assignment]
    __hash__ = object.__hash__
    __neg__, exp, log, tanh, erf = _unary("neg"), _unary("exp"), _unary("log"), _unary("tanh"), _unary("erf")
    sin, cos, relu = _unary("sin"), _unary("cos"), _unary("relu")

    def __rsub__(self, other: float) -> Tensor:
        return -self + other

    def __rtruediv__(self, other: float) -> Tensor:
        return self**-1 * other

    def __pow__(self, power: float) -> Tensor:
        return OPS["pow"](self, _number("pow", self, power))

    def sqrt(self) -> Tensor:
        return self**0.5

    def to(self, dtype: str | np.dtype) -> Tensor:
        return OPS["to"](self, _dtype(dtype))

    def clone(self) -> Tensor:
        """A copy in memory of its own, in order."""
        return OPS["clone"](self)

    def contiguous(self) -> Tensor:
        return self if self.is_contiguous() else self.clone()

    def sum(self, dims: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        return _reduce("sum", self, dims, keepdim)

    def max(self, dims: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """Equal largest numbers share the gradient."""
        return _reduce("max", self, dims, keepdim)

    def mean(self, dims: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        total = self.sum(dims, keepdim)
        return total / (self.numel() / max(1, total.numel()))

    def __matmul__(self, other: Tensor) -> Tensor:
        """(..., n, k) @ (..., k, m) -> (..., n, m); what stands before is broadcast."""
        _tensor("@", other)
        if self.ndim < 2 or other.ndim < 2 or self.shape[-1] != other.shape[-2]:
            raise UserError(f"{self.shape} @ {other.shape}: the last size must be the other's last but one")
        batch = memory.broadcast("@, before the matrices", self.shape[:-2], other.shape[:-2])
        return OPS["matmul"](*(_stretched(x, (*batch, *x.shape[-2:])) for x in (self, other)))

    # -- views --------------------------------------------------------------------------------------------------------

    def view(self, *shape: int) -> Tensor:
        """The same memory in another shape; one size may be -1. Raises UserError where strides do not allow it."""
        return OPS["view"](self, memory.filled("view", shape, self.shape))

    def reshape(self, *shape: int) -> Tensor:
        """A view, where strides allow it, else a copy."""
        whole = memory.filled("reshape", shape, self.shape)
        return OPS["view"](self if memory.restride(self.shape, self.strides, whole) else self.clone(), whole)

    def permute(self, *dims: int) -> Tensor:
        order = memory.dimensions("permute", dims, self.shape)
        if sorted(order) != list(range(self.ndim)):
            raise UserError(f"permute{order}: a tensor {self.shape} needs each of its {self.ndim} dimensions once")
        return OPS["permute"](self, order)

    def transpose(self, a: int, b: int) -> Tensor:
        a, b = memory.dimensions("transpose", (a, b), self.shape)
        order = list(range(self.ndim))
        order[a], order[b] = b, a
        return OPS["permute"](self, tuple(order))

    @property
    def mT(self) -> Tensor:
        return self.transpose(-2, -1)

    def expand(self, *shape: int) -> Tensor:
        """Broadcast: new dimensions, and those of size 1, get the stride 0. -1 leaves a size as it is."""
        return OPS["expand"](self, memory.expanded(shape, self.shape))

    def __getitem__(self, index: Any) -> Tensor:
        """x[2], x[1:3], x[..., 0]: a view. x[ids], with a tensor of whole numbers: rows, copied."""
        if isinstance(index, Tensor):
            return OPS["take"](self, index)
        items = list(index) if isinstance(index, tuple) else [index]
        for n in [n for n, item in enumerate(items) if item is Ellipsis][:1]:
            items[n : n + 1] = [slice(None)] * (self.ndim - len(items) + 1)
        if len(items) > self.ndim:
            raise UserError(f"{len(items)} indices are too many for a tensor {self.shape}")
        out, dim = self, 0
        for item in items:
            out, dim = _cut(out, dim, item)
        return self.view(*self.shape) if out is self else out

    def __iter__(self) -> Iterator[Tensor]:
        return (self[n] for n in range(len(self)))

    def tolist(self) -> Any:
        return self.numpy().tolist()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __repr__(self) -> str:
        on_meta = self.device == "meta"
        numbers = f"shape {self.shape}, meta" if on_meta else np.array2string(self.numpy(), separator=", ")
        made = f", grad_fn={self.grad_fn}" if self.grad_fn else ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({numbers}, {self.dtype}{made})"


def tensor(data: Any, dtype: str | np.dtype | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor with memory of its own, from numbers, lists or a numpy array. Python's own numbers become float64 or
    int64."""
    wanted = None if dtype is None else _dtype(dtype)
    try:
        array = np.array(data.numpy() if isinstance(data, Tensor) else data, dtype=wanted)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"no tensor can be made of this: {error}; nearest: rows of one length, as in [[1, 2], [3, 4]]"
                        ) from None  # fmt: skip
    _dtype(array.dtype)
    return wrap(array).requires_grad_(requires_grad)


def wrap(array: np.ndarray) -> Tensor:
    """A numpy array as a tensor; its memory where that is in order."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return Tensor(Storage(flat.size, flat.dtype, flat), array.shape, memory.contiguous(array.shape))


def zeros(shape: Shape, dtype: str | np.dtype = "float64") -> Tensor:
    return wrap(np.zeros(memory.sizes("zeros", shape), _dtype(dtype)))


def empty_meta(shape: Shape, dtype: str | np.dtype = "float64") -> Tensor:
    """A tensor of this shape on the device meta: no numbers, no memory."""
    shape = memory.sizes("empty_meta", shape)
    return Tensor(Storage(math.prod(shape), _dtype(dtype), None), shape, memory.contiguous(shape))


def grad(
    outputs: Tensor, inputs: Sequence[Tensor], gradient: Tensor | None = None, *,
    retain_graph: bool = False, create_graph: bool = False, allow_unused: bool = False,
) -> list[Tensor]:  # fmt: skip
    """d(outputs)/d(each input), as a list; nobody's `grad` is touched. Of an input that the output does not depend on:
    zeros where `allow_unused`, else UserError."""
    nodes = [_must_require(x).node() for x in inputs]
    found = run(*_root(outputs, gradient), retain=retain_graph or create_graph, create=create_graph, wanted=nodes)
    for n, node in enumerate(nodes):
        if node not in found and not allow_unused:
            raise UserError(f"the output does not depend on input {n}, {inputs[n].shape}")
    return [found[node] if node in found else zeros(x.shape, x.dtype) for node, x in zip(nodes, inputs, strict=True)]


def _root(output: Tensor, gradient: Tensor | None) -> tuple[Node, Tensor]:
    _must_require(output).check_history()
    if gradient is None:
        if output.numel() != 1:
            raise UserError(
                f"backward() of a tensor {output.shape} needs a gradient of that shape; nearest: .sum().backward()"
            )
        gradient = wrap(np.ones(output.shape, output.dtype))
    must_be_like(gradient, output.dtype, output.shape, "the gradient that backward starts from")
    return output.node(), gradient


def _must_require(x: Tensor) -> Tensor:
    if not x.requires_grad:
        raise UserError(f"this tensor {x.shape} requires no gradient and was made of none that does")
    return x


def _tensor(name: str, x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise UserError(f"{name}: a tensor and {type(x).__name__}; nearest: tensor(...)")
    return x


def _dtype(dtype: str | np.dtype) -> np.dtype:
    for known in DTYPES:
        if dtype in (known, known.name):
            return known
    raise UserError(f"dtype {dtype}: there is {', '.join(map(str, DTYPES))}")


def _number(name: str, a: Tensor, b: Any) -> float:
    """A plain number beside a tensor: it takes the tensor's dtype, as in PyTorch, or is refused."""
    if not isinstance(b, (int, float, np.number)):
        raise UserError(f"{name}: a tensor and {type(b).__name__}; nearest: a number, or tensor(...)")
    b = b.item() if isinstance(b, np.number) else b
    if a.dtype.kind == "i" and isinstance(b, float) and name not in ("gt", "eq"):
        raise UserError(f"{name}: numbers of {a.dtype}, and {b}; nearest: .to('float64')")
    return b


def _reduce(name: str, x: Tensor, dims: int | Sequence[int] | None, keepdim: bool) -> Tensor:
    which = list(range(x.ndim)) if dims is None else [dims]
    whole = tuple(sorted(set(memory.dimensions(name, which, x.shape))))
    if name == "max" and any(x.shape[d] == 0 for d in whole):
        raise UserError(f"max: nothing is the largest of no numbers, {x.shape}")
    out = OPS[name](x, whole)  # which keeps every dimension, with size 1
    return out if keepdim or not whole else out.view(*(n for d, n in enumerate(x.shape) if d not in whole))


def _cut(x: Tensor, dim: int, item: Any) -> tuple[Tensor, int]:
    """One index along one dimension; the dimension that comes next."""
    size = x.shape[dim]
    if isinstance(item, slice):
        start, stop, step = item.indices(size)
        if step < 1:
            raise UserError("a slice with a negative step is no view here")
        whole = (start, stop, step) == (0, size, 1)
        return (x if whole else OPS["slice"](x, dim, start, max(start, stop), step)), dim + 1
    if not isinstance(item, (int, np.integer)):
        raise UserError(f"an index is a number, a slice, or alone a tensor of whole numbers, not {type(item).__name__}")
    if not -size <= item < size:
        raise UserError(f"index {item} is outside dimension {dim} of a tensor {x.shape}")
    row = OPS["slice"](x, dim, item % size, item % size + 1, 1)
    return row.view(*(n for d, n in enumerate(row.shape) if d != dim)), dim
