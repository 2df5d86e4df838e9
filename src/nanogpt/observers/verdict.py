"""The verdict on a start in words: what shrinks, grows, is dead, saturated or too sure of itself before training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nanogpt.observers.checks.case import layer_of
from nanogpt.observers.checks.limits import LIMITS, level, worse
from nanogpt.observers.findings import Finding, Level, worst_first
from nanogpt.observers.signals import Matrix
from nanogpt.observers.sites import called
from nanogpt.observers.theory import Theory

STEADY = (1e2, 1e6)
"""Variance, last layer over first at the median layer's pace: suspicious, and hopeless without Adam. A residual stream
of N equal branches grows by (1 + 2/N)^N at the pace of its middle, 7.4 at most: only what is exponential gets here."""
EXCESS = (1.0, 3.0)
"""Nats of the first loss above ln V. Logits of variance s^2 cost s^2 / 2; makemore's unrepaired network has 24."""
FOCUSED = (0.3, 0.1)
"""Nats of attention weights, mean of a layer: at birth nobody knows yet where to look."""
MOST = 700.0
"""The largest logarithm of a number that a float holds: theory sees further than float32 does."""
EXPLAINS = 0.1
"""By how much a condition must miss 1 to be called the reason."""

BIASES = "their biases outweigh what the tokens say"


@dataclass(frozen=True)
class Numbers:
    """One start in numbers, measured or predicted; dictionaries are by module, in the model's order."""

    variance: Mapping[str, float] = field(default_factory=dict)
    gradient: Mapping[str, float] = field(default_factory=dict)
    """Variance of the gradient of the loss with respect to what the module puts out."""
    dead: Mapping[str, float] = field(default_factory=dict)
    """Share of an activation's units that rest on every token."""
    saturated: Mapping[str, float] = field(default_factory=dict)
    """Share of a bounded activation's outputs."""
    entropy: Mapping[str, float] = field(default_factory=dict)
    """Of attention weights, nats, mean of a layer."""
    loss: float = math.nan
    finite: bool = True

    @classmethod
    def predicted(cls, theory: Theory) -> Numbers:
        return cls(theory.variance, theory.gradient, theory.dead, theory.saturated, theory.entropy, theory.loss)


@dataclass(frozen=True)
class Fault(Finding):
    """A finding before training. kind: overflow, gone, through, loss, dead, saturated or focused."""

    kind: str = ""


def judge(numbers: Numbers, chain: Sequence[str], chance: float, theory: Theory) -> list[Fault]:
    """What is wrong with a start, worst first, without cures. The numbers may be measured or predicted; chain: what is
    compared through depth; chance: ln V."""
    if not numbers.finite:
        broken = next((name for name, value in numbers.variance.items() if not math.isfinite(value)), "")
        return [Fault("bad", broken, "the first pass overflows: not a number", "", 1e9, "overflow")]
    gone = _gone(numbers, chain)
    found = gone or _through_depth(numbers, chain, theory)
    found = [*found, *_first_loss(numbers, chance), *_silent(numbers, theory), *_focused(numbers)]
    return [fault for fault in worst_first(list[Finding](found)) if isinstance(fault, Fault)]


def pace(values: Mapping[str, float], chain: Sequence[str], *, down: bool = False) -> tuple[float, float]:
    """(factor of the standard deviation from one layer to the next, the median; last over first in variance).

    down: in the gradient's direction. NaN where fewer than three layers are known.
    """
    known = [values[name] for name in chain if values.get(name, 0.0) > 0 and math.isfinite(values[name])]
    known = known[::-1] if down else known
    if len(known) < 3:
        return math.nan, math.nan
    steps = [math.log(b / a) for a, b in pairwise(known)]
    whole = math.log(known[-1]) - math.log(known[0])
    return math.exp(min(MOST, statistics.median(steps) / 2)), math.exp(min(MOST, whole))


def _gone(numbers: Numbers, chain: Sequence[str]) -> list[Fault]:
    """Nothing at all comes through. A gradient that is zero everywhere is a head that starts at zero, on purpose."""
    zero = [name for name in chain if numbers.variance.get(name) == 0.0]
    if zero and any(numbers.variance.get(name, 0.0) > 0 for name in chain):
        where = layer_of(zero[0])
        return [Fault("bad", where, f"nothing comes through: activations are 0 from {where} on", "", 1e6, "gone")]
    zero = [name for name in chain if numbers.gradient.get(name) == 0.0]
    alive = [name for name in chain if numbers.gradient.get(name, 0.0) > 0]
    if zero and alive and chain.index(zero[-1]) < chain.index(alive[0]):
        words = f"no gradient arrives below {layer_of(alive[0])}"
        return [Fault("bad", layer_of(zero[-1]), words, "", 1e6, "gone")]
    return []


def _through_depth(numbers: Numbers, chain: Sequence[str], theory: Theory) -> list[Fault]:
    """Activations and gradients that shrink or grow by a factor in every layer."""
    found: dict[bool, list[tuple[str, float, float]]] = {}
    for what, values in (("activations", numbers.variance), ("gradients", numbers.gradient)):
        factor, ratio = pace(values, chain, down=what == "gradients")
        if not math.isfinite(factor) or not math.isfinite(ratio) or ratio == 0:
            continue
        total, whole = 2 * (len(chain) - 1) * math.log(factor), math.log(ratio)
        if min(abs(total), abs(whole)) > math.log(STEADY[0]) and total * whole > 0:
            found.setdefault(factor > 1, []).append((what, factor, abs(whole)))
    faults = []
    for grows, rows in found.items():
        verb, size = "grow" if grows else "shrink", max(total for _, _, total in rows)
        if len(rows) == 2 and abs(math.log(rows[0][1] / rows[1][1])) < 0.05:
            words = f"activations and gradients {verb} by {rows[0][1]:.2f} a layer"
        else:
            down = {"activations": "", "gradients": " on their way down"}
            words = " and ".join(f"{what} {verb} by {factor:.2f} a layer{down[what]}" for what, factor, _ in rows)
        words += _why(theory, chain, rows[0][0] == "gradients", rows[0][1])
        how: Level = "bad" if size > math.log(STEADY[1]) else "warn"
        faults.append(Fault(how, "", words, "", size, "through"))
    return faults


def _why(theory: Theory, chain: Sequence[str], down: bool, factor: float) -> str:
    """The condition that is broken, in He et al.'s terms: ': gain 1 and relu, (1/2) n Var[w] = 0.50, where 1 ...'."""
    layers = {layer_of(name) for name in chain}
    inside = [m for m in theory.matrices if layer_of(m.name) in layers]
    if not inside:
        return ""
    kinds: dict[str, list[tuple[float, Matrix]]] = {}
    for matrix in inside:
        kind = matrix.name.removeprefix(layer_of(matrix.name))
        kinds.setdefault(kind, []).append((matrix.backward if down else matrix.forward, matrix))
    middles = [sorted(rows, key=lambda row: row[0])[len(rows) // 2] for rows in kinds.values()]
    value, middle = (max if factor > 1 else min)(middles, key=lambda row: row[0])
    if abs(value - 1) < EXPLAINS or (value > 1) != (factor > 1):
        return ": what each branch adds goes by what is there, and no norm divides it" if factor > 1 else ""
    gain, name = math.sqrt(middle.n_in * middle.variance), act_name(middle)
    law = f"n Var[w] E[{name}'^2]" if down and name and not _hinge(middle) else condition(middle)
    return f": gain {gain:.2g}{f' and {name}' if name else ''}, {law} = {value:.2g}, where 1 keeps them"


def act_name(matrix: Matrix) -> str:
    """Of the activation that feeds a matrix: 'relu'; '' where there is none."""
    module: Any = matrix.act.module if matrix.act else None
    if module is None:
        return ""
    return called(module)


def condition(matrix: Matrix) -> str:
    """What is 1 where a matrix keeps the variance: '(1/2) n Var[w]' after a ReLU (He et al. 2015, eq. 10),
    '(1+a^2)/2 n Var[w]' after a PReLU (eq. 15), 'n Var[w]' where nothing bends."""
    if matrix.act is None or matrix.act.module is None:
        return "n Var[w]"
    if _hinge(matrix):
        slope = math.sqrt(max(0.0, 2 * matrix.act.keeps - 1))
        return "(1/2) n Var[w]" if act_name(matrix) == "relu" else f"(1+{slope:.2f}^2)/2 n Var[w]"
    return f"{matrix.act.keeps:.2g} n Var[w]"


def _hinge(matrix: Matrix) -> bool:
    return act_name(matrix) in ("relu", "prelu", "leaky_relu", "leakyrelu", "rrelu")


def _first_loss(numbers: Numbers, chance: float) -> list[Fault]:
    excess = numbers.loss - chance
    if not excess > EXCESS[0]:
        return []
    logits = [value for name, value in numbers.variance.items() if layer_of(name) == "head"]
    size = f" (standard deviation {math.sqrt(logits[-1]):.3g})" if logits else ""
    words = f"the first loss is {numbers.loss:.4g}, and ln V = {chance:.2f} is what knowing nothing costs: the logits "
    words += f"are too large{size}, and the first steps only shrink them"
    return [Fault("bad" if excess > EXCESS[1] else "warn", "", words, "", math.log1p(excess), "loss")]


def _silent(numbers: Numbers, theory: Theory) -> list[Fault]:
    """Units that are dead at birth, and layers that are saturated."""
    found = []
    for what, shares in (("dead", numbers.dead), ("saturated", numbers.saturated)):
        ill = {name: share for name, share in shares.items() if share >= LIMITS[what].warn}
        if not ill:
            continue
        worst = max(ill, key=ill.__getitem__)
        share = statistics.fmean(ill.values())
        most = f", most in {layer_of(worst)} ({ill[worst]:.0%})" if len(ill) > 1 else ""
        words = f"{share:.0%} of the activations are saturated{most}: they pass no gradient"
        if what == "dead":
            why = _same(theory, next(iter(ill)), worst)
            words = f"{share:.0%} of the units are dead at birth, silent on every token{most}{why}"
        where = spans([layer_of(name) for name in ill])
        found.append(Fault(level(ill[worst], what), where, words, "", worse(ill[worst], what), what))
    return found


def _same(theory: Theory, first: str, worst: str) -> str:
    """Why units are dead at birth: what they get is the same for every token."""
    if max((m.bias for m in theory.matrices if layer_of(m.name) == layer_of(first)), default=0.0) > 0.25:
        return f": {BIASES}"
    alike = theory.alike.get(worst, 0.0)
    return f": so deep down all tokens look alike (correlation {alike:.2f})" if alike > 0.5 else ""


def _focused(numbers: Numbers) -> list[Fault]:
    ill = {name: value for name, value in numbers.entropy.items() if value < FOCUSED[0]}
    if not ill:
        return []
    least = min(ill.values())
    words = f"attention looks at one token already (entropy {least:.2f} nats): its logits are too large"
    how: Level = "bad" if least < FOCUSED[1] else "warn"
    where = spans([layer_of(name) for name in ill])
    return [Fault(how, where, words, "", FOCUSED[0] / max(least, 1e-3), "focused")]


def spans(names: Sequence[str]) -> str:
    """['blocks.0', 'blocks.1', 'blocks.2', 'head'] -> 'blocks.0-2, head'."""
    parts: list[tuple[str, int, int]] = []
    for name in dict.fromkeys(names):
        stem, _, number = name.rpartition(".")
        if not number.isdigit():
            parts.append((name, -1, -1))
        elif parts and parts[-1][0] == stem and parts[-1][2] == int(number) - 1:
            parts[-1] = (stem, parts[-1][1], int(number))
        else:
            parts.append((stem, int(number), int(number)))
    dotted = [(f"{stem}." if stem and first >= 0 else stem, first, last) for stem, first, last in parts]
    return ", ".join(s if a < 0 else f"{s}{a}" if a == b else f"{s}{a}-{b}" for s, a, b in dotted)
