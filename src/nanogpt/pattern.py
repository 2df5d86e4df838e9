"""Which layers a model has: kinds of layers, the cycle in which they come, and what tells one kind from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from string import ascii_uppercase
from typing import Any

from nanogpt.config import ModelConfig
from nanogpt.spec import Spec, expand, to_text

LAYER_FIELDS = ("mixer", "ffn", "norm", "layout", "position")
Layer = tuple[Spec, ...]
"""The part of each of LAYER_FIELDS."""


@dataclass(frozen=True)
class Pattern:
    """kinds: each distinct layer, in order of appearance. of: which kind each layer is. period: of the cycle."""

    kinds: list[Layer]
    of: list[int]
    period: int

    @property
    def runs(self) -> list[tuple[int, int]]:
        """(kind, how many in a row) within one cycle."""
        return [(kind, len(list(group))) for kind, group in groupby(self.of[: self.period])]

    def letters(self) -> str:
        """`AAAAAB AAAAAB AA`: a letter for each layer, a word for each cycle."""
        text = "".join(letter(kind) for kind in self.of)
        if self.period == len(text) or len(self.kinds) == 1:
            return text
        return " ".join(text[n : n + self.period] for n in range(0, len(text), self.period))

    def sizes(self, knob: str) -> list[int]:
        """The numbers that parts have for a knob, kind by kind."""
        found = (spec.knobs.get(knob) for layer in self.kinds for spec in layer)
        return [value for value in found if isinstance(value, int)]

    def differences(self) -> list[dict[str, str]]:
        """For each kind what others have otherwise: {"mixer.window": "1024", "position.base": "10000.0"}."""
        said = [_knobs(layer) for layer in self.kinds]
        keys = [k for k in dict.fromkeys(k for row in said for k in row) if len({row.get(k) for row in said}) > 1]
        return [{k: row[k] for k in keys if k in row} for row in said]

    def __str__(self) -> str:
        """`5 x (mixer.window=1024, position.base=10000.0) + 1 x (...)`, or `12 x the same`."""
        if len(self.kinds) <= 1:
            return f"{len(self.of)} x the same"
        said = [", ".join(f"{k}={v}" for k, v in row.items()) for row in self.differences()]
        return " + ".join(f"{count} x ({said[kind]})" for kind, count in self.runs)


def letter(kind: int) -> str:
    return ascii_uppercase[kind] if kind < len(ascii_uppercase) else f"[{kind}]"


def pattern(config: ModelConfig) -> Pattern:
    """The layers of a configuration. Resolve it first, or a part written in two ways is two kinds."""
    fields = [expand(getattr(config, name), config.n_layers) for name in LAYER_FIELDS]
    layers = list(zip(*fields, strict=True))
    texts = [tuple(map(str, layer)) for layer in layers]
    distinct = list(dict.fromkeys(texts))
    of = [distinct.index(text) for text in texts]
    return Pattern([layers[texts.index(text)] for text in distinct], of, period(of))


def period(values: Sequence[Any]) -> int:
    """Length of the shortest cycle that gives these values; the last one may be cut short."""
    return next((p for p in range(1, len(values)) if all(map(_same, values[p:], values))), len(values))


def _same(a: Any, b: Any) -> bool:
    return bool(a == b)


def _knobs(layer: Layer) -> dict[str, str]:
    """Every part and knob of a layer: {"mixer": "attention", "mixer.heads": "8", ...}."""
    found = {}
    for name, spec in zip(LAYER_FIELDS, layer, strict=True):
        found[name] = spec.name
        found |= {f"{name}.{knob}": to_text(value) for knob, value in spec.knobs.items()}
    return found
