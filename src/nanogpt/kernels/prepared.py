"""A model with its matrices made ready for writing text: few rows at a time, the same weights for every token.

Each token reads every weight once, so what a token takes is the time to read them from memory, and fewer bytes are
faster. On a CPU the products of F.linear are not made for this: for one row Intel's MKL takes one core, and on other
makers' CPUs it leaves AVX-512 unused. oneDNN, which PyTorch brings along, does neither (docs/performance.md).
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.errors import UserError, nearest

Precision = Literal["fp32", "bf16", "int8"]
WORTH = 2**18
"""Numbers in a matrix from which on oneDNN's 10 microseconds of start pay; fewer where there are many rows."""
FREE = 4
"""Rows whose product takes no longer than that of one."""
FEW = 16
"""Rows of a usual batch: weights are laid out for so many, and a matrix too small for them is left alone."""
PACK_FROM = 8
"""Products of several rows from which on fp32 weights are laid out anew, which costs about as much as 20 of them."""
STEP = 16
"""Numbers of a row that the int8 product reads at once, beyond the row's end if need be."""

Model = TypeVar("Model", bound=nn.Module)


def prepared(model: Model, precision: Precision = "fp32") -> Model:
    """A model that shares everything with this one but how its matrices multiply; only for passes without gradients.

    precision: fp32, the weights themselves, by the faster library. bf16, weights and inputs rounded to 8 bits of
    mantissa, half the bytes. int8, each row of a matrix as whole numbers up to 127 times its own scale, a quarter of
    the bytes, with inputs in bf16; on a CPU only. Sums, norms, attention and all that is remembered stay in fp32.
    Weights are converted when they are first used, and later changes of the model's are not seen. What is prepared
    already stays as it is. Raises UserError for another word, and for int8 elsewhere.
    """
    if precision not in get_args(Precision):
        raise UserError(f"precision={precision}{nearest(str(precision), get_args(Precision))}")
    kind = next((p.device.type for p in model.parameters()), "cpu")
    if precision == "int8" and kind != "cpu":
        raise UserError(f"precision=int8: there is no such product on {kind}; nearest: bf16")
    if precision == "fp32" and not (kind == "cpu" and _has_onednn()):
        return model
    makers: dict[str, Callable[[Tensor], Product]] = {"fp32": Product, "bf16": BF16, "int8": Int8}
    return _copy(model, makers[precision], {})


def _copy(module: Any, make: Callable[[Tensor], Product], done: dict[int, Any]) -> Any:
    """The module and all below it, with new places for matrices; all else is the same object."""
    if id(module) not in done:
        done[id(module)] = new = copy.copy(module)
        new._parameters = {name: _prepare(p, make) for name, p in module._parameters.items()}
        new._modules = {name: child and _copy(child, make, done) for name, child in module._modules.items()}
        if make is not Product:  # fp32 has its weights as they are, without a copy
            _join([getattr(new._modules.get(name), "weight", None) for name in getattr(module, "together", ())])
    return done[id(module)]


def _prepare(weight: Tensor | None, make: Callable[[Tensor], Product]) -> Tensor | None:
    if weight is None or weight.ndim != 2 or weight.dtype != torch.float32 or isinstance(weight, Prepared):
        return weight
    if make is Product and weight.numel() * FEW < WORTH * FREE:
        return weight
    matrix = Tensor._make_subclass(Prepared, weight.detach())
    matrix.make = make
    return matrix


def _join(matrices: Sequence[Tensor | None]) -> None:
    """Let matrices that read the same vectors multiply as one."""
    prepared = [matrix for matrix in matrices if isinstance(matrix, Prepared)]
    if len(prepared) == len(matrices) > 1:
        joint = Joint(prepared)
        for number, matrix in enumerate(prepared):
            matrix.product = partial(joint, number)


class Prepared(Tensor):
    """A matrix that multiplies in its own way in F.linear and is the plain one elsewhere, so that an embedding tied to
    the head is looked up as it was."""

    make: Callable[[Tensor], Product]

    @cached_property
    def product(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        return self.make(self.as_subclass(Tensor))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return (_linear if func is F.linear else func)(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear, its arguments by its names."""
    return weight.product(input, bias) if isinstance(weight, Prepared) else F.linear(input, weight, bias)


class Product:
    """y = x W^T + b in fp32, W (n_out, n_in), by whichever library is faster for so many rows."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self._calls = weight, 0

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if self.weight.numel() * max(rows, FREE) < WORTH * FREE or x.dtype != torch.float32:
            return F.linear(x, self.weight, bias)
        self._calls += rows > 1
        if self._calls == PACK_FROM:
            self.weight = _packed(self.weight)
        return _onednn(x, self.weight, bias)


class BF16(Product):
    """The same with x and W in bf16, summed in fp32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.bfloat16())
        self._multiply: Callable[..., Tensor] = F.linear
        if weight.device.type == "cpu" and _has_onednn():
            self.weight, self._multiply = _packed(self.weight), _onednn

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        y = self._multiply(x.bfloat16(), self.weight, None).to(x.dtype)
        return y if bias is None else y + bias


class Int8(Product):
    """The same with W in int8, each row with a scale of its own, and x in bf16."""

    def __init__(self, weight: Tensor) -> None:
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
        scale = scale.bfloat16()  # rounded before it divides, so that its own error does no harm
        whole = (weight / scale.float()).round_().clamp_(-127, 127).to(torch.int8)
        self._beyond = -weight.shape[1] % STEP
        super().__init__(F.pad(whole, (0, self._beyond)))
        self._scale = scale[:, 0].contiguous()

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x_2D = x.reshape(-1, x.shape[-1]).bfloat16()
        if self._beyond:
            x_2D = F.pad(x_2D, (0, self._beyond))
        y = torch._weight_int8pack_mm(x_2D, self.weight, self._scale).to(x.dtype).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias


class Joint:
    """Several matrices' products with the same x as one, of which each takes its columns: fewer starts, and x is
    rounded once."""

    def __init__(self, matrices: Sequence[Prepared]) -> None:
        self._matrices = matrices
        self._seen: Callable[[], Tensor | None] = lambda: None
        self._version = 0
        self._left: dict[int, Tensor] = {}

    @cached_property
    def _product(self) -> Product:
        return self._matrices[0].make(torch.cat([matrix.as_subclass(Tensor) for matrix in self._matrices]))

    def __call__(self, number: int, x: Tensor, bias: Tensor | None) -> Tensor:
        if number not in self._left or self._seen() is not x or self._version != x._version:
            columns = self._product(x, None).split([len(matrix) for matrix in self._matrices], -1)
            self._left = dict(enumerate(columns))
            self._seen, self._version = weakref.ref(x), x._version
        y = self._left.pop(number)
        return y if bias is None else y + bias


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available()


def _packed(weight: Tensor) -> Tensor:
    """The same numbers in the order in which oneDNN wants them for a few rows; one and 256 are as well served."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, FEW)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
