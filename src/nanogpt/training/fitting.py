"""Closed form: modules that are fitted to the training text at once, as counts are, rather than by gradient steps.

Any module with `fit(ids, starts) -> str` is one: ids are the whole training split, memory-mapped; starts the place of
the <|endoftext|> before each document and of the last one, or None where the text is read as one stream; the answer
says in a line what was found. What it finds it keeps in buffers, whose sizes only then are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from nanogpt.data.shards import Tokens

SCORED = 2**31
"""Logits that are worked out at most to say the training loss of a model that no step has scored."""


def modules_to_fit(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "fit")]


def fit(model: nn.Module, tokens: Tokens, batching: str) -> list[str]:
    """Fit all that can be fitted; what each found. Where rows are windows of a stream, documents are one stream too."""
    starts = None if batching == "stream" else tokens.starts
    return [module.fit(tokens.ids, starts) for module in modules_to_fit(model)]


def beginning(tokens: Tokens, at_most: int) -> Tokens:
    """The first tokens of a split, whole documents where it has them (one at least)."""
    if len(tokens) <= at_most:
        return tokens
    if tokens.starts is None:
        return replace(tokens, ids=tokens.ids[: max(2, at_most)])
    starts = tokens.starts[: max(2, int((tokens.starts < at_most).sum()))]
    return replace(tokens, ids=tokens.ids[: int(starts[-1]) + 1], starts=starts)


def sizes_unknown(model: nn.Module) -> set[str]:
    """Names of the buffers whose sizes only fitting tells."""
    return {
        name
        for path, module in model.named_modules()
        if hasattr(module, "fit")
        for name, _ in module.named_buffers(prefix=path)
    }


def make_room(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the buffers of fitted modules the sizes that were saved."""
    for name in sizes_unknown(model):
        path, _, own = name.rpartition(".")
        buffer = model.get_buffer(name)
        if buffer.shape != weights[name].shape:
            setattr(model.get_submodule(path), own, buffer.new_empty(weights[name].shape))
