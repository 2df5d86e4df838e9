"""The two ends of a model: token ids -> vectors, and vectors -> logits."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.linear import Linear
from nanogpt.model.norms import NORMS
from nanogpt.model.part import Flow, Part, Rule
from nanogpt.parts import at_least, between, build


class TokenEmbedding(Part):
    """A vector for each token of the vocabulary: tokens_BT -> x_BTD. Bengio et al. 2003.

    norm: on the vectors, before the first block. dropout: share of numbers set to zero while training,
    after positions are added (GPT-2).
    """

    def __init__(self, *, dim: int, vocab_size: int, norm: str = "none", dropout: float = 0.0) -> None:
        super().__init__()
        between(0, 1, dropout=dropout)
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))
        self.norm = build(NORMS, norm, dim=dim)
        self.dropout = dropout

    def rules(self) -> dict[str, Rule]:
        return {"weight": "embedding"}

    def forward(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        x = F.embedding(tokens_BT, self.weight)
        for position in dict.fromkeys(flow.position):
            x = position.embed(x, flow)
        return F.dropout(self.norm(x), self.dropout, self.training)


class Head(Part):
    """logits = x W^T (+ b), softly capped.

    bias: "zeros" learns one. softcap: c tanh(logits / c) keeps logits within +-c; 0 leaves them (Gemma 2, 2024).
    """

    def __init__(
        self, *, dim: int, vocab_size: int, bias: Literal["none", "zeros"] = "none", softcap: float = 0.0
    ) -> None:
        super().__init__()
        at_least(0, softcap=softcap)
        self.softcap = softcap
        self.linear = Linear(dim, vocab_size, bias=bias == "zeros", role="head")

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        return cap(self.linear(x_BTD), self.softcap)


class TiedHead(Part):
    """logits = x E^T, E being the token embedding itself. Press & Wolf 2017; Inan et al. 2017."""

    def __init__(self, *, dim: int, vocab_size: int, softcap: float = 0.0) -> None:
        super().__init__()
        at_least(0, softcap=softcap)
        self.softcap, self.size = softcap, dim * vocab_size

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        return cap(F.linear(x_BTD, embedding_VD), self.softcap)

    def flops(self, tokens: int, context: int) -> float:
        return 2.0 * self.size * tokens


class NoHead(Part):
    """The stream is the logits, as in a bigram table; needs dim = vocab."""

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        return x_BTD


def cap(logits: Tensor, softcap: float) -> Tensor:
    return softcap * torch.tanh(logits / softcap) if softcap else logits


EMBEDS = {"token": TokenEmbedding}
HEADS = {"linear": Head, "tied": TiedHead, "none": NoHead}
