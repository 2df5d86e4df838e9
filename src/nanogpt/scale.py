"""A published model at another size: `--scale 10M` shrinks (or grows) a configuration to a budget of parameters.

What makes the model what it is stays: its parts, the cycle of its layers, and the ratios of depth to width, of queries
to keys and values, of the ffn to the stream, of windows to the context. What cannot shrink with the rest is chosen
anew: the vocabulary is that of the tokenizer in use, the context is one that can be trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nanogpt.config import ModelConfig, RunConfig, compose, presets
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.language_model import resolve_model
from nanogpt.pattern import LAYER_FIELDS, Pattern, pattern
from nanogpt.proportions import counted, in_words, proportions
from nanogpt.spec import Spec, Value, compress, parse
from nanogpt.tokenizers import expected_size

CONTEXT = 256
"""Tokens in a window, unless `model.context` says otherwise."""
LEAST_WINDOW = 16
"""In proportion, Gemma 3's window of 512 in 32768 would be 4 tokens of 256."""
STEP = 8
"""Widths are multiples of it."""
CLOSE = 0.1
"""Share of the budget that may be missed."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def parse_budget(text: str) -> int:
    """'10M' -> 10,000,000 parameters."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.strip().upper())
    if not found or not 1 <= float(found[1]) * UNITS[found[2]] <= 10**13:
        raise UserError(f"--scale {text}: parameters are a number and K, M or B, 10000B at most; nearest: 10M")
    return round(float(found[1]) * UNITS[found[2]])


def scaled(preset: str, budget: str, overrides: Iterable[str] = ()) -> RunConfig:
    """A preset, changed as the overrides say, at so many parameters. They change the model before it is scaled, except
    for `model.context`, which is what the scaled one gets. A preset's own tokenizer that is larger than the default one
    gives way to it: GPT-2's 50,257 tokens would be nearly all of a small model."""
    overrides = list(overrides)
    published = compose(preset, [o for o in overrides if not o.startswith("model.context=")])
    usual = RunConfig.model_fields["tokenizer"].default
    named = preset not in presets() or any(o.startswith("tokenizer=") for o in overrides)
    if not named and expected_size(published.tokenizer)[0] > expected_size(usual)[0]:
        published = published.model_copy(update={"tokenizer": usual})
    context = min(CONTEXT, published.model.context)
    if len(overrides) > len([o for o in overrides if not o.startswith("model.context=")]):
        context = compose(preset, overrides).model.context
    model = scale_model(published.model, parse_budget(budget), context, expected_size(published.tokenizer)[0])
    name = f"{preset.removesuffix('.toml')}-{budget.strip().upper()}"
    return published.model_copy(update={"preset": name, "model": model})


def became(config: RunConfig, budget: str) -> str:
    """One line on a scaled model: its size, its shape, and how far from the budget it is where that is far."""
    size, certain = expected_size(config.tokenizer)
    model = config.model if config.model.vocab_size else config.model.model_copy(update={"vocab_size": size})
    total, wanted = cost(model).total, parse_budget(budget)
    line = (
        f"{config.preset}: {total:,} parameters{'' if certain else ' if the vocabulary gets as large as assumed'}, "
        f"{counted(model.n_layers, 'layer')}, dim {model.dim}, context {model.context}, vocabulary {size:,}"
    )
    missed = total / wanted - 1
    return line if abs(missed) <= CLOSE else f"{line}; {missed:+.0%} of what was asked: nearer this shape does not come"


def proportions_kept(preset: str, config: RunConfig, overrides: Iterable[str] = ()) -> tuple[str, str]:
    """Two lines on what `scaled` made of a preset: what stayed, and what could not, with what was published."""
    published = compose(preset, [o for o in overrides if not o.startswith("model.context=")])
    old, new = (_resolved(c.model, expected_size(c.tokenizer)[0]) for c in (published, config))
    before, now = pattern(old), pattern(new)
    was = proportions(old)
    rows = []
    for name, values in proportions(new).items():
        near = all(abs(math.log(a / b)) <= math.log(1 + CLOSE) for a, b in zip(values, was[name], strict=True))
        rows.append((name, in_words(values), in_words(was[name]), near))
    if len(before.kinds) > 1:
        cycle, whole = (found.letters().split(" ")[0] for found in (now, before))
        rows.append(("layers", cycle, whole, cycle == whole))
    for knob in ("heads", "head_dim"):
        small, large = (in_words(found.sizes(knob)) for found in (now, before))
        rows += [(knob, small, large, small == large)] if large else []
    kept = ", ".join(f"{name} {small}" for name, small, _, near in rows if near)
    changed = ", ".join(f"{name} {small} ({large})" for name, small, large, near in rows if not near)
    return f"as in {preset}, within a tenth: {kept or 'nothing'}", f"otherwise: {changed or 'nothing'}"


def _resolved(model: ModelConfig, vocab_size: int) -> ModelConfig:
    return resolve_model(model.model_copy(update={"vocab_size": model.vocab_size or vocab_size}))


def scale_model(published: ModelConfig, budget: int, context: int, vocab_size: int) -> ModelConfig:
    """The model of that shape that comes nearest to the budget; its vocabulary is left to the tokenizer.

    UserError where even the smallest is too large.
    """
    if published.dim == "vocab" or not published.n_layers:
        raise UserError("--scale: this model has no depth and width to choose, its vocabulary says how large it is")
    plan = Plan.of(published, context, vocab_size)
    found = list(plan.candidates(budget))
    if not found:
        smallest = plan.total(plan.least_depth, plan.least_width()) or 0
        raise UserError(
            f"--scale: {budget:,} parameters are too few: with {vocab_size:,} tokens and {plan.least_depth} layers "
            f"this shape has {smallest:,} at the least; nearest: --scale {short(math.ceil(smallest * 1.05))}, or a "
            "tokenizer with fewer tokens"
        )
    best = min(found, key=lambda shape: plan.fault(shape, budget))
    return plan.model(*best).model_copy(update={"vocab_size": 0})


def short(n: int) -> str:
    """1,234,567 -> '1.3M', rounded up, so that it is enough."""
    unit = "B" if n >= 10**9 else "M" if n >= 10**6 else "K"
    tenths = math.ceil(10 * n / UNITS[unit])
    return f"{tenths // 10}{unit}" if tenths % 10 == 0 else f"{tenths / 10}{unit}"


@dataclass(frozen=True)
class Plan:
    """What of a published model is kept at every size."""

    published: ModelConfig
    pattern: Pattern
    context: int
    vocab_size: int
    totals: dict[tuple[int, int], int | None]

    @classmethod
    def of(cls, published: ModelConfig, context: int, vocab_size: int) -> Plan:
        resolved = _resolved(published, vocab_size)
        return cls(resolved, pattern(resolved), context, vocab_size, {})

    @property
    def width(self) -> int:
        assert isinstance(self.published.dim, int)
        return self.published.dim

    @property
    def least_depth(self) -> int:
        """A layer of each run of the cycle, and two at least: one layer alone is another kind of model."""
        return min(self.published.n_layers, max(2, len(self.pattern.runs)))

    def depths(self, budget: int) -> Iterator[int]:
        """Those around the depth at which depth to width is as it was published."""
        ratio = self.width / self.published.n_layers
        width = self.nearest_width(lambda width: max(self.least_depth, round(width / ratio)), budget)
        depth = max(self.least_depth, round((width or 0) / ratio))
        yield from range(max(self.least_depth, depth - 1), depth + 2)

    def candidates(self, budget: int) -> Iterator[tuple[int, int]]:
        """(layers, width) near the budget."""
        for depth in self.depths(budget):
            middle = self.nearest_width(lambda width, depth=depth: depth, budget)
            for width in range((middle or STEP) - 3 * STEP, (middle or 0) + 4 * STEP, STEP):
                total = self.total(depth, width) if width >= STEP else None
                if total is not None and total <= budget * (1 + CLOSE):
                    yield depth, width

    def nearest_width(self, depth_of: Any, budget: int) -> int | None:
        """By halving: the widest that stays within the budget."""
        low, high = 0, 2
        while (total := self._somewhere(depth_of, high)) is not None and total < budget and high < 2**17:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            total = self._somewhere(depth_of, middle)
            low, high = (middle, high) if total is not None and total < budget else (low, middle)
        return low * STEP or None

    def _somewhere(self, depth_of: Any, steps: int) -> int | None:
        """The total at this width, or where no heads fit it, at one close by."""
        for more in (0, 1, 2, 3):
            width = (steps + more) * STEP
            if (total := self.total(min(depth_of(width), 4096), width)) is not None:
                return total
        return None

    def least_width(self) -> int:
        return next(w for w in range(STEP, 2**16, STEP) if self.total(self.least_depth, w) is not None)

    def total(self, depth: int, width: int) -> int | None:
        """Parameters; None where no model of this width can be built."""
        if (depth, width) not in self.totals:
            try:
                self.totals[depth, width] = cost(self.model(depth, width)).total
            except UserError:
                self.totals[depth, width] = None
        return self.totals[depth, width]

    def fault(self, shape: tuple[int, int], budget: int) -> float:
        """How far a shape is from what was asked: the budget above all, then depth to width, then heads."""
        depth, width = shape
        total = self.total(*shape) or 1
        aspect = abs(math.log(width / depth * self.published.n_layers / self.width))
        heads = sum(
            _head_fault(spec, self.heads(spec, width), width / self.width)
            for layer in self.pattern.kinds
            for spec in layer
            if "head_dim" in spec.knobs
        ) / len(self.pattern.kinds)
        missed = abs(math.log(total / budget))
        return 6 * missed + (20 if missed > CLOSE * 0.95 else 0) + aspect + heads

    def model(self, depth: int, width: int) -> ModelConfig:
        """The model of this depth and width, every knob in proportion."""
        layers = [self.pattern.kinds[kind] for kind in shorter(self.pattern, depth)]
        columns = zip(*[[self.spec(part, width) for part in layer] for layer in layers], strict=True)
        fields: dict[str, Any] = {
            name: compress(column) for name, column in zip(LAYER_FIELDS, map(list, columns), strict=True)
        }
        fields |= {name: str(self.spec(parse(getattr(self.published, name)), width)) for name in ("embed", "head")}
        sizes = {"dim": width, "n_layers": depth, "context": self.context, "vocab_size": self.vocab_size}
        return self.published.model_copy(update={**fields, **sizes})

    def spec(self, spec: Spec, width: int) -> Spec:
        """A part with its sizes in proportion. They go by their names, which are the same in all parts."""
        share, shorter = width / self.width, self.context / self.published.context
        knobs: dict[str, Value] = {k: self._inner(v, width) for k, v in spec.knobs.items()}
        if "head_dim" in knobs and isinstance(knobs.get("heads"), int):
            heads, kv_heads, head_dim = self.heads(spec, width)
            if isinstance(factor := knobs.get("scale"), float):  # 1/sqrt(n), n as it was to head_dim
                knobs["scale"] = max(1, round(factor**-2 * head_dim / _number(spec, "head_dim"))) ** -0.5
            knobs |= {"heads": heads, "head_dim": head_dim} | ({"kv_heads": kv_heads} if "kv_heads" in knobs else {})
        if isinstance(hidden := knobs.get("hidden"), int):
            knobs["hidden"] = max(STEP, round(hidden * share / STEP) * STEP)
        if isinstance(window := knobs.get("window"), int) and window:
            knobs["window"] = max(min(window, LEAST_WINDOW), round(window * shorter))
        if isinstance(original := knobs.get("original"), int):
            knobs["original"] = max(2, round(original * shorter))
        return Spec(spec.name, spec.args, knobs)

    def _inner(self, value: Value, width: int) -> Value:
        """Parts inside a part; a list of numbers, one for each pair of a head, is thinned as the heads are."""
        if isinstance(value, Spec):
            return self.spec(value, width)
        if isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value):
            spec = next((s for layer in self.pattern.kinds for s in layer if "head_dim" in s.knobs), None)
            if spec is not None:
                length = max(1, round(len(value) * self.heads(spec, width)[2] / _number(spec, "head_dim")))
                return [value[int((n + 0.5) * len(value) / length)] for n in range(length)]
        return value

    def heads(self, spec: Spec, width: int) -> tuple[int, int, int]:
        """(heads, kv_heads, head_dim): as wide together as in proportion, by number and width alike."""
        share = width / self.width
        together = _number(spec, "heads") * _number(spec, "head_dim") * share
        whole = round(together) == width  # as wide as the stream: so it stays, some families know no other
        options = []
        for head_dim in range(STEP, max(STEP, _number(spec, "head_dim"), width) + 1, STEP):
            heads = max(1, round(together / head_dim))
            if whole and heads * head_dim != width:
                continue
            for kv_heads in (n for n in range(1, heads + 1) if heads % n == 0):
                options.append((heads, kv_heads, head_dim))
        return min(options, key=lambda option: _head_fault(spec, option, share))


def _head_fault(spec: Spec, option: tuple[int, int, int], share: float) -> float:
    heads, kv_heads, head_dim = option
    before = _number(spec, "heads"), _number(spec, "kv_heads") or _number(spec, "heads"), _number(spec, "head_dim")
    together = abs(math.log(heads * head_dim / (before[0] * before[2] * share)))
    group = abs(math.log(heads / kv_heads * before[1] / before[0]))
    wide = abs(math.log(head_dim / (before[2] * share**0.5)))
    return 8 * together + 2 * group + 0.5 * wide


def _number(spec: Spec, knob: str) -> int:
    value = spec.knobs.get(knob)
    return value if isinstance(value, int) else 0


def shorter(layers: Pattern, depth: int) -> list[int]:
    """The kind of each of `depth` layers: the cycle as it was where it fits, else each run of it cut in proportion."""
    if depth >= layers.period and layers.period < len(layers.of):
        return [layers.of[n % layers.period] for n in range(depth)]
    runs = layers.runs
    total = sum(count for _, count in runs)
    counts = [max(1, math.floor(count * depth / total)) for _, count in runs]
    while sum(counts) < depth:  # to the run that is furthest behind its share
        counts[max(range(len(runs)), key=lambda n: runs[n][1] * depth / total - counts[n])] += 1
    while sum(counts) > depth and max(counts) > 1:
        counts[max(range(len(runs)), key=lambda n: (counts[n] > 1, counts[n] - runs[n][1] * depth / total))] -= 1
    return [kind for (kind, _), count in zip(runs, counts, strict=True) for _ in range(count)]
