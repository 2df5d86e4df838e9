"""The fixed batches that models are observed on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.config import RunConfig
from nanogpt.data.batches import Batch, Sampler, windows
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import Tokens
from nanogpt.data.shards import prepare as prepare_tokens
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.language_model import field as named
from nanogpt.observers.language import Words
from nanogpt.observers.rest import Rest
from nanogpt.observers.sites import Site
from nanogpt.tokenizers import Tokenizer, tokenizer_for

SHARE = 8
"""A look at a language model reads an eighth of the tokens of a training step: with all else that it does, the looks
of a run of 900 steps then take about 2% of its time."""
TOKENS = (256, 1024)
"""But at least and at most so many: enough to tell a neuron that is active on one token in a hundred."""
COUNTED = 2**22
"""Tokens of the training text that are counted, to tell common ones from rare ones."""


@dataclass
class Probe:
    """The fixed batch of a model's observations. `loss` runs the model on it and returns the loss, a tensor, or None
    where there is only a forward pass: activations then have no gradients. `autocast`: the precision of both passes."""

    loss: Callable[[], Tensor | None]
    tokens: int = 0
    """Tokens or examples in it; 0: as many as the units see."""
    words: Words | None = None
    """The batch of a language model, for what only such a one has."""
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    places: Tensor | None = None
    """Numbers of the real tokens among B T, where the others are padding."""
    shape: tuple[int, ...] = ()
    """(B, T), where `places` is given."""
    sites: list[Site] = field(default_factory=list)
    rests: dict[str, Rest] = field(default_factory=dict)
    functions: bool = True
    """What was found out about the model and its activations in the first look; whether any is called as a function."""


def of_language(model: LanguageModel, config: RunConfig, splits: Mapping[str, Tokens], batching: str, *,
                autocast: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Probe:  # fmt: skip
    """Fixed windows of the validation split, evenly spaced."""
    tokens = min(max(config.train.batch * model.context // SHARE, TOKENS[0]), TOKENS[1])
    batch = fixed_batch(splits["val"], tokens, model.context, batching)
    device = next(model.parameters()).device
    arrays = [None if a is None else torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in batch]
    tokens_BT, targets_BT, mask_BT, documents_BT = arrays
    assert tokens_BT is not None and targets_BT is not None
    counts = np.bincount(np.asarray(splits["train"].ids[:COUNTED]).astype(np.int64), minlength=model.vocab_size)
    words = Words(tokens_BT, targets_BT, mask_BT, documents_BT, torch.from_numpy(counts))

    def loss() -> Tensor:
        return model.losses(tokens_BT, targets_BT, mask_BT, documents_BT)["loss"]

    places = None if mask_BT is None else mask_BT.flatten().nonzero().flatten()
    count = tokens_BT.numel() if places is None else len(places)
    return Probe(loss, count, words, autocast, places, tuple(tokens_BT.shape) if places is not None else ())


def fixed_batch(tokens: Tokens, count: int, context: int, batching: str) -> Batch:
    """About `count` tokens of a split, always the same."""
    T = min(context, count)
    if batching != "stream":
        length = max(1, (len(tokens) - 1) // tokens.n_documents) if batching == "pad" else T
        return Sampler(tokens, max(1, math.ceil(count / min(length, T))), T, batching, seed=0).batch(0)
    rows = max(1, count // T)
    last = len(tokens) - T - 1  # where the last whole window can begin
    if last < 0:
        return next(windows(tokens, 1, T, batching))
    starts_B = np.unique(np.arange(rows) * last // max(1, rows - 1))
    window_BT = np.asarray(tokens.ids[starts_B[:, None] + np.arange(T + 1)]).astype(np.int64)
    return Batch(window_BT[:, :-1], window_BT[:, 1:])


def probe_of(trainer: Any) -> Probe:
    """Of a run, in the precision of its training. trainer: a `training.trainer.Trainer`."""
    batching = trainer.config.data.batching
    return of_language(
        trainer.model, trainer.config, trainer.material.splits, batching, autocast=trainer.machine.autocast
    )


def probe_of_config(config: RunConfig) -> tuple[LanguageModel, Probe, Tokenizer]:
    """The model of a configuration with its initial weights, as `train` would start it, on the CPU, and its probe on
    real text. Raises UserError as training does before its first step."""
    corpus = open_corpus(config.data)
    tokenizer = tokenizer_for(config.tokenizer, corpus)
    splits = prepare_tokens(corpus, tokenizer, corpus.batching)
    size = config.model.vocab_size or tokenizer.vocab_size
    with named("model"):
        model = LanguageModel(config.model.model_copy(update={"vocab_size": size}))
    model.initialise(config.seed)
    return model, of_language(model, config, splits, corpus.batching), tokenizer


def of_pair(model: nn.Module, x: Any, y: Any) -> Probe:
    """Of any module: inputs, and targets for cross-entropy where they are whole numbers, for the mean square where they
    are not. Logits are (..., classes), or (N, classes, ...) as PyTorch's cross-entropy has them."""

    def loss() -> Tensor:
        out = _call(model, x)
        out = out if isinstance(out, Tensor) else next(o for o in _values(out) if isinstance(o, Tensor))
        if y.is_floating_point():
            return F.mse_loss(out, y)
        if out.shape[:-1] == y.shape:
            return F.cross_entropy(out.flatten(0, -2).float(), y.flatten())
        return F.cross_entropy(out.float(), y)

    return Probe(loss)


def of_first_batch(
    model: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], without: Callable[[], None]
) -> Probe:
    """Of a batch that a module saw. Where the module returns its own loss, a number, activations have gradients; else
    `without` is called, once."""
    told: list[bool] = []

    def loss() -> Tensor | None:
        out = model(*inputs, **keywords)
        numbers = [o for o in _values(out) if isinstance(o, Tensor) and o.ndim == 0 and o.requires_grad]
        if not numbers and not told:
            told.append(True)
            without()
        return numbers[0] if numbers else None

    return Probe(loss)


def _call(model: nn.Module, x: Any) -> Any:
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, (tuple, list)) else model(x)


def _values(out: Any) -> list[Any]:
    if isinstance(out, Mapping):
        return list(out.values())
    return list(out) if isinstance(out, (tuple, list)) else [out]
