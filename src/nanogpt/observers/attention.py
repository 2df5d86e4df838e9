"""Where each head looks: worked out again for a few queries, from the queries and keys as they meet.

B batch, H heads, K key heads, T queries, S keys, E head_dim, R queries that are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.model.ends import cap

QUERIES = 16
"""Evenly spaced queries of a row, the last one included."""
ROWS = 4
"""Rows of the batch at most."""
QUANTITIES = ("entropy", "logit", "first")
"""By head: the entropy of its weights in nats, the largest logit, and the weight on the first token that is visible.
Means over queries, but for the logit."""


class Heads:
    """A hook on `Attend` that keeps the logits of some queries, (B, H, R, S)."""

    def __init__(self) -> None:
        self.logits: Tensor | None = None

    @torch.no_grad()
    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.logits is None:
            self.logits = some(*inputs[:2], **{k: kwargs[k] for k in ("visible", "bias", "scale", "softcap")})


def some(q_BHTE: Tensor, k_BKSE: Tensor, *, visible: Tensor | None, bias: Tensor | None, scale: Any,
         softcap: float) -> Tensor:  # fmt: skip
    """The logits of QUERIES and ROWS at most, (B, H, R, S), with scale, cap and bias, as the softmax sees them."""
    T = q_BHTE.shape[2]
    rows = torch.arange(1, min(QUERIES, T) + 1, device=q_BHTE.device) * T // min(QUERIES, T) - 1
    return weighed(q_BHTE[:ROWS], k_BKSE[:ROWS], rows, visible=_of_rows(visible), bias=_of_rows(bias),
                   scale=_of_rows(scale), softcap=softcap)  # fmt: skip


def described(layers: Sequence[Tensor]) -> Tensor:
    """(3, heads of all layers), rows QUANTITIES, of logits (B, H, R, S). Layers of one shape are worked on together."""
    alike = len({logits.shape[:1] + logits.shape[2:] for logits in layers}) == 1
    return torch.cat([_described(logits) for logits in ([torch.cat(list(layers), 1)] if alike else layers)], 1)


def _described(logits_BHRS: Tensor) -> Tensor:
    weights = logits_BHRS.softmax(-1)
    entropy = -torch.xlogy(weights, weights).sum(-1)
    first = logits_BHRS.isfinite().int().argmax(-1, keepdim=True)
    return torch.stack(
        [
            entropy.mean((0, 2)),
            logits_BHRS.amax((0, 2, 3)),
            weights.gather(-1, first)[..., 0].mean((0, 2)),
        ]
    )


def _of_rows(x: Any) -> Any:
    return x[:ROWS] if isinstance(x, Tensor) and x.ndim == 4 else x


def weighed(q_BHTE: Tensor, k_BKSE: Tensor, rows: Tensor, *, visible: Tensor | None, bias: Tensor | None, scale: Any,
            softcap: float) -> Tensor:  # fmt: skip
    """The logits of these queries, (B, H, R, S), -inf where a key is not visible."""
    H, K, T, S = q_BHTE.shape[1], k_BKSE.shape[1], q_BHTE.shape[2], k_BKSE.shape[2]
    q = q_BHTE[:, :, rows].float()
    k = k_BKSE.float().repeat_interleave(H // K, dim=1)
    with torch.autocast(q.device.type, enabled=False):  # bf16 would round a logit of 20 to the next eighth
        products = q @ k.mT
    logits = cap(products * (scale[..., rows, :] if _by_query(scale, T) else scale), softcap)
    if bias is not None:
        logits = logits + (bias[..., rows, :] if _by_query(bias, T) else bias).float()
    if visible is None:
        visible = rows[:, None] + (S - T) >= torch.arange(S, device=rows.device)
    else:
        visible = visible[..., rows, :] if _by_query(visible, T) else visible
    return logits.masked_fill(~visible, float("-inf"))


def _by_query(x: Any, T: int) -> bool:
    return isinstance(x, Tensor) and x.ndim >= 2 and x.shape[-2] == T
