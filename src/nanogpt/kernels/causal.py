"""Plain causal attention on a CPU, as batched products of blocks.

torch's fused kernel for CPUs works through fp32 products whatever the dtype: in bf16 at (64, 6, 256, 64) it took 155 ms
forward and backward, this 54. In fp32 its backward pass is the slow part: 59 ms at (4, 9, 512, 64), this 40
(docs/LOG.md). B batch, H heads, T tokens, E head_dim, N = B H rows of one head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 64
"""Queries in one product: what lies above the diagonal is then hardly calculated, and a block stays in the cache."""
LONGEST = {torch.bfloat16: 1024, torch.float32: 512}
"""Weights are kept for the backward pass, T^2 / 2 for each head: beyond this the fused kernel, which keeps none."""
NARROWEST = 32
"""Numbers of a head from which on blocks are faster in fp32."""


def suits(q_BHTE: Tensor) -> bool:
    """Whether blocks are faster than torch's fused kernel here."""
    T, E = q_BHTE.shape[2:]
    if q_BHTE.device.type != "cpu" or not 1 < T <= LONGEST.get(q_BHTE.dtype, 0):
        return False
    both_ways = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return q_BHTE.dtype == torch.bfloat16 or (E >= NARROWEST and both_ways)


def attend_causally(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v over earlier tokens and the token itself -> (B, H, T, E). H / K queries share a key."""
    B, H, T, E = q_BHTE.shape
    shared = H // k_BKTE.shape[1]
    k_BHTE, v_BHTE = (x if shared == 1 else x.repeat_interleave(shared, 1) for x in (k_BKTE, v_BKTE))
    out_NTE = Causal.apply(*(x.reshape(B * H, T, E) for x in (q_BHTE, k_BHTE, v_BHTE)), scale)
    return out_NTE.view(B, H, T, E)


class Causal(torch.autograd.Function):
    """Its own backward pass, from the weights p: dv = p^T g, ds = p (g v^T - sum(p g v^T)), dq = ds k, dk = ds^T q.

    The scale goes into the queries, so that nothing of size T^2 is multiplied by it.
    """

    @staticmethod
    def forward(ctx: Any, q_NTE: Tensor, k_NTE: Tensor, v_NTE: Tensor, scale: float) -> Tensor:
        q_NTE = q_NTE * scale
        out_NTE, weights = torch.empty_like(q_NTE), []
        for start, end in _blocks(q_NTE):
            logits = torch.bmm(q_NTE[:, start:end], k_NTE[:, :end].mT)
            later = torch.ones(end - start, end - start, dtype=torch.bool, device=q_NTE.device).triu_(1)
            logits[:, :, start:end].masked_fill_(later, float("-inf"))
            p = logits.softmax(-1)  # in fp32 inside, whatever its ends
            out_NTE[:, start:end] = torch.bmm(p, v_NTE[:, :end])
            weights.append(p)
        ctx.save_for_backward(q_NTE, k_NTE, v_NTE, *weights)
        ctx.scale = scale
        return out_NTE

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_NTE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_NTE, k_NTE, v_NTE, *weights = ctx.saved_tensors  # q times the scale
        dq, dk, dv = torch.empty_like(q_NTE), torch.empty_like(k_NTE), torch.empty_like(v_NTE)
        for (start, end), p in reversed(list(zip(_blocks(q_NTE), weights, strict=True))):
            q, grad = q_NTE[:, start:end], grad_NTE[:, start:end]
            dp = torch.bmm(grad, v_NTE[:, :end].mT)
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            dq[:, start:end] = torch.bmm(ds, k_NTE[:, :end])
            if end == k_NTE.shape[1]:  # the last block, which sees all keys: others add to what it writes
                torch.bmm(ds.mT, q, out=dk)
                torch.bmm(p.mT, grad, out=dv)
            else:
                dk[:, :end] += torch.bmm(ds.mT, q)
                dv[:, :end] += torch.bmm(p.mT, grad)
        return dq.mul_(ctx.scale), dk, dv, None


def _blocks(q_NTE: Tensor) -> list[tuple[int, int]]:
    T = q_NTE.shape[1]
    return [(start, min(T, start + BLOCK)) for start in range(0, T, BLOCK)]
