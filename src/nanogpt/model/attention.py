"""Attention: each token's weighted mean of what earlier tokens offer.

B batch, T new tokens, S all tokens seen, D dim, H heads, K kv_heads, E head_dim.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.kernels import causal as blocks
from nanogpt.kernels.dropout import dropout as drop
from nanogpt.model.ends import cap
from nanogpt.model.linear import Linear
from nanogpt.model.norms import NORMS
from nanogpt.model.part import Flow, Part
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
        self.k.narrow(2, start, end - start).copy_(k_BKTE)
        self.v.narrow(2, start, end - start).copy_(v_BKTE)
        return self.k.narrow(2, 0, end), self.v.narrow(2, 0, end)


class Attention(Part):
    """softmax(scale q k^T + mask) v over earlier tokens, in H heads, then a matrix: x_BTD -> (B, T, D), q (B, H, T, E),
    k and v (B, K, S, E). Vaswani et al. 2017, section 3.2.

    heads: query heads; by default as many of 64 numbers as fit.
    kv_heads: key and value heads, each shared by heads / kv_heads queries (Ainslie et al. 2023; 1 is Shazeer 2019).
    head_dim: numbers in a head; by default dim / heads.
    window: tokens that a token can see, itself included; 0 is all (Beltagy et al. 2020).
    qk_norm: a norm on queries and keys, before positions turn them (Henry et al. 2020).
    bias: which matrices have one: none, qkv, out, all.
    dropout: share of attention weights set to zero while training.
    scale: factor on q k^T; by default 1/sqrt(head_dim) (Gemma 2 and Granite name their own).
    softcap: c tanh(logits / c) keeps attention logits within +-c; 0 leaves them (Gemma 2, arXiv:2408.00118).
    qk_norm_over: what qk_norm sees: head, each head alone, one weight for all (Qwen 3, Gemma 3); all, the H E numbers
    before they are cut into heads (OLMo 2); each, each head alone, a weight of its own for each (StableLM 2).
    out: linear, a matrix on the joined heads; none, the joined heads themselves ("Let's build GPT" before its
    projection), which needs heads * head_dim = dim.
    """

    together = ("q", "k", "v")

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
        scale: float | None = None,
        softcap: float = 0.0,
        qk_norm_over: Literal["head", "all", "each"] = "head",
        out: Literal["linear", "none"] = "linear",
    ) -> None:
        super().__init__()
        if heads is None:
            heads = max(h for h in range(1, max(1, dim // 64) + 1) if dim % h == 0)
        at_least(1, heads=heads)
        at_least(0, window=window, softcap=softcap)
        between(0, 1, dropout=dropout)
        if head_dim is None:
            divides("heads", heads, "dim", dim)
            head_dim = dim // heads
        kv_heads = heads if kv_heads is None else kv_heads
        at_least(1, head_dim=head_dim)
        divides("kv_heads", kv_heads, "heads", heads)
        if out == "none":
            _check_without_out(dim, heads, head_dim, bias)
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, heads, kv_heads, head_dim
        self.window, self.dropout, self.softcap, self.qk_norm_over = window, dropout, softcap, qk_norm_over
        self.scale = head_dim**-0.5 if scale is None else scale
        if self.scale <= 0:
            raise UserError(f"scale={scale} must be above 0; nearest: {head_dim**-0.5}")
        self.q = Linear(dim, heads * head_dim, bias=bias in ("qkv", "all"))
        self.k = Linear(dim, kv_heads * head_dim, bias=bias in ("qkv", "all"))
        self.v = Linear(dim, kv_heads * head_dim, bias=bias in ("qkv", "all"))
        self.q_norm = self._norm(qk_norm, heads)
        self.k_norm = self._norm(qk_norm, kv_heads)
        self.qk_norm = (self.q_norm[0] if isinstance(self.q_norm, EachHead) else self.q_norm).spec
        self.attend = Attend()
        self.out: nn.Module = nn.Identity()
        if out == "linear":
            self.out = Linear(heads * head_dim, dim, bias=bias in ("out", "all"), role="residual")

    def _norm(self, norm: str, heads: int) -> nn.Module:
        if self.qk_norm_over == "each":
            return EachHead(build(NORMS, norm, dim=self.head_dim) for _ in range(heads))
        return build(NORMS, norm, dim=self.head_dim * (heads if self.qk_norm_over == "all" else 1))

    def new_state(self, batch: int, capacity: int) -> KeyValues:
        return KeyValues(capacity)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        q, k = self._normed(self.q(x_BTD), self.q_norm), self._normed(self.k(x_BTD), self.k_norm)
        v = self._cut(self.v(x_BTD))
        position = flow.position[self.layer]
        q, k = position.rotate(q, k, flow)
        memory = flow.state(self)
        if memory is not None:
            k, v = memory.add(k, v, flow.columns)
        out = self.attend(
            q,
            k.to(q.dtype),
            v.to(q.dtype),
            visible=flow.visible(self.window),
            bias=position.bias(flow),
            scale=position.scale(flow) * self.scale,
            dropout=self.dropout if self.training else 0.0,
            softcap=self.softcap,
        )
        return self.out(out.transpose(1, 2).flatten(2))

    def _normed(self, x_BTN: Tensor, norm: nn.Module) -> Tensor:
        """Queries or keys, normed and cut into heads."""
        return self._cut(norm(x_BTN)) if self.qk_norm_over == "all" else norm(self._cut(x_BTN))

    def _cut(self, x_BTN: Tensor) -> Tensor:
        """(B, T, heads E) -> (B, heads, T, E)."""
        return x_BTN.view(*x_BTN.shape[:2], -1, self.head_dim).transpose(1, 2)

    def flops(self, tokens: int, context: int) -> float:
        """Matrices, and 4 S H E for q k^T and the weighted sum of v; as is customary, causality is not discounted."""
        seen = min(context, self.window or context)
        return super().flops(tokens, context) + 4.0 * tokens * seen * self.heads * self.head_dim

    def cache_numbers(self) -> int:
        """Numbers remembered a token."""
        return 2 * self.kv_heads * self.head_dim


class Attend(nn.Module):
    """`attend` as a module, so that an observer can hook the queries and keys as they meet."""

    def forward(self, q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, **how: Any) -> Tensor:
        return attend(q_BHTE, k_BKSE, v_BKSE, **how)


class EachHead(nn.ModuleList):
    """A norm for each head: x_BHTE -> (B, H, T, E)."""

    def forward(self, x_BHTE: Tensor) -> Tensor:
        return torch.stack([norm(x_BTE) for norm, x_BTE in zip(self, x_BHTE.unbind(1), strict=True)], 1)


def _check_without_out(dim: int, heads: int, head_dim: int, bias: str) -> None:
    if heads * head_dim != dim:
        raise UserError(
            f"out=none: the joined heads are the output, so heads * head_dim = {heads * head_dim} must be dim={dim}"
            f"; nearest: {f'head_dim={dim // heads}' if dim % heads == 0 else 'out=linear'}"
        )
    if bias in ("out", "all"):
        less = {"out": "none", "all": "qkv"}[bias]
        raise UserError(f"bias={bias} names the matrix that out=none leaves out; nearest: {less}")


def attend(
    q_BHTE: Tensor,
    k_BKSE: Tensor,
    v_BKSE: Tensor,
    *,
    visible: Tensor | None,
    bias: Tensor | None,
    scale: float,
    dropout: float,
    softcap: float = 0.0,
) -> Tensor:
    """Attention of H query heads over K key heads -> (B, H, T, E). `visible` None is plain causality."""
    (H, T), (K, S) = q_BHTE.shape[1:3], k_BKSE.shape[1:3]
    causal = visible is None and T == S
    if causal and (bias is not None or softcap):
        visible = torch.ones(T, S, dtype=torch.bool, device=q_BHTE.device).tril()
    mask = visible
    if bias is not None:
        mask = (bias if visible is None else bias.masked_fill(~visible, float("-inf"))).to(q_BHTE.dtype)
    if softcap:
        return _attend_capped(q_BHTE, k_BKSE, v_BKSE, mask, scale, dropout, softcap)
    if causal and bias is None and not dropout and blocks.suits(q_BHTE):
        return blocks.attend_causally(q_BHTE, k_BKSE, v_BKSE, scale)
    if T == 1 and H != K:  # one new token: the queries of a key head side by side, so that each key is read once
        q_BKGE = q_BHTE.reshape(-1, K, H // K, q_BHTE.shape[3])
        if mask is not None and mask.shape[1] == H:
            mask = mask.reshape(-1, K, H // K, S)
        return F.scaled_dot_product_attention(q_BKGE, k_BKSE, v_BKSE, mask, dropout, scale=scale).view(q_BHTE.shape)
    return F.scaled_dot_product_attention(
        q_BHTE, k_BKSE, v_BKSE, mask, dropout, is_causal=causal and bias is None, scale=scale, enable_gqa=H != K
    )


def _attend_capped(
    q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask: Tensor | None, scale: float, dropout: float, softcap: float
) -> Tensor:
    """The same with c tanh(logits / c) before the mask, written out: a fused kernel has no place for it."""
    K = k_BKSE.shape[1]
    q_BKGTE = q_BHTE.unflatten(1, (K, -1))  # G query heads share a key head
    logits_BHTS = cap(torch.einsum("bkgte,bkse->bkgts", q_BKGTE, k_BKSE) * scale, softcap).flatten(1, 2)
    if mask is not None and mask.dtype == torch.bool:
        logits_BHTS = logits_BHTS.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        logits_BHTS = logits_BHTS + mask
    weights_BHTS = drop(logits_BHTS.softmax(-1), dropout)
    return torch.einsum("bkgts,bkse->bkgte", weights_BHTS.unflatten(1, (K, -1)), v_BKSE).flatten(1, 2)
