"""How rotary positions reach texts longer than those of training: each scaling slows the angles down in its own way.

A rotary position turns the i-th of its d/2 pairs by `position * speed_i` radians, speed_i = base^(-2i/d) before any
scaling, so a pair's wavelength is 2 pi / speed_i tokens. Slowed by s, position s p looks as p did in training.
s below is `factor`: how many times longer the texts are. Speeds are worked out in Python's fp64.

d numbers of a head that are turned.
"""

from __future__ import annotations

import math
from typing import Literal

from nanogpt.errors import UserError
from nanogpt.parts import at_least


class Scaling:
    """No scaling: speed_i = base^(-2i/d). Su et al. 2021."""

    changes: int | None = None
    """Tokens of a memory beyond which the speeds are others; None where they never change."""
    attention: float = 1.0
    """Factor on cos and sin, its square thus on the turned part of q.k: longer texts want sharper attention."""

    def speeds(self, base: float, width: int, tokens: int) -> list[float]:
        """Radians a token of each of the width/2 pairs; `tokens` is how many the memory of this pass can hold."""
        return [base ** (-2 * i / width) for i in range(width // 2)]


class Linear(Scaling):
    """Position interpolation: speed_i / s, every place squeezed into the range of training. Chen et al. 2023,
    arXiv 2306.15595; kaiokendev 2023.

    factor: s.
    """

    def __init__(self, *, factor: float) -> None:
        at_least(1, factor=factor)
        self.factor = factor

    def speeds(self, base: float, width: int, tokens: int) -> list[float]:
        return [speed / self.factor for speed in super().speeds(base, width, tokens)]


class NTK(Scaling):
    """NTK-aware scaling: the base becomes base s^(d/(d-2)), so the fastest pair keeps its speed, the slowest is slowed
    by s, and those between by powers of s between. bloc97 2023; Peng et al. 2023, arXiv 2309.00071, section 3.1.

    factor: s. It is fixed; the "dynamic" form, where s grows with the text, turns a key otherwise once more tokens have
    come, which a memory of turned keys cannot do.
    """

    def __init__(self, *, factor: float) -> None:
        at_least(1, factor=factor)
        self.factor = factor

    def speeds(self, base: float, width: int, tokens: int) -> list[float]:
        if width > 2:  # one pair alone is the fastest one
            base *= self.factor ** (width / (width - 2))
        return super().speeds(base, width, tokens)


class Yarn(Scaling):
    """YaRN: pairs that turn more than beta_fast times within the original length keep their speed, those that turn less
    than beta_slow times are slowed by s, a ramp lies between; and attention gets sharper with s. Peng et al. 2023,
    arXiv 2309.00071.

    The pair that turns r times is number c(r) = d ln(original / (2 pi r)) / (2 ln base). With ramp_i growing from 0 at
    i = c(beta_fast) to 1 at i = c(beta_slow): speed_i (1 - ramp_i) + speed_i / s ramp_i. cos and sin are multiplied by
    0.1 ln s + 1 (the paper's sqrt(1/t)), on the turned part of q.k thus by its square.

    factor: s. original: tokens of a text in training. beta_fast, beta_slow: turns at the ends of the ramp.
    bounds: whether these ends are widened to whole pairs (Llama, Qwen, DeepSeek) or left exact (gpt-oss).
    mscale, mscale_all: where neither is 0, cos and sin get (0.1 mscale ln s + 1) / (0.1 mscale_all ln s + 1) instead
    (DeepSeek-V2). attention: the factor on cos and sin itself, whatever the formulas say; None leaves it to them.
    """

    def __init__(
        self,
        *,
        factor: float,
        original: int,
        beta_fast: float = 32.0,
        beta_slow: float = 1.0,
        bounds: Literal["whole", "exact"] = "whole",
        mscale: float = 0.0,
        mscale_all: float = 0.0,
        attention: float | None = None,
    ) -> None:
        at_least(1, factor=factor, original=original)
        at_least(0, mscale=mscale, mscale_all=mscale_all)
        if not beta_fast >= beta_slow > 0:
            raise UserError(
                f"beta_fast={beta_fast}, beta_slow={beta_slow}: fast pairs turn more often than slow ones, and slow "
                "ones more than 0 times; nearest: beta_fast=32, beta_slow=1"
            )
        self.factor, self.original, self.bounds = factor, original, bounds
        self.beta_fast, self.beta_slow = beta_fast, beta_slow
        self.mscale, self.mscale_all = mscale, mscale_all
        if attention is None:
            both = mscale and mscale_all
            attention = self._sharper(mscale) / self._sharper(mscale_all) if both else self._sharper(1.0)
        at_least(0, attention=attention)
        self.attention = attention

    def _sharper(self, weight: float) -> float:
        return 0.1 * weight * math.log(self.factor) + 1.0

    def speeds(self, base: float, width: int, tokens: int) -> list[float]:
        low, high = (
            width * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base))
            for turns in (self.beta_fast, self.beta_slow)
        )
        if self.bounds == "whole":
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        steep = (high - low) or 0.001  # a step, where both ends are one pair
        ramps = [min(1.0, max(0.0, (i - low) / steep)) for i in range(width // 2)]
        plain = super().speeds(base, width, tokens)
        return [speed * (1 - ramp) + speed / self.factor * ramp for speed, ramp in zip(plain, ramps, strict=True)]


class Llama3(Scaling):
    """Llama 3.1's scaling: wavelengths below original/high keep their speed, those above original/low are slowed by s,
    and between them the weight t goes from 1 to 0. Dubey et al. 2024, arXiv 2407.21783, as in their code.

    t_i = clamp((original / wavelength_i - low) / (high - low), 0, 1); speed_i t_i + speed_i / s (1 - t_i).

    factor: s. original: tokens of a text in training. low, high: turns within `original`, at the ends.
    """

    def __init__(self, *, factor: float = 8.0, original: int = 8192, low: float = 1.0, high: float = 4.0) -> None:
        at_least(1, factor=factor, original=original)
        if not high > low > 0:
            raise UserError(f"low={low}, high={high}: low must be above 0 and below high; nearest: low=1, high=4")
        self.factor, self.original, self.low, self.high = factor, original, low, high

    def speeds(self, base: float, width: int, tokens: int) -> list[float]:
        plain = super().speeds(base, width, tokens)
        turns = [self.original * speed / (2 * math.pi) for speed in plain]
        kept = [min(1.0, max(0.0, (t - self.low) / (self.high - self.low))) for t in turns]
        return [speed * k + speed / self.factor * (1 - k) for speed, k in zip(plain, kept, strict=True)]


class LongRope(Scaling):
    """LongRoPE: a factor of its own, found by search, for each pair: speed_i / short_i, or speed_i / long_i where texts
    are longer than the original length. Ding et al. 2024, arXiv 2402.13753; Phi-3.

    cos and sin are multiplied by sqrt(1 + ln s / ln original), short or long.

    short, long: d/2 factors each. original: tokens of a text in training.
    by: what is compared with `original`. context: the model's context, so the choice never changes and neither company
    nor padding matters. length: the columns of this pass (with a cache, its capacity), as in `transformers`, where a
    128k model reads a short prompt with the short factors; all keys of one memory are turned alike, so a text that
    grows beyond `original` is read once more.
    factor: s; None is context / original. attention: the factor on cos and sin itself; None leaves it to the formula.
    """

    def __init__(
        self,
        *,
        context: int,
        short: list[float],
        long: list[float],
        original: int,
        by: Literal["context", "length"] = "context",
        factor: float | None = None,
        attention: float | None = None,
    ) -> None:
        at_least(2, original=original)
        for name, factors in (("short", short), ("long", long)):
            if not isinstance(factors, list) or not all(isinstance(f, (int, float)) and f > 0 for f in factors):
                raise UserError(f"{name}={factors} must be a list of numbers above 0, one for each pair")
        factor = max(1.0, context / original) if factor is None else factor
        at_least(1, factor=factor)
        if attention is None:
            attention = math.sqrt(1 + math.log(factor) / math.log(original))
        at_least(0, attention=attention)
        self.short, self.long, self.original, self.by = short, long, original, by
        self.changes = original if by == "length" else None
        self.factor, self.attention, self._context = factor, attention, context

    def speeds(self, base: float, width: int, tokens: int) -> list[float]:
        for name, factors in (("short", self.short), ("long", self.long)):
            if len(factors) != width // 2:
                raise UserError(f"{name} has {len(factors)} factors for the {width // 2} pairs that are turned")
        reach = self._context if self.by == "context" else tokens
        factors = self.long if reach > self.original else self.short
        return [speed / factor for speed, factor in zip(super().speeds(base, width, tokens), factors, strict=True)]


SCALINGS = {
    "none": Scaling,
    "linear": Linear,
    "ntk": NTK,
    "yarn": Yarn,
    "llama3": Llama3,
    "longrope": LongRope,
}
