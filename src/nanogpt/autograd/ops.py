"""The operations: for each a kernel that calculates, its shape, and a formula for the gradient of each input.

This is the engine's derivatives.yaml. A formula takes g, the gradient of the result, and names what else it needs;
see `Differentiable`. Everything else (softmax, norms, attention) is made of these: functional.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogpt.autograd import storage as memory
from nanogpt.autograd.dispatch import OPS, Key, Operator
from nanogpt.autograd.storage import Shape
from nanogpt.autograd.tape import Differentiable
from nanogpt.autograd.tensor import Tensor, empty_meta, wrap
from nanogpt.errors import UserError

FLOATS, NUMBERS, ANY = "f", "fi", "fib"
"""Kinds of dtype (numpy's letters): the second dispatch."""
SELECTING = ("mask", "ids")
"""Arguments that choose among the others' numbers: of a dtype of their own."""


def define(
    schema: str, kernel: Callable[..., Any], *, shape: Callable[..., Shape] | None = None, of: str = FLOATS,
    gives: str | None = None, **formulas: Callable[..., Tensor],
) -> Operator:  # fmt: skip
    """A new operation. schema: "name(a, b)". kernel: numpy arrays -> numpy array. shape: the arguments' shapes, and
    plain values as they are -> the result's; by default all tensors have the same, and so has the result.
    of: kinds of dtype it takes. gives: the result's dtype where it is another, or the argument that names it.
    formulas: argument -> its gradient."""
    op = Differentiable(schema, formulas)

    def expected(args: tuple[Any, ...]) -> tuple[Shape, np.dtype]:
        named = dict(zip(op.arguments, args, strict=True))
        tensors = {name: a for name, a in named.items() if isinstance(a, Tensor)}
        shapes = [a.shape for a in tensors.values()]
        dtypes = [a.dtype for name, a in tensors.items() if name not in SELECTING]
        if shape is None and len(set(shapes)) > 1:
            raise UserError(f"{op.name}: shapes {' and '.join(map(str, shapes))} differ")
        if len(set(dtypes)) > 1:
            raise UserError(f"{op.name}: tensors of {' and '.join(map(str, dtypes))}; nearest: .to('{dtypes[0]}')")
        if dtypes[0].kind not in of:
            raise UserError(f"{op.name} is not there for {dtypes[0]}; nearest: .to('float64')")
        size = shape(*(a.shape if isinstance(a, Tensor) else a for a in args)) if shape else shapes[0]
        return size, np.dtype(named[gives] if gives in named else gives or dtypes[0])

    def calculate(*args: Any) -> Tensor:
        size, dtype = expected(args)
        with np.errstate(all="ignore"):  # infinite, or not a number: that is an answer too
            out = np.asarray(kernel(*(a.numpy() if isinstance(a, Tensor) else a for a in args)))
        if (out.shape, out.dtype) != (size, dtype):
            raise UserError(f"{op.name}: its kernel gave {out.dtype} {out.shape}, not {dtype} {size}")
        return wrap(out if out.flags.owndata else out.copy())  # not an argument's own memory

    op.kernels |= {Key.CPU: calculate, Key.META: lambda *args: empty_meta(*expected(args))}
    return op


def define_view(schema: str, look: Callable[..., Tensor], **formulas: Callable[..., Tensor]) -> Operator:
    """An operation that only looks at the same memory in another way: the same kernel for every device."""
    op = Differentiable(schema, formulas)
    op.kernels |= {Key.CPU: look, Key.META: look}
    return op


_erf = np.frompyfunc(math.erf, 1, 1)
"""numpy has none: Python's, number by number."""

# -- number by number -------------------------------------------------------------------------------------------------

define("add(a, b)", lambda a, b: a + b, of=NUMBERS, a=lambda g: g, b=lambda g: g)
define("sub(a, b)", lambda a, b: a - b, of=NUMBERS, a=lambda g: g, b=lambda g: -g)
define("mul(a, b)", lambda a, b: a * b, of=NUMBERS, a=lambda g, b: g * b, b=lambda g, a: g * a)
define("div(a, b)", lambda a, b: a / b, a=lambda g, b: g / b, b=lambda g, a, b: -g * (a / b) / b)
define("neg(a)", lambda a: -a, of=NUMBERS, a=lambda g: -g)
define("pow(a, n)", lambda a, n: a**n, a=lambda g, a, n: g * (a ** (n - 1) * n) if n else g * 0.0)
define("exp(a)", np.exp, a=lambda g, out: g * out)
define("log(a)", np.log, a=lambda g, a: g / a)
define("sin(a)", np.sin, a=lambda g, a: g * a.cos())
define("cos(a)", np.cos, a=lambda g, a: -g * a.sin())
define("tanh(a)", np.tanh, a=lambda g, out: g * (1.0 - out * out))
define("erf(a)", lambda a: np.asarray(_erf(a), a.dtype), a=lambda g, a: g * ((-a * a).exp() * (2 / math.sqrt(math.pi))))
define("relu(a)", lambda a: np.maximum(a, 0), a=lambda g, out: OPS["where"](out > 0.0, g, 0.0))
define("gt(a, b)", lambda a, b: a > b, of=NUMBERS, gives="bool")
define("eq(a, b)", lambda a, b: a == b, of=ANY, gives="bool")
define(
    "where(mask, a, b)", np.where,
    a=lambda g, mask: OPS["where"](mask, g, 0.0), b=lambda g, mask: OPS["where"](mask, 0.0, g),
)  # fmt: skip
define("clone(a)", lambda a: a.copy(), of=ANY, a=lambda g: g)
define("to(a, dtype)", lambda a, dtype: a.astype(dtype), of=ANY, gives="dtype", a=lambda g, a_dtype: g.to(a_dtype))

# -- over dimensions, which stay, with size 1 -------------------------------------------------------------------------


def _reduced(shape: Shape, dims: Shape) -> Shape:
    return tuple(1 if d in dims else n for d, n in enumerate(shape))


def _largest(g: Tensor, a: Tensor, out: Tensor, dims: Shape) -> Tensor:
    share = a.detach().eq(out.detach()).to(g.dtype)
    return g * (share / share.sum(dims, keepdim=True))


def _product(a: Shape, b: Shape) -> Shape:
    return (*a[:-1], b[-1])


define("sum(a, dims)", lambda a, dims: a.sum(dims, keepdims=True), shape=_reduced, of=NUMBERS,
       a=lambda g, a_shape: g.expand(*a_shape))  # fmt: skip
define("max(a, dims)", lambda a, dims: a.max(dims, keepdims=True), shape=_reduced, of=NUMBERS, a=_largest)
define("matmul(a, b)", np.matmul, shape=_product, a=lambda g, b: g @ b.mT, b=lambda g, a: a.mT @ g)

# -- views ------------------------------------------------------------------------------------------------------------


def _view(a: Tensor, shape: Shape) -> Tensor:
    strides = memory.restride(a.shape, a.strides, shape)
    if strides is None:
        raise UserError(f"a tensor {a.shape} with strides {a.strides} has no view of shape {shape}; nearest: .reshape")
    return a.look(shape, strides)


def _permute(a: Tensor, dims: Shape) -> Tensor:
    return a.look(tuple(a.shape[d] for d in dims), tuple(a.strides[d] for d in dims))


def _expand(a: Tensor, shape: Shape) -> Tensor:
    new = len(shape) - a.ndim
    kept = (s if n == m else 0 for s, n, m in zip(a.strides, a.shape, shape[new:], strict=True))
    return a.look(shape, (0,) * new + tuple(kept))


def _shrink(g: Tensor, shape: Shape) -> Tensor:
    """The sum over whatever `expand` had repeated."""
    new = g.ndim - len(shape)
    repeated = [d for d in range(g.ndim) if d < new or (shape[d - new] == 1 and g.shape[d] != 1)]
    return (g.sum(repeated, keepdim=True) if repeated else g).reshape(*shape)


def _slice(a: Tensor, dim: int, start: int, stop: int, step: int) -> Tensor:
    size = len(range(start, stop, step))
    shape, strides = list(a.shape), list(a.strides)
    shape[dim], strides[dim] = size, strides[dim] * step
    return a.look(tuple(shape), tuple(strides), a.offset + start * a.strides[dim])


define_view("view(a, shape)", _view, a=lambda g, a_shape: g.reshape(*a_shape))
define_view("permute(a, dims)", _permute, a=lambda g, dims: g.permute(*(dims.index(d) for d in range(len(dims)))))
define_view("expand(a, shape)", _expand, a=lambda g, a_shape: _shrink(g, a_shape))
define_view(
    "slice(a, dim, start, stop, step)", _slice,
    a=lambda g, a_shape, dim, start, stop, step: OPS["unslice"](g, a_shape, dim, start, stop, step),
)  # fmt: skip

# -- places -----------------------------------------------------------------------------------------------------------


def _unslice(g: np.ndarray, shape: Shape, dim: int, start: int, stop: int, step: int) -> np.ndarray:
    out = np.zeros(shape, g.dtype)
    out[(slice(None),) * dim + (slice(start, stop, step),)] = g
    return out


def _take(a: np.ndarray, ids: np.ndarray) -> np.ndarray:
    if ids.dtype.kind != "i":
        raise UserError(f"an index is of int64, not {ids.dtype}; nearest: .to('int64')")
    if ids.size and not (ids.min() >= 0 and ids.max() < len(a)):
        raise UserError(f"indices from {ids.min()} to {ids.max()}, but there are {len(a)} rows, counted from 0")
    return a[ids]


def _put(g: np.ndarray, ids: np.ndarray, shape: Shape) -> np.ndarray:
    out = np.zeros(shape, g.dtype)
    np.add.at(out, ids, g)  # a row that is taken twice gets both
    return out


define("unslice(a, shape, dim, start, stop, step)", _unslice, shape=lambda a, shape, *_: shape,
       a=lambda g, dim, start, stop, step: OPS["slice"](g, dim, start, stop, step))  # fmt: skip
define("take(a, ids)", _take, shape=lambda a, ids: (*ids, *a[1:]), of=ANY,
       a=lambda g, ids, a_shape: OPS["put"](g, ids, a_shape))  # fmt: skip
define("put(a, ids, shape)", _put, shape=lambda a, ids, shape: shape, of=NUMBERS, a=lambda g, ids: g[ids])
