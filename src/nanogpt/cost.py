"""What a model costs, from its configuration alone: parameters, operations, bytes. Nothing is allocated:
one of each distinct layer is built on the meta device, so a model of any size is counted in moments."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from nanogpt.config import ModelConfig
from nanogpt.model.language_model import LanguageModel, per_layer
from nanogpt.model.part import flops

LAYER_FIELDS = ("mixer", "ffn", "norm", "layout", "position")


@dataclass(frozen=True)
class Cost:
    """parameters: by part. flops: forward, a token, in windows of the context. cache_bytes: a token, bf16.
    loops: whether a part goes through the tokens one by one."""

    parameters: dict[str, int]
    flops: float
    cache_bytes: int
    loops: bool

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
    operations, cache = 0.0, 0
    for name, child in model.named_children():
        if name != "blocks":
            parameters[name] += _count(child)
            operations += flops(child, 1, config.context)
    for block, index in zip(model.blocks, sorted(first.values()), strict=True):
        copies = kinds[_kind(layers, index)]
        for name, child in block.named_children():
            kind = "norm" if name.endswith("_norm") else "layout" if name.endswith("_residual") else name
            parameters[kind] += copies * _count(child)
        parameters["layout"] += copies * sum(p.numel() for p in block.parameters(recurse=False))
        operations += copies * flops(block, 1, config.context)
        cache += copies * 2 * sum(getattr(m, "cache_numbers", lambda: 0)() for m in block.modules())
    loops = any(getattr(m, "loops", False) for m in model.modules())
    return Cost({k: v for k, v in parameters.items() if v}, operations, cache, loops)


def _kind(layers: list[tuple[str, ...]], index: int) -> tuple[bool, bool, tuple[str, ...]]:
    """Layers of one kind cost the same; the first and the last may also open and close the stream."""
    return index == 0, index == len(layers) - 1, layers[index]


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
