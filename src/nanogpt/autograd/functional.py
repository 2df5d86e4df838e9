"""What networks are made of, from the operations of ops.py: their gradients follow by themselves.

B batch, T time, D dim, V vocabulary, H heads, E head_dim.
"""

from __future__ import annotations

import math

import numpy as np

from nanogpt.autograd.dispatch import OPS
from nanogpt.autograd.tensor import Tensor, wrap
from nanogpt.errors import UserError


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, (..., n_in) -> (..., n_out), as one product of two matrices."""
    if x.shape[-1] != weight.shape[1]:
        raise UserError(f"linear: {x.shape} into a matrix {weight.shape}: {x.shape[-1]} is not {weight.shape[1]}")
    out = x.reshape(-1, x.shape[-1]) @ weight.mT
    return (out if bias is None else out + bias).view(*x.shape[:-1], weight.shape[0])


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of a table: (...,) -> (..., D)."""
    return weight[ids]


def sigmoid(x: Tensor) -> Tensor:
    return (x * 0.5).tanh() * 0.5 + 0.5  # which overflows nowhere


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """x times the chance that a normal number is below it."""
    return x * ((x * math.sqrt(0.5)).erf() + 1.0) * 0.5


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's approximation of it."""
    return x * (((x + x**3 * 0.044715) * math.sqrt(2 / math.pi)).tanh() + 1.0) * 0.5


def where(mask: Tensor, a: Tensor, b: float) -> Tensor:
    """a where the mask is True, else the number b."""
    return OPS["where"](mask.expand(*a.shape), a, b)


def log_softmax(x: Tensor) -> Tensor:
    shifted = x - x.detach().max(-1, keepdim=True)  # which changes nothing but keeps exp from overflowing
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def softmax(x: Tensor) -> Tensor:
    e = (x - x.detach().max(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log p(target): (N, V), (N,) -> one number, in nats."""
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise UserError(f"cross_entropy: logits {logits.shape} and targets {targets.shape}; they are (N, V) and (N,)")
    N, V = logits.shape
    ids = targets.numpy()
    if ids.size and not (ids.min() >= 0 and ids.max() < V):
        raise UserError(f"targets from {ids.min()} to {ids.max()}, but there are {V} classes, counted from 0")
    return -log_softmax(logits).view(-1)[wrap(np.arange(N) * V + ids)].mean()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * ((centred * centred).mean(-1, keepdim=True) + eps) ** -0.5 * weight + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x * ((x * x).mean(-1, keepdim=True) + eps) ** -0.5 * weight


def attention(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """Causal: softmax(q k^T / sqrt(E)) v over earlier tokens and the token itself."""
    T, E = q_BHTE.shape[-2:]
    earlier = wrap(np.tri(T, dtype=bool))
    return softmax(where(earlier, q_BHTE @ k_BHTE.mT * E**-0.5, -math.inf)) @ v_BHTE
