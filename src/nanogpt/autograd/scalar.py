"""Automatic differentiation of single numbers: micrograd (Karpathy 2020), with its interface.

    a, b = Value(2.0), Value(3.0)
    c = a * b + a.tanh()
    c.backward()                      # a.grad is dc/da, b.grad is dc/db

Each Value remembers what it was made from, and with each parent the slope towards it: how much the result moves when
the parent does. `backward` walks from the result to the leaves and multiplies slopes on the way: the chain rule.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from contextlib import suppress
from numbers import Real
from operator import attrgetter

from nanogpt.autograd.order import topological
from nanogpt.errors import UserError

Number = int | float
LARGEST = math.log(sys.float_info.max)
"""Above it exp is infinite."""


class Value:
    """A number, the slope of the result with respect to it, and where it came from.

    data: the number, a float. grad: d(result)/d(this), after `result.backward()`; it accumulates until it is set to 0.
    parents, slopes: what it was made from, and d(this)/d(each). op: how, "" for a leaf. label: a name for drawings.
    """

    __slots__ = ("data", "grad", "label", "op", "parents", "slopes")

    def __init__(
        self, data: Number, parents: tuple[Value, ...] = (), slopes: tuple[Number, ...] = (), op: str = "",
        label: str = "",
    ) -> None:  # fmt: skip
        if type(data) is not float:
            data = _float(data)
        self.data, self.grad, self.op, self.label = data, 0.0, op, label
        self.parents, self.slopes = parents, slopes

    def __add__(self, other: Value | Number) -> Value:
        other = _value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0), "+")

    def __mul__(self, other: Value | Number) -> Value:
        other = _value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data), "*")

    def __pow__(self, power: Number) -> Value:
        if not isinstance(power, Real):
            raise UserError(f"a power is a plain number, not {type(power).__name__}; nearest: (b * a.log()).exp()")
        x = self.data
        if x == 0 > power or (x < 0 and power % 1):
            raise UserError(f"{x} ** {power}: this is no number; nearest: a base above 0")
        slope = power * _power(x, power - 1) if power else 0.0
        return Value(_power(x, power), (self,), (slope,), f"**{power}")

    def relu(self) -> Value:
        off = self.data <= 0
        return Value(0.0 if off else self.data, (self,), (0.0 if off else 1.0,), "ReLU")

    def tanh(self) -> Value:
        t = math.tanh(self.data)
        return Value(t, (self,), (1 - t * t,), "tanh")

    def exp(self) -> Value:
        e = math.inf if self.data > LARGEST else math.exp(self.data)
        return Value(e, (self,), (e,), "exp")

    def log(self) -> Value:
        if self.data <= 0:
            raise UserError(f"log({self.data}): a logarithm takes a number above 0")
        return Value(math.log(self.data), (self,), (1 / self.data,), "log")

    def __neg__(self) -> Value:
        return self * -1

    def __sub__(self, other: Value | Number) -> Value:
        return self + -other

    def __truediv__(self, other: Value | Number) -> Value:
        return self * _value(other) ** -1

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Number) -> Value:
        return -self + other

    def __rtruediv__(self, other: Number) -> Value:
        return self**-1 * other

    def backward(self) -> None:
        """Fill `grad` of everything that this was made from. Raises UserError for a graph with a cycle."""
        order = topological([self], attrgetter("parents"))
        self.grad = 1.0
        for value in reversed(order):
            for parent, slope in zip(value.parents, value.slopes, strict=True):
                parent.grad += slope * value.grad  # a sum: what is used twice pulls twice

    def __repr__(self) -> str:
        return f"Value(data={self.data}, grad={self.grad})"


def _value(number: Value | Number) -> Value:
    return number if isinstance(number, Value) else Value(number)


def _float(number: Number) -> float:
    if isinstance(number, Real):  # Python's or numpy's
        with suppress(OverflowError):
            return float(number)
    raise UserError(f"Value({number!r}): a Value holds one number; nearest: [Value(x) for x in ...]")


def _power(x: float, n: float) -> float:
    """x ** n; infinite where it is too large for a float, or a division by 0."""
    try:
        return x**n
    except (OverflowError, ZeroDivisionError):
        return -math.inf if x < 0 and n % 2 == 1 else math.inf


class Module:
    """Something with parameters."""

    def parameters(self) -> list[Value]:
        return []

    def zero_grad(self) -> None:
        for p in self.parameters():
            p.grad = 0.0


class Neuron(Module):
    """relu(w x + b), or w x + b where `nonlin` is False. w from U(-1, 1), b = 0."""

    def __init__(self, nin: int, nonlin: bool = True) -> None:
        self.w = [Value(random.uniform(-1, 1)) for _ in range(nin)]
        self.b = Value(0)
        self.nonlin = nonlin

    def __call__(self, x: Sequence[Value | Number]) -> Value:
        if len(x) != len(self.w):
            raise UserError(f"a neuron of {len(self.w)} inputs got {len(x)}")
        act = sum((w * x for w, x in zip(self.w, x, strict=True)), self.b)
        return act.relu() if self.nonlin else act

    def parameters(self) -> list[Value]:
        return [*self.w, self.b]

    def __repr__(self) -> str:
        return f"{'ReLU' if self.nonlin else 'Linear'}Neuron({len(self.w)})"


class Layer(Module):
    """`nout` neurons that see the same `nin` numbers. One of them answers with a Value, several with a list."""

    def __init__(self, nin: int, nout: int, nonlin: bool = True) -> None:
        self.neurons = [Neuron(nin, nonlin) for _ in range(nout)]

    def __call__(self, x: Sequence[Value | Number]) -> Value | list[Value]:
        out = [n(x) for n in self.neurons]
        return out[0] if len(out) == 1 else out

    def parameters(self) -> list[Value]:
        return [p for n in self.neurons for p in n.parameters()]

    def __repr__(self) -> str:
        return f"Layer of [{', '.join(map(str, self.neurons))}]"


class MLP(Module):
    """Layers one after the other, the last one linear: MLP(2, [16, 16, 1]) has 337 parameters."""

    def __init__(self, nin: int, nouts: Sequence[int]) -> None:
        sizes = [nin, *nouts]
        self.layers = [Layer(sizes[i], sizes[i + 1], nonlin=i != len(nouts) - 1) for i in range(len(nouts))]

    def __call__(self, x: Sequence[Value | Number]) -> Value | list[Value]:
        out: Value | list[Value] = [_value(number) for number in x]
        for layer in self.layers:
            out = layer([out] if isinstance(out, Value) else out)
        return out

    def parameters(self) -> list[Value]:
        return [p for layer in self.layers for p in layer.parameters()]

    def __repr__(self) -> str:
        return f"MLP of [{', '.join(map(str, self.layers))}]"
