"""A pass of which every operation is followed: beside each tensor travels what mean-field theory knows of it.

theory.py says what is assumed; rules.py has what each operation does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nanogpt.activations import Activation
from nanogpt.model.attention import Attend
from nanogpt.model.part import Part
from nanogpt.observers.gaussian import through, units
from nanogpt.observers.rest import is_activation, rest_of

PASSES = {
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "t", "contiguous", "to", "float", "type_as",
    "expand", "expand_as", "squeeze", "unsqueeze", "chunk", "split", "unbind", "__getitem__", "dropout", "clone",
    "roll", "narrow", "select", "gather", "index_select", "repeat_interleave", "movedim", "view_as", "masked_fill",
    "unfold", "pad", "neg", "__neg__", "__get__", "detach",
}  # fmt: skip
"""Functions after which the numbers are what they were, or some of them."""
ALONE = {
    "relu", "tanh", "sigmoid", "silu", "gelu", "softplus", "logsigmoid", "exp", "square", "pow", "__pow__", "abs",
    "sin", "cos", "clamp", "clamp_min", "hardtanh", "relu6", "elu", "leaky_relu", "selu", "mish", "hardswish",
    "softsign", "rsub", "__rsub__",
}  # fmt: skip
"""Functions of each number alone."""
FRESH = {"new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"}
"""Functions that take no more than the shape."""


class Edge(NamedTuple):
    """Where a gradient goes on to, and what becomes of it: of its second moment g and of what two tokens have in common
    of it, c. They arrive as own g + mixed c and spread g + common c."""

    to: Signal
    own: float
    common: float
    mixed: float = 0.0
    spread: float = 0.0


@dataclass(eq=False)
class Signal:
    """What is known of one tensor."""

    power: float
    """E[x^2]."""
    mean: float
    shared: float
    """E[x x'] of one unit at two tokens."""
    numel: int
    made_of: list[Edge] = field(default_factory=list)
    act: Act | None = None
    """The activation that it comes out of, where nothing but reshaping came after."""
    gradient: float = 0.0
    """E[g^2], g = dloss/dx."""
    common: float = 0.0
    """E[g g'] of one unit at two tokens."""

    @property
    def variance(self) -> float:
        return max(0.0, self.power - self.mean**2) if math.isfinite(self.power) else self.power


@dataclass(frozen=True)
class Act:
    """An activation where it stands: what it does to Gaussians of that size, and to its units.

    keeps: E[f(z)^2] / E[z^2]. slope: E[f'(z)^2]. dead, saturated: shares of the units on every token, of all outputs.
    """

    module: nn.Module | None
    keeps: float
    slope: float
    dead: float = math.nan
    saturated: float = math.nan
    alike: float = 0.0
    """Correlation of what a unit gets at two tokens."""


@dataclass(frozen=True)
class Matrix:
    """A matrix, and the condition on it: 1 keeps the variance, in either direction.

    forward: n_in Var[w] E[f(z)^2] / E[z^2], f the activation that feeds it (none: 1); He et al. 2015's (1/2) n Var[w]
    after a ReLU, (1/2)(1 + a^2) n Var[w] after a PReLU. backward: n_out Var[w] E[f'(z)^2].
    """

    name: str
    n_in: int
    n_out: int
    variance: float
    act: Act | None
    forward: float
    backward: float
    bias: float = 0.0
    """Share of the bias in what comes out, as second moments."""


class Pass(TorchFunctionMode):
    """Follows every operation of a pass."""

    def __init__(
        self, rules: Mapping[str, Rule], names: Mapping[int, str], assumed: Mapping[int, float], tokens: int
    ) -> None:
        """rules: by the operation's name. names: of parameters by id. assumed: second moments of some, by id, instead
        of what they are. tokens: of the text on which a unit may be dead."""
        super().__init__()
        self._rules, self._names, self._assumed, self._tokens = rules, names, assumed, tokens
        self._held: dict[int, tuple[Tensor, Signal]] = {}  # with the tensor, so that no other gets its id
        self._order: list[Signal] = []
        self._inside = 0
        self.matrices: dict[str, Matrix] = {}
        self.entropies: list[tuple[Signal, float]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._inside:
            self._follow(getattr(func, "__name__", ""), func, args, kwargs or {}, out)
        return out

    @contextmanager
    def attached(self, model: nn.Module, signals: dict[str, Signal]) -> Iterator[None]:
        """Collect what each module puts out. Activations and attention are taken whole, whatever they do inside."""

        def enter(module: nn.Module, args: Any) -> None:
            self._inside += 1

        def leave(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            self._inside -= 1
            if not self._inside:
                self._whole(module, args, kwargs, out)

        with ExitStack() as stack:
            for name, module in model.named_modules():
                if isinstance(module, Attend) or _is_whole(module):
                    stack.callback(module.register_forward_pre_hook(enter).remove)
                    stack.callback(module.register_forward_hook(leave, with_kwargs=True).remove)

                def note(module: nn.Module, args: Any, out: Any, name: str = name) -> None:
                    if isinstance(out, Tensor) and (found := self.known(out)) is not None:
                        signals[name] = found

                stack.callback(module.register_forward_hook(note).remove)
            yield

    def known(self, x: Any) -> Signal | None:
        """What is known of a tensor that the model computed."""
        held = self._held.get(id(x))
        return held[1] if held else None

    def back(self) -> None:
        """The gradient, from the last tensor to the first."""
        for signal in reversed(self._order):
            g, c = signal.gradient, signal.common
            for edge in signal.made_of if g else []:  # 0 times an unknown factor is 0: nothing flows back there
                edge.to.gradient += edge.own * g + edge.mixed * c
                edge.to.common += edge.spread * g + edge.common * c

    def put(self, out: Tensor, power: float, mean: float, shared: float, made_of: list[Edge]) -> Signal:
        signal = Signal(power, mean, shared, out.numel(), made_of)
        self._held[id(out)] = (out, signal)
        self._order.append(signal)
        return signal

    def moments(self, x: Any, like: Tensor) -> Signal:
        """Of anything that is added or multiplied: a signal, a number, or a tensor that is what it is."""
        if not isinstance(x, Tensor):
            return Signal(float(x) ** 2, float(x), float(x) ** 2, 1)
        found = self.known(x)
        if found is not None:
            return found
        x = x.detach()
        power = self.power_of(x)
        mean = float(x.double().mean())
        if x.ndim < 2 or x.shape[-2] < 2 or like.ndim < 2:
            return Signal(power, mean, power, x.numel())
        T, values = x.shape[-2], x.double()
        shared = float((values.sum(-2).square() - values.square().sum(-2)).mean()) / (T * (T - 1))
        return Signal(power, mean, shared, x.numel())

    def power_of(self, weight: Tensor) -> float:
        assumed = self._assumed.get(id(weight))
        return float(weight.detach().double().square().mean()) if assumed is None else assumed

    # -- one rule for each kind of operation

    def _follow(self, name: str, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        outs = [o for o in (out if isinstance(out, (tuple, list)) else [out]) if _real(o)]
        if not outs:
            return
        rule = self._rules.get(name)
        if rule is not None and rule(self, name, args, kwargs, outs[0]):
            return
        signals = [s for a in [*args, *kwargs.values()] for t in _each(a) if (s := self.known(t)) is not None]
        if not signals or name in FRESH:
            return
        if name in PASSES and len(signals) == 1:
            for o in outs:
                self.carry(signals[0], o, -1.0 if "neg" in name else 1.0)
        elif name in ALONE and len(signals) == 1:
            place = next(n for n, a in enumerate(args) if self.known(a) is not None)
            self._act(signals[0], lambda z: func(*args[:place], z, *args[place + 1 :], **kwargs), None, outs[0])
        else:
            for o in outs:
                self.put(o, math.nan, math.nan, math.nan, [Edge(s, math.nan, math.nan) for s in signals])

    def carry(self, x: Signal, out: Tensor, sign: float = 1.0) -> None:
        if self.known(out) is x:  # nothing was done, and the tensor itself came back
            return
        share = out.numel() / x.numel
        self.put(out, x.power, sign * x.mean, x.shared, [Edge(x, share, share)]).act = x.act

    def _act(self, x: Signal, f: Callable[[Tensor], Tensor], module: nn.Module | None, out: Tensor) -> None:
        width = max(1, x.numel * out.shape[-1] // out.numel())
        covariance = x.shared - x.mean**2
        with self.unwatched():
            got = through(f, x.mean, x.variance, covariance, width)
            dead, saturated = math.nan, math.nan
            if module is not None:
                rest = rest_of(module, width)
                dead, rests = units(module, rest, x.mean, x.variance, covariance, width, self._tokens)
                saturated = rests if rest.kind == "bounded" else math.nan
        alike = covariance / x.variance if x.variance > 0 else 0.0
        made = self.put(out, got.power, got.mean, got.shared, [Edge(x, got.slope, got.common)])
        made.act = Act(module, got.power / x.power if x.power else math.nan, got.slope, dead, saturated, alike)

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def _whole(self, module: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
        if isinstance(module, Attend):
            self._attend(*args, out=out, **kwargs)
        elif (x := self.known(args[0])) is not None:
            self._act(x, module, module, out)

    def linear(self, x: Any, weight: Tensor, bias: Any, n_in: int, n_out: int, out: Tensor) -> None:
        """y = W x + b."""
        fed = self.moments(x, out)
        variance = self.power_of(weight)
        factor = n_in * variance
        b = self.moments(bias if bias is not None else 0.0, out)
        made_of = [Edge(fed, n_out * variance, n_out * variance)] if self.known(x) is not None else []
        if self.known(bias) is not None:
            made_of.append(Edge(b, out.numel() / b.numel, out.numel() / b.numel))
        self.put(out, factor * fed.power + b.power, b.mean, factor * fed.shared + b.shared, made_of)
        if (name := self._names.get(id(weight))) is not None and name not in self.matrices:
            keeps, slope = (fed.act.keeps, fed.act.slope) if fed.act else (1.0, 1.0)
            share = b.power / (factor * fed.power + b.power) if b.power else 0.0
            self.matrices[name] = Matrix(
                name, n_in, n_out, variance, fed.act, factor * keeps, n_out * variance * slope, share
            )

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, visible: Any, bias: Any, scale: float, out: Tensor, **_: Any
    ) -> None:
        """sum_s a_s v_s of independent logits: it keeps the share sum a^2 of what tokens do not have in common."""
        of_q, of_k, of_v = (self.moments(x, out) for x in (q, k, v))
        (H, T, E), (K, S) = q.shape[1:], k.shape[1:3]
        random = torch.Generator().manual_seed(0)
        std = abs(scale) * math.sqrt(E * of_q.power * of_k.power)
        if not math.isfinite(std):
            self.put(out, math.nan, math.nan, math.nan, [Edge(of_v, math.nan, math.nan)])
            return
        logits = std * torch.randn(1, T, S, generator=random)
        seen = torch.ones(T, S, dtype=torch.bool).tril(S - T) if visible is None else visible.detach().cpu()
        logits = logits + (0.0 if bias is None else bias.detach().float().cpu().flatten(0, -3))
        a = logits.masked_fill(~seen.flatten(0, -3)[:1] if seen.ndim > 2 else ~seen, -1e30).softmax(-1).double()
        pairs = max(1, T * (T - 1))
        squares, columns = float(a.square().sum((-1, -2)).mean()), a.sum(-2)
        own, two = squares / T, float((columns.square().sum(-1)).mean() - squares) / pairs
        apart = of_v.power - of_v.shared
        # backwards a token gathers from those that look at it: a^T
        rows = a.sum(-1)
        gathered, met = float(columns.square().sum(-1).mean()) / S, float((rows.square().sum(-1)).mean() - squares)
        alike = (float(columns.sum(-1).square().mean()) - gathered * S) / max(1, S * (S - 1))
        entropy = float(-(a * a.clamp(min=1e-300).log()).sum(-1).mean())
        group, logit = H / K, scale**2 * E * apart * own
        made = self.put(out, of_v.shared + own * apart, of_v.mean, of_v.shared + two * apart, [
            Edge(of_v, group * own * T / S, group * (alike - met / max(1, S * (S - 1))),
                 group * (gathered - own * T / S), group * met / max(1, S * (S - 1))),
            Edge(of_q, logit * max(0.0, of_k.power - of_k.shared), 0.0),
            Edge(of_k, logit * of_q.power * group * T / S, 0.0),
        ])  # fmt: skip
        self.entropies.append((made, entropy))


def _is_whole(module: nn.Module) -> bool:
    """Whether this is an activation. Cheap answers first: a trial of each module takes its time."""
    if isinstance(module, Part) or any(p.ndim > 1 for p in module.parameters()):
        return isinstance(module, Activation)
    return is_activation(module)


def _real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


Rule = Callable[[Pass, str, Any, Any, Tensor], bool]
"""Follow one call, (walk, name, args, kwargs, out); False where it is not one that the rule knows."""


def _each(a: Any) -> list[Any]:
    return list(a) if isinstance(a, (tuple, list)) else [a]
