"""Mixers move information between positions: (x_BTD, flow) -> x_BTD, never from a later token to an earlier one.

B batch, T new tokens, S all tokens seen, D dim, H heads, K kv_heads, E head_dim.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.linear import Linear
from nanogpt.model.norms import NORMS
from nanogpt.model.part import Flow, Nothing, Part
from nanogpt.parts import at_least, between, build, divides


class KeyValues:
    """The keys and values of every token seen, both (B, K, capacity, E), allocated at the first one."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def add(self, k_BKTE: Tensor, v_BKTE: Tensor, columns: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Write new columns; return all so far, (B, K, S, E)."""
        start, end = columns
        if self.k is None or self.v is None:
            self.k = k_BKTE.new_empty(*k_BKTE.shape[:2], self.capacity, k_BKTE.shape[3])
            self.v = v_BKTE.new_empty(*v_BKTE.shape[:2], self.capacity, v_BKTE.shape[3])
        self.k[:, :, start:end] = k_BKTE
        self.v[:, :, start:end] = v_BKTE
        return self.k[:, :, :end], self.v[:, :, :end]


class Attention(Part):
    """softmax(q k^T / sqrt(E)) v over earlier tokens, in H heads. Vaswani et al. 2017, section 3.2.

    heads: query heads; by default as many of 64 numbers as fit.
    kv_heads: key and value heads, each shared by heads / kv_heads queries (Ainslie et al. 2023; 1 is Shazeer 2019).
    head_dim: numbers in a head; by default dim / heads.
    window: tokens that a token can see, itself included; 0 is all (Beltagy et al. 2020).
    qk_norm: a norm on each head's queries and keys (Henry et al. 2020).
    bias: which matrices have one: none, qkv, out, all.
    dropout: share of attention weights set to zero while training.
    """

    def __init__(
        self,
        *,
        dim: int,
        layer: int,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int = 0,
        qk_norm: str = "none",
        bias: Literal["none", "qkv", "out", "all"] = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if heads is None:
            heads = max(h for h in range(1, max(1, dim // 64) + 1) if dim % h == 0)
        at_least(1, heads=heads)
        at_least(0, window=window)
        between(0, 1, dropout=dropout)
        if head_dim is None:
            divides("heads", heads, "dim", dim)
            head_dim = dim // heads
        kv_heads = heads if kv_heads is None else kv_heads
        at_least(1, head_dim=head_dim)
        divides("kv_heads", kv_heads, "heads", heads)
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, heads, kv_heads, head_dim
        self.window, self.dropout = window, dropout
        self.q = Linear(dim, heads * head_dim, bias=bias in ("qkv", "all"))
        self.k = Linear(dim, kv_heads * head_dim, bias=bias in ("qkv", "all"))
        self.v = Linear(dim, kv_heads * head_dim, bias=bias in ("qkv", "all"))
        self.q_norm = build(NORMS, qk_norm, dim=head_dim)
        self.k_norm = build(NORMS, qk_norm, dim=head_dim)
        self.qk_norm = self.q_norm.spec
        self.out = Linear(heads * head_dim, dim, bias=bias in ("out", "all"), role="residual")

    def new_state(self, batch: int, capacity: int) -> KeyValues:
        return KeyValues(capacity)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        B, T, _ = x_BTD.shape
        q = self.q(x_BTD).view(B, T, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        position = flow.position[self.layer]
        q, k = position.rotate(self.q_norm(q), self.k_norm(k), flow)
        memory = flow.state(self)
        if memory is not None:
            k, v = memory.add(k, v, flow.columns)
        out = attend(
            q,
            k.to(q.dtype),
            v.to(q.dtype),
            visible=flow.visible(self.window),
            bias=position.bias(flow),
            scale=position.scale(flow) * self.head_dim**-0.5,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out(out.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))

    def flops(self, tokens: int, context: int) -> float:
        """Matrices, and 4 S H E for q k^T and the weighted sum of v; as is customary, causality is not discounted."""
        seen = min(context, self.window or context)
        return super().flops(tokens, context) + 4.0 * tokens * seen * self.heads * self.head_dim

    def cache_numbers(self) -> int:
        """Numbers remembered a token."""
        return 2 * self.kv_heads * self.head_dim


def attend(
    q_BHTE: Tensor,
    k_BKSE: Tensor,
    v_BKSE: Tensor,
    *,
    visible: Tensor | None,
    bias: Tensor | None,
    scale: float,
    dropout: float,
) -> Tensor:
    """Attention of H query heads over K key heads -> (B, H, T, E). `visible` None is plain causality."""
    causal = visible is None and q_BHTE.shape[2] == k_BKSE.shape[2]
    mask = visible
    if bias is not None:
        if causal:
            T = q_BHTE.shape[2]
            visible = torch.ones(T, T, dtype=torch.bool, device=q_BHTE.device).tril()
        mask = bias if visible is None else bias.masked_fill(~visible, float("-inf"))
        mask = mask.to(q_BHTE.dtype)
    grouped = q_BHTE.shape[1] != k_BKSE.shape[1]
    return F.scaled_dot_product_attention(
        q_BHTE, k_BKSE, v_BKSE, mask, dropout, is_causal=causal and bias is None, scale=scale, enable_gqa=grouped
    )


MIXERS = {
    "none": Nothing,
    "attention": Attention,
}
