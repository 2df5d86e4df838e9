"""Layouts: how a block joins its mixer and its ffn to the residual stream."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.ffn import FFNS
from nanogpt.model.mixers import MIXERS
from nanogpt.model.norms import NORMS
from nanogpt.model.part import Flow, Nothing, Part
from nanogpt.parts import between, build, field


class Block(Part):
    """One layer. A subclass says in `forward` where the norms stand.

    The stream may be wider than dim inside: `open` widens it at the first block, `close` narrows it at the last.
    dropout: share of each branch's output set to zero while training.
    """

    final_norm = True
    """Whether the model norms the stream once more, before the head."""

    def __init__(
        self,
        *,
        dim: int,
        layer: int,
        n_layers: int,
        context: int,
        mixer: str,
        ffn: str,
        norm: str,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        between(0, 1, dropout=dropout)
        self.layer, self.dropout = layer, dropout
        given = {"dim": dim, "layer": layer, "n_layers": n_layers, "context": context}
        with field("model.mixer"):
            self.mixer = build(MIXERS, mixer, **given)
        with field("model.ffn"):
            self.ffn = build(FFNS, ffn, **given)
        with field("model.norm"):
            self.mixer_norm = self._norm(norm, dim, self.mixer)
            self.ffn_norm = self._norm(norm, dim, self.ffn)

    def _norm(self, norm: str, dim: int, branch: nn.Module) -> nn.Module:
        return build(NORMS, "none" if isinstance(branch, Nothing) else norm, dim=dim)

    def open(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return x_BTD

    def close(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return x_BTD

    def drop(self, x_BTD: Tensor) -> Tensor:
        return F.dropout(x_BTD, self.dropout, self.training)


class PreNorm(Block):
    """x + f(norm(x)): the stream is never normed. Xiong et al. 2020; GPT-2."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        x_BTD = x_BTD + self.drop(self.mixer(self.mixer_norm(x_BTD), flow))
        return x_BTD + self.drop(self.ffn(self.ffn_norm(x_BTD), flow))


class PostNorm(Block):
    """norm(x + f(x)): the stream is normed after each branch. Vaswani et al. 2017; GPT-1."""

    final_norm = False

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        x_BTD = self.mixer_norm(x_BTD + self.drop(self.mixer(x_BTD, flow)))
        return self.ffn_norm(x_BTD + self.drop(self.ffn(x_BTD, flow)))


class Unnormed(Block):
    """x + f(x): no norm anywhere, whatever `norm` says."""

    final_norm = False

    def _norm(self, norm: str, dim: int, branch: nn.Module) -> nn.Module:
        return build(NORMS, "none", dim=dim)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        x_BTD = x_BTD + self.drop(self.mixer(x_BTD, flow))
        return x_BTD + self.drop(self.ffn(x_BTD, flow))


LAYOUTS = {
    "pre": PreNorm,
    "post": PostNorm,
    "none": Unnormed,
}
