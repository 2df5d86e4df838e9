"""What a model costs, from its configuration alone: parameters, operations, bytes. Nothing is allocated:
one of each distinct layer is built on the meta device, so a model of any size is counted in moments."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import nn

from nanogpt.config import ModelConfig
from nanogpt.model.language_model import LanguageModel, per_layer
from nanogpt.model.part import flops
from nanogpt.parts import number
from nanogpt.pattern import LAYER_FIELDS


@dataclass(frozen=True)
class Cost:
    """parameters: by part. windows: bytes of cache a token, bf16, of the layers that see so many tokens (0: all).
    loops: whether a part goes through the tokens one by one. context: of the configuration."""

    parameters: dict[str, int]
    windows: dict[int, int]
    loops: bool
    context: int
    parts: list[tuple[nn.Module, int]] = field(repr=False)
    """Each distinct one on the meta device, and how many there are of it."""

    def flops_at(self, tokens: int) -> float:
        """Forward, a token, in windows of so many."""
        return sum(count * flops(part, 1, tokens) for part, count in self.parts)

    @property
    def flops(self) -> float:
        """Forward, a token, in windows of the context."""
        return self.flops_at(self.context)

    @property
    def cache_bytes(self) -> int:
        """A token, bf16."""
        return sum(self.windows.values())

    def cache_at(self, tokens: int) -> int:
        """Bytes for so many tokens where a layer keeps no more of them than it sees."""
        return sum(size * min(tokens, window or tokens) for window, size in self.windows.items())

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def training_flops(self) -> float:
        """Forward and backward, a token: the gradient of a matrix product is two more of them."""
        return 3 * self.flops


def cost(config: ModelConfig) -> Cost:
    """Count a model. `config.vocab_size` must be known. Raises UserError as building does."""
    layers = list(zip(*(map(str, per_layer(config, name)) for name in LAYER_FIELDS), strict=True))
    kinds = Counter(_kind(layers, n) for n in range(len(layers)))
    first = {_kind(layers, n): n for n in reversed(range(len(layers)))}
    with torch.device("meta"):
        model = LanguageModel(config, only=sorted(first.values()))
    parameters: Counter[str] = Counter()
    parts: list[tuple[nn.Module, int]] = []
    windows: Counter[int] = Counter()
    for name, child in model.named_children():
        if name != "blocks":
            parameters[name] += _count(child)
            parts.append((child, 1))
    for block, index in zip(model.blocks, sorted(first.values()), strict=True):
        copies = kinds[_kind(layers, index)]
        for name, child in block.named_children():
            kind = "norm" if name.endswith("_norm") else "layout" if name.endswith("_residual") else name
            parameters[kind] += copies * _count(child)
        parameters["layout"] += copies * sum(p.numel() for p in block.parameters(recurse=False))
        parts.append((block, copies))
        for part in block.modules():
            windows[number(part, "window", 0)] += copies * 2 * getattr(part, "cache_numbers", lambda: 0)()
    loops = any(getattr(m, "loops", False) for m in model.modules())
    windows = Counter({window: size for window, size in windows.items() if size})
    return Cost({k: v for k, v in parameters.items() if v}, dict(windows), loops, config.context, parts)


def _kind(layers: list[tuple[str, ...]], index: int) -> tuple[bool, bool, tuple[str, ...]]:
    """Layers of one kind cost the same; the first and the last may also open and close the stream."""
    return index == 0, index == len(layers) - 1, layers[index]


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
