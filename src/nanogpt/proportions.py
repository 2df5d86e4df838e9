"""Ratios of a model's sizes: what two models of different size can have in common, and what `--scale` keeps.

Sizes go by the names of their knobs, which are the same in all parts.
"""

from __future__ import annotations

from collections.abc import Iterable

from nanogpt.config import ModelConfig
from nanogpt.pattern import pattern

RATIOS = {
    "dim / n_layers": "small is deep and thin, large is shallow and wide.",
    "heads x head_dim / dim": "how much wider than the stream attention is; 1 unless heads have a width of their own.",
    "heads / kv_heads": "queries that share a key and a value; the cache is so many times smaller.",
    "hidden / dim": "how much wider the ffn is than the stream; 8/3 in a gated one has the parameters of 4 in an MLP.",
    "window / context": "the share of the longest text that a layer with a window sees.",
}
"""Each ratio, and what it says."""


def proportions(config: ModelConfig) -> dict[str, list[float]]:
    """The ratios that a model has, each for every part that has it, kind of layer by kind. Resolve it first."""
    found: dict[str, list[float]] = {name: [] for name in RATIOS}
    assert isinstance(config.dim, int)
    if config.n_layers:
        found["dim / n_layers"].append(config.dim / config.n_layers)
    for part in (part for layer in pattern(config).kinds for part in layer):
        size = {knob: value for knob, value in part.knobs.items() if isinstance(value, int) and value}
        if {"heads", "head_dim"} <= size.keys():
            found["heads x head_dim / dim"].append(size["heads"] * size["head_dim"] / config.dim)
        if {"heads", "kv_heads"} <= size.keys():
            found["heads / kv_heads"].append(size["heads"] / size["kv_heads"])
        if "hidden" in size:
            found["hidden / dim"].append(size["hidden"] / config.dim)
        if "window" in size:
            found["window / context"].append(size["window"] / config.context)
    return {name: values for name, values in found.items() if values}


def in_words(values: Iterable[float]) -> str:
    """[0.03125, 0.03125] -> '0.0312'; values that differ stand side by side."""
    return ", ".join(dict.fromkeys(f"{value:.3g}" for value in values))


def counted(n: int, what: str) -> str:
    """1 layer, 5 layers."""
    return f"{n} {what}{'' if n == 1 else 's'}"
