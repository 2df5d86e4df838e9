"""The networks before attention: an embedding that sees a window of words, plain layers, heads that are whole networks.

B batch, T tokens, V vocabulary, N tokens in a window, W width of one token's vector, D = N W, H hidden.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.activations import ACTIVATIONS
from nanogpt.activations.base import widths
from nanogpt.classic.window import Window
from nanogpt.errors import UserError
from nanogpt.kernels.dropout import dropout
from nanogpt.model.linear import Linear
from nanogpt.model.norms import NORMS
from nanogpt.model.part import Flow, Part, Rule, flops
from nanogpt.parts import at_least, between, build, divides, number


class WindowEmbedding(Part):
    """x_t = [E(w_t-N+1), ..., E(w_t-1), E(w_t)]: the vectors of the last N tokens, oldest first, in one vector of
    D = N W numbers. Bengio et al. 2003, section 2; makemore (Karpathy 2022).

    tokens: N, the token itself included; W = D / N.
    blank: what stands before a text's first token: token 0 (`first`, as in the lectures, where it is the end of a
        name) or a row of its own (`own`, as in makemore.py).
    dropout: share of numbers set to zero while training.
    """

    def __init__(
        self, *, dim: int, vocab_size: int, tokens: int, blank: Literal["first", "own"] = "first", dropout: float = 0.0
    ) -> None:
        super().__init__()
        divides("tokens", tokens, "dim", dim)
        between(0, 1, dropout=dropout)
        self.tokens, self.dropout = tokens, dropout
        self.window = Window(tokens, vocab_size if blank == "own" else 0)
        self.weight = torch.nn.Parameter(torch.empty(vocab_size + (blank == "own"), dim // tokens))

    def rules(self) -> dict[str, Rule]:
        return {"weight": "embedding"}

    def forward(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        x_BTD = F.embedding(self.window(tokens_BT, flow), self.weight).flatten(2)
        for position in dict.fromkeys(flow.position):
            x_BTD = position.embed(x_BTD, flow)
        return dropout(x_BTD, self.dropout, self.training)

    def flops(self, tokens: int, context: int) -> float:
        return 0.0


class Dense(Part):
    """act(x W + b), W (D, D): one matrix and an activation, a layer of the networks before residual streams. Bengio et
    al. 2003; makemore (Karpathy 2022).

    It has its place under layout=none without residuals, where the ffn of each layer reads that of the layer below.
    An activation that takes i numbers a unit and gives o makes W (D, i D / o), so that D come out. All but the first
    layer's W reads what its like gave, so an initialisation allows for that activation (He et al. 2015).
    act: the activation. bias: "zeros" learns b.
    """

    def __init__(self, *, dim: int, layer: int, act: str = "tanh", bias: Literal["none", "zeros"] = "none") -> None:
        super().__init__()
        self.act = build(ACTIVATIONS, act, dim=dim)
        inputs, outputs = widths(self.act)
        if outputs > 1:
            divides(f"{self.act.spec.name}'s numbers a unit", outputs, "dim", dim)
            self.act = build(ACTIVATIONS, act, dim=dim // outputs)
        gain = number(self.act, "gain", 1.0)
        n_out = dim // outputs * inputs
        self.up = Linear(dim, n_out, bias=bias == "zeros", gain=gain if layer else 1.0, then=gain)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return self.act(self.up(x_BTD))


class Perceptron(Part):
    """logits = b + W x + U act(norm(d + H x)), H (D, H), U (H, V), W (D, V). Bengio et al. 2003, eq. 1, with
    act = tanh and x from `window`; makemore's MLP (Karpathy 2022) is the same without W.

    hidden: H; 0 leaves b + W x, for which direct must be linear.
    act, norm: after H x; a norm there is makemore's batch normalisation (part 3).
    direct: `linear` has W, the connections straight from the vectors to the logits.
    bias: which matrices have one: `all` is d and b; `out` is b alone; `auto` is `out` with a norm, which would
        take d away again, and `all` without.
    """

    def __init__(
        self,
        *,
        dim: int,
        vocab_size: int,
        hidden: int,
        act: str = "tanh",
        norm: str = "none",
        direct: Literal["none", "linear"] = "none",
        bias: Literal["auto", "all", "out", "none"] = "auto",
    ) -> None:
        super().__init__()
        at_least(0, hidden=hidden)
        if not hidden and direct == "none":
            raise UserError("hidden=0 leaves nothing between vectors and logits; nearest: direct=linear")
        self.hidden = hidden
        self.act = build(ACTIVATIONS, act, dim=max(1, hidden))
        self.bias = _which_bias(bias, norm)
        fed, gives = (hidden * wide for wide in widths(self.act))
        self.norm = build(NORMS, norm if hidden else "none", dim=fed)
        gain, last = number(self.act, "gain", 1.0), self.bias != "none"
        self.up = Linear(dim, fed, bias=self.bias == "all", then=gain) if hidden else None
        self.out = Linear(gives, vocab_size, bias=last, role="head", gain=gain) if hidden else None
        self.linear = Linear(dim, vocab_size, bias=last and not hidden, role="head") if direct == "linear" else None

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        if self.up is None or self.out is None:
            assert self.linear is not None
            return self.linear(x_BTD)
        logits = self.out(self.act(self.norm(self.up(x_BTD))))
        return logits if self.linear is None else logits + self.linear(x_BTD)


class Tree(Part):
    """logits = b + U h, where h comes from the window's N vectors fused two by two, then the results two by two,
    until one is left: h = act(norm(H_l [a, b])). van den Oord et al. 2016 (WaveNet) as makemore's part 5 has it.

    hidden: width of every level. tokens: N, the window's; a power of `fuse`. fuse: vectors that become one.
    act, norm: after each H_l; the norm sees (..., vectors, hidden), so that a batch norm counts every vector of a
        level (the lecture's bug was to keep statistics for each place apart).
    bias: which matrices have one: `out` is U; `all` is the H_l too; `auto` is `out` with a norm and `all` without.
    """

    def __init__(
        self,
        *,
        dim: int,
        vocab_size: int,
        hidden: int,
        tokens: int = 8,
        fuse: int = 2,
        act: str = "tanh",
        norm: str = "batchnorm",
        bias: Literal["auto", "all", "out", "none"] = "auto",
    ) -> None:
        super().__init__()
        at_least(1, hidden=hidden)
        at_least(2, fuse=fuse)
        divides("tokens", tokens, "dim", dim)
        levels = next(n for n in range(32) if fuse**n >= tokens)
        if levels == 0 or fuse**levels != tokens:
            raise UserError(f"tokens={tokens} is no power of fuse={fuse}; nearest: tokens={fuse ** max(1, levels)}")
        self.tokens, self.fuse, self.hidden, self.bias = tokens, fuse, hidden, _which_bias(bias, norm)
        self.ups, self.norms, self.acts = torch.nn.ModuleList(), torch.nn.ModuleList(), torch.nn.ModuleList()
        width, feeding = dim // tokens, 1.0
        for _ in range(levels):
            activation = build(ACTIVATIONS, act, dim=hidden)
            inputs, outputs = widths(activation)
            fed, gain = hidden * inputs, number(activation, "gain", 1.0)
            self.ups.append(Linear(fuse * width, fed, bias=self.bias == "all", gain=feeding, then=gain))
            self.norms.append(build(NORMS, norm, dim=fed))
            self.acts.append(activation)
            width, feeding = hidden * outputs, gain
        self.act, self.norm = self.acts[0].spec, self.norms[0].spec
        self.out = Linear(width, vocab_size, bias=self.bias != "none", role="head", gain=feeding)

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        x_BTNW = x_BTD.unflatten(-1, (self.tokens, -1))
        for up, norm, act in zip(self.ups, self.norms, self.acts, strict=True):
            x_BTNW = act(norm(up(x_BTNW.unflatten(-2, (-1, self.fuse)).flatten(-2))))
        return self.out(x_BTNW.flatten(-2))

    def flops(self, tokens: int, context: int) -> float:
        """A level works on each of its vectors."""
        total, vectors = flops(self.out, tokens, context), self.tokens
        for up in self.ups:
            vectors //= self.fuse
            total += flops(up, tokens * vectors, context)
        return total


def _which_bias(bias: str, norm: str) -> str:
    return bias if bias != "auto" else "all" if norm == "none" else "out"
