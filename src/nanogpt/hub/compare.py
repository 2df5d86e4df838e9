"""Two models on the same tokens: how far apart their logits are, and the first layer where they part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.hub.load import load
from nanogpt.hub.source import open_source
from nanogpt.model.language_model import LanguageModel
from nanogpt.runs import Run, is_run
from nanogpt.tokenizers import Tokenizer, load_tokenizer, read_tokenizer
from nanogpt.training import checkpoint as checkpoints

TOKENS = 64
PARTED = 1e-4
"""Largest difference, relative to the largest number, up to which two streams are the same but for rounding."""


@dataclass
class Comparison:
    tokens: int
    logits: float
    """Largest difference of a logit."""
    nats: float
    """Largest difference of a log-probability."""
    same_choice: float
    """Share of places where the likeliest token is the same."""
    parted: str | None
    """Where the streams first differ: embed, blocks.3, head; None where they never do."""
    layers: dict[str, float]
    """Largest difference after each, relative to the largest number there."""


def open_model(where: str) -> tuple[LanguageModel, Tokenizer | None]:
    """A run's model (its best checkpoint) or a published one."""
    if is_run(Path(where)):
        run = Run(where)
        found = checkpoints.load(run.checkpoint("best"))
        with run.own_parts():
            model = LanguageModel(run.config().model)
        checkpoints.load_weights(model, found.weights, found.path)
        there = run.tokenizer_path.exists()
        return model.eval(), load_tokenizer(run.tokenizer_path) if there else None
    source = open_source(where)
    model, _ = load(source)
    return model, None if source.tokenizer is None else read_tokenizer(source.tokenizer, where)


def compare(a: str, b: str, text: str | None = None) -> Comparison:
    """Two runs or published models on a text, or on random tokens of the smaller vocabulary."""
    (first, tokenizer), (second, _) = open_model(a), open_model(b)
    size = min(first.vocab_size, second.vocab_size)
    if text is not None:
        if tokenizer is None:
            raise UserError(f"{a} has no tokenizer to read --text with; without --text random tokens are taken")
        ids = tokenizer.encode(text)[: min(first.context, second.context)].tolist()
        if not ids or max(ids) >= size:
            raise UserError(f"--text: no tokens that both models know ({a} has {first.vocab_size}, {b} {size})")
        tokens_BT = torch.tensor([ids])
    else:
        time = min(TOKENS, first.context, second.context)
        tokens_BT = torch.randint(size, (1, time), generator=torch.Generator().manual_seed(1))
    return compare_models(first, second, tokens_BT)


@torch.no_grad()
def compare_models(first: LanguageModel, second: LanguageModel, tokens_BT: Tensor) -> Comparison:
    x, y = _streams(first, tokens_BT), _streams(second, tokens_BT)
    layers: dict[str, float] = {}
    for name in dict.fromkeys([*x, *y]):
        comparable = name in x and name in y and x[name].shape == y[name].shape
        layers[name] = _apart(x[name], y[name]) if comparable else float("inf")
    size = min(first.vocab_size, second.vocab_size)
    p, q = x["head"][..., :size], y["head"][..., :size]
    if first.vocab_size != second.vocab_size:
        layers["head"] = _apart(p, q)
    return Comparison(
        tokens=tokens_BT.numel(),
        logits=(p - q).abs().max().item(),
        nats=(p.log_softmax(-1) - q.log_softmax(-1)).abs().max().item(),
        same_choice=(p.argmax(-1) == q.argmax(-1)).float().mean().item(),
        parted=next((name for name, apart in layers.items() if apart > PARTED), None),
        layers=layers,
    )


def _apart(x: Tensor, y: Tensor) -> float:
    return ((x - y).abs().max() / torch.maximum(x.abs().max(), y.abs().max()).clamp(min=1e-30)).item()


def _streams(model: LanguageModel, tokens_BT: Tensor) -> dict[str, Tensor]:
    """What the embedding, each block, the last norm and the head give."""
    found: dict[str, Tensor] = {}
    parts = [("embed", model.embed), *((f"blocks.{n}", block) for n, block in enumerate(model.blocks))]
    handles = [part.register_forward_hook(_keep(found, name)) for name, part in [*parts, ("norm", model.norm)]]
    try:
        found["head"] = model(tokens_BT).float()
    finally:
        for handle in handles:
            handle.remove()
    found["head"] = found.pop("head")
    return found


def _keep(found: dict[str, Tensor], name: str) -> Any:
    def hook(module: Any, inputs: Sequence[Any], output: Tensor) -> None:
        found[name] = output.float()

    return hook
