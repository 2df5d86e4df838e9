"""The two ends of a model: token ids -> vectors, and vectors -> logits."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.classic.networks import Perceptron, Tree, WindowEmbedding
from nanogpt.classic.ngram import NGram
from nanogpt.classic.window import HashedNGrams
from nanogpt.errors import UserError
from nanogpt.kernels.dropout import dropout
from nanogpt.model.linear import Linear
from nanogpt.model.norms import NORMS
from nanogpt.model.part import Flow, Part, Rule
from nanogpt.parts import at_least, between, build


class TokenEmbedding(Part):
    """x = dropout(norm(scale E[token] + position)), E (V, D): tokens_BT -> x_BTD. Bengio et al. 2003.

    norm: on the sum, before the first block (BLOOM, nanochat). dropout: share of numbers set to zero while training
    (GPT-2). scale: a number (Granite's `embedding_multiplier`), or sqrt_dim for sqrt(D) (Vaswani et al. 2017, section
    3.4; Gemma).
    """

    def __init__(
        self, *, dim: int, vocab_size: int, norm: str = "none", dropout: float = 0.0, scale: float | str = 1.0
    ) -> None:
        super().__init__()
        between(0, 1, dropout=dropout)
        self.scale = scale
        self._factor = dim**0.5 if scale == "sqrt_dim" else _factor(scale, ", or sqrt_dim")
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))
        self.norm = build(NORMS, norm, dim=dim)
        self.dropout = dropout

    def rules(self) -> dict[str, Rule]:
        return {"weight": "embedding"}

    def forward(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        x = times(self.vectors(tokens_BT, flow), self._factor)
        for position in dict.fromkeys(flow.position):
            x = position.embed(x, flow)
        return dropout(self.norm(x), self.dropout, self.training)

    def vectors(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        """Of each token, (B, T, D), before anything is done with them."""
        return F.embedding(tokens_BT, self.weight)


class HashedEmbedding(TokenEmbedding):
    """E[token] and, for n = 2 ... N, E_n[hash(last n tokens)]: a model that knows its n-grams from the start has its
    layers free for the rest. Pagnoni et al. 2024 (BLT, arXiv:2412.09871), section 3.2.1; Huang et al. 2025
    (arXiv:2501.16975).

    tokens: N, the longest n-gram. rows: of each table E_n. forget: share of the rows E_n[...] that are left out while
    training, which keeps a small text from being known by heart. norm, dropout, scale: as token's, of the sum.
    """

    def __init__(
        self,
        *,
        dim: int,
        vocab_size: int,
        tokens: int = 3,
        rows: int = 8192,
        forget: float = 0.0,
        norm: str = "none",
        dropout: float = 0.0,
        scale: float | str = 1.0,
    ) -> None:
        super().__init__(dim=dim, vocab_size=vocab_size, norm=norm, dropout=dropout, scale=scale)
        at_least(2, tokens=tokens)
        at_least(1, rows=rows)
        between(0, 1, forget=forget)
        self.tokens, self.rows, self.forget = tokens, rows, forget
        self.ngrams = HashedNGrams(dim, vocab_size, tokens, rows, forget)

    def vectors(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        return super().vectors(tokens_BT, flow) + self.ngrams(tokens_BT, flow)


class Head(Part):
    """logits = scale (x W^T + b), softly capped; x_BTD -> (B, T, V).

    bias: "zeros" learns b, "none" has none (GPT-J and Phi have it). softcap: c tanh(logits / c) keeps logits within
    +-c; 0 leaves them (Gemma 2, 2024). scale: a factor on the logits (Cohere's `logit_scale`; 1 / `logits_scaling` of
    Granite).
    """

    def __init__(
        self,
        *,
        dim: int,
        vocab_size: int,
        bias: Literal["none", "zeros"] = "none",
        softcap: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        at_least(0, softcap=softcap)
        self.softcap, self.scale = softcap, _factor(scale)
        self.linear = Linear(dim, vocab_size, bias=bias == "zeros", role="head")

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        return cap(times(self.linear(x_BTD), self.scale), self.softcap)


class TiedHead(Part):
    """logits = scale x E^T, softly capped, E (V, D) being the token embedding itself; x_BTD -> (B, T, V).
    Press & Wolf 2017; Inan et al. 2017.

    softcap, scale: as of `linear`.
    """

    def __init__(self, *, dim: int, vocab_size: int, softcap: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        at_least(0, softcap=softcap)
        self.softcap, self.scale, self.size = softcap, _factor(scale), dim * vocab_size

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        return cap(times(F.linear(x_BTD, embedding_VD), self.scale), self.softcap)

    def flops(self, tokens: int, context: int) -> float:
        return 2.0 * self.size * tokens


class NoHead(Part):
    """The stream is the logits, as in a bigram table; needs dim = vocab."""

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        return x_BTD


def times(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor


def cap(logits: Tensor, softcap: float) -> Tensor:
    """c tanh(logits / c); softcap 0 leaves them."""
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def _factor(scale: float | str, words: str = "") -> float:
    if not isinstance(scale, (int, float)) or scale <= 0:
        raise UserError(f"scale={scale} must be a number above 0{words}; nearest: 1.0")
    return float(scale)


EMBEDS = {"token": TokenEmbedding, "hashed": HashedEmbedding, "window": WindowEmbedding, "ngram": NGram}
HEADS = {"linear": Head, "tied": TiedHead, "none": NoHead, "perceptron": Perceptron, "tree": Tree}
