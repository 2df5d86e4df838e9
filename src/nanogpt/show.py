"""What a configuration builds, as text: parts, shapes, parameters, operations, memory. And which parts there are."""

from __future__ import annotations

import inspect
from itertools import groupby
from typing import Any

import torch

from nanogpt.config import RunConfig
from nanogpt.cost import cost
from nanogpt.model.activations import ACTIVATIONS
from nanogpt.model.blocks import LAYOUTS
from nanogpt.model.ends import EMBEDS, HEADS
from nanogpt.model.ffn import FFNS
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.model.mixers import MIXERS
from nanogpt.model.norms import NORMS
from nanogpt.model.objectives import OBJECTIVES
from nanogpt.model.positions import POSITIONS
from nanogpt.model.residuals import RESIDUALS
from nanogpt.model.scalings import SCALINGS
from nanogpt.model.schemes import SCHEMES
from nanogpt.model.smoothing import SMOOTHINGS
from nanogpt.optim.optimizers import OPTIMIZERS
from nanogpt.optim.schedules import SCHEDULES
from nanogpt.parts import knobs_of
from nanogpt.pattern import LAYER_FIELDS
from nanogpt.tokenizers import TOKENIZERS, expected_size

AXES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "tokenizer": (TOKENIZERS, ()),
    "model.embed": (EMBEDS, ("dim", "vocab_size")),
    "(smoothing)": (SMOOTHINGS, ("order", "vocab_size")),
    "model.position": (POSITIONS, ("dim", "context", "heads", "head_dim")),
    "(scaling)": (SCALINGS, ("context",)),
    "model.mixer": (MIXERS, ("dim", "layer", "n_layers", "context")),
    "model.ffn": (FFNS, ("dim", "layer", "n_layers", "context")),
    "(act)": (ACTIVATIONS, ("dim",)),
    "model.norm": (NORMS, ("dim",)),
    "model.layout": (LAYOUTS, ("dim", "layer", "n_layers", "context", "mixer", "ffn", "norm")),
    "(residual)": (RESIDUALS, ("dim", "layer", "n_layers")),
    "model.head": (HEADS, ("dim", "vocab_size")),
    "model.init": (SCHEMES, ("dim", "n_layers")),
    "model.objective": (OBJECTIVES, ("dim", "vocab_size", "n_layers")),
    "optim.optimizer": (OPTIMIZERS, ()),
    "optim.schedule": (SCHEDULES, ()),
}
"""Axis -> its table of parts, and what their parent gives them."""


def parts() -> dict[str, dict[str, dict[str, Any]]]:
    """axis -> part -> {"knobs": {name: default}, "what": the first sentence of its documentation}."""
    return {
        axis: {
            name: {
                "knobs": {
                    k: None if p.default is p.empty else p.default
                    for k, p in knobs_of(part, dict.fromkeys(supplied)).items()
                },
                "what": first_sentence(part),
            }
            for name, part in table.items()
        }
        for axis, (table, supplied) in AXES.items()
    }


def first_sentence(part: Any) -> str:
    text = (inspect.getdoc(getattr(part, "func", part)) or "").split("\n\n")[0]
    return " ".join(text.split())


def describe(config: RunConfig) -> dict[str, Any]:
    """Everything `nanogpt show` prints, as plain data."""
    size, certain = (config.model.vocab_size, True) if config.model.vocab_size else expected_size(config.tokenizer)
    given = config.model.model_copy(update={"vocab_size": size})
    model = resolve_model(given)
    total = cost(model)
    return {
        "preset": config.preset,
        "vocabulary": "known" if certain else "assumed",
        "model": model.model_dump(),
        "layers": layers(model.model_dump()),
        "tensors": [{"name": n, "shape": s, "parameters": p} for n, s, p in tensors(given)],
        "parameters": total.parameters,
        "total_parameters": total.total,
        "flops_per_token": total.flops,
        "training_flops_per_token": total.training_flops,
        "cache_bytes_per_token": total.cache_bytes,
        "cache_bytes_at_context": total.cache_bytes * model.context,
        "weight_bytes": {"fp32": 4 * total.total, "bf16": 2 * total.total},
    }


def layers(model: dict[str, Any]) -> list[dict[str, str]]:
    """The parts of each layer; equal neighbours are one row, `{"layers": "0-5", "mixer": ...}`."""
    texts = [tuple(model[field][n] for field in LAYER_FIELDS) for n in range(model["n_layers"])]
    rows = []
    for parts, group in groupby(enumerate(texts), key=lambda pair: pair[1]):
        numbers = [n for n, _ in group]
        rows.append({"layers": _span(numbers[0], numbers[-1]), **dict(zip(LAYER_FIELDS, parts, strict=True))})
    return rows


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def tensors(config: Any) -> list[tuple[str, list[int], int]]:
    """Every weight as (name, shape, numbers); layers of the same shapes are one row, `blocks.0-5.mixer.q.weight`."""
    with torch.device("meta"):
        model = LanguageModel(config)
    layers: dict[int, list[tuple[str, tuple[int, ...]]]] = {n: [] for n in range(len(model.blocks))}
    before: list[tuple[str, tuple[int, ...]]] = []
    after: list[tuple[str, tuple[int, ...]]] = []
    for name, p in model.named_parameters():
        path = name.split(".")
        if path[0] == "blocks":
            layers[int(path[1])].append((".".join(path[2:]), tuple(p.shape)))
        else:
            (before if path[0] in ("embed", "position") else after).append((name, tuple(p.shape)))
    rows = [(name, list(shape), _numel(shape)) for name, shape in before]
    for _, group in groupby(layers.items(), key=lambda item: item[1]):
        same = list(group)
        for name, shape in same[0][1]:
            rows.append((f"blocks.{_span(same[0][0], same[-1][0])}.{name}", list(shape), len(same) * _numel(shape)))
    return rows + [(name, list(shape), _numel(shape)) for name, shape in after]


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
