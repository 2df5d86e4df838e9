"""Backprop ninja: the gradient of a dozen parts, derived by hand, beside that of autograd.

After Karpathy 2022 ("Becoming a backprop ninja"). Each part has its forward pass written out, and a backward pass that
uses nothing but what the forward one kept. g is the gradient of the loss with respect to the result y, so that
dx = d(loss)/dx. Three rules carry all of it:

    what was copied (broadcast, read twice) gets the SUM of the gradients of its copies
    what was summed hands its gradient to EACH of what went into it
    a product hands each factor the gradient times the OTHER factor

N rows, D numbers in each, V vocabulary, H heads, T tokens, E numbers in a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
Shapes = dict[str, tuple[int, ...]]
Forward = tuple[Tensor, tuple[Any, ...]]
"""The result, and what backward needs."""
Gradients = tuple[Tensor, ...]
"""Of each input that has one."""


class Part:
    """inputs: name -> shape of an example; the last number of a shape of `ids` is how many there are to choose from."""

    inputs: ClassVar[Shapes]
    formula: str
    forward: Callable[..., Forward]
    backward: Callable[..., Gradients]
    """g, and what was kept -> gradients."""
    reference: Callable[..., Tensor]
    """The same part by PyTorch, for autograd to go through."""


class Embedding(Part):
    """y_n = W[ids_n].

    Row v of W is copied to every place n where ids_n = v: it gets the sum of the gradients there. Rows that nobody
    asked for get 0.
    """

    inputs: ClassVar[Shapes] = {"ids": (4, 6, 9), "W": (9, 5)}
    formula = "dW[ids_n] += g_n"

    @staticmethod
    def forward(ids: Tensor, W: Tensor) -> Forward:
        return W[ids], (ids, W.shape)

    @staticmethod
    def backward(g: Tensor, ids: Tensor, shape: torch.Size) -> Gradients:
        return (g.new_zeros(shape).index_add_(0, ids.flatten(), g.flatten(0, -2)),)

    reference = staticmethod(F.embedding)


class Linear(Part):
    """y_no = sum_i x_ni W_oi + b_o.

    x_ni goes into y_no for every o, with the factor W_oi: dx_ni = sum_o g_no W_oi. W_oi goes into y_no for every n,
    with the factor x_ni: dW_oi = sum_n g_no x_ni. b_o is copied to every n. The shapes alone leave no other choice.
    """

    inputs: ClassVar[Shapes] = {"x": (7, 5), "W": (6, 5), "b": (6,)}
    formula = "dx = g W,  dW = gᵀ x,  db = Σₙ g"

    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor) -> Forward:
        return x @ W.T + b, (x, W)

    @staticmethod
    def backward(g: Tensor, x: Tensor, W: Tensor) -> Gradients:
        return g @ W, g.T @ x, g.sum(0)

    reference = staticmethod(F.linear)


class Tanh(Part):
    """y = tanh(x) = (e^x - e^-x) / (e^x + e^-x).

    With s = e^x - e^-x and c = e^x + e^-x, ds/dx = c and dc/dx = s: dy/dx = (c c - s s) / c^2 = 1 - y^2.
    """

    inputs: ClassVar[Shapes] = {"x": (7, 5)}
    formula = "dx = g (1 - y²)"

    @staticmethod
    def forward(x: Tensor) -> Forward:
        y = x.tanh()
        return y, (y,)

    @staticmethod
    def backward(g: Tensor, y: Tensor) -> Gradients:
        return (g * (1 - y * y),)

    reference = staticmethod(torch.tanh)


class BatchNorm(Part):
    """y = w z + b, z = (x - m) r, r = (v + eps)^-1/2; m and v: mean and variance of each column over the N rows.

    dw = sum_n g z, db = sum_n g, and dz = g w. x reaches z in three ways: by itself, dz r; through r, where
    dr = sum_n dz (x - m), dv = -1/2 r^3 dr, and v is the mean of (x - m)^2: dv 2 (x - m) / N = -r z mean(dz z);
    and through m, which is a mean that everyone is subtracted from: -r mean(dz). (Through v, m gets nothing: the sum of
    (x - m) is 0.) Together dx = r (dz - mean(dz) - z mean(dz z)): what moves all rows alike, or stretches them, is
    taken out of the gradient, since the norm takes it out of x.
    """

    inputs: ClassVar[Shapes] = {"x": (7, 5), "w": (5,), "b": (5,)}
    formula = "dx = r (dz - mean dz - z mean(dz z)),  dz = g w"

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor) -> Forward:
        centred = x - x.mean(0)
        r = (centred.square().mean(0) + EPS).rsqrt()
        z = centred * r
        return w * z + b, (z, r, w)

    @staticmethod
    def backward(g: Tensor, z: Tensor, r: Tensor, w: Tensor) -> Gradients:
        dz = g * w
        return r * (dz - dz.mean(0) - z * (dz * z).mean(0)), (g * z).sum(0), g.sum(0)

    @staticmethod
    def reference(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, w, b, training=True, eps=EPS)


class LayerNorm(Part):
    """Batch norm turned by 90 degrees: m and v of each row over its D numbers.

    The derivation of batch norm holds with the mean taken along the row. w and b are still one number for each column,
    copied to all rows: their gradients are sums over rows.
    """

    inputs: ClassVar[Shapes] = {"x": (4, 3, 5), "w": (5,), "b": (5,)}
    formula = "dx = r (dz - mean dz - z mean(dz z)),  dz = g w"

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor) -> Forward:
        centred = x - x.mean(-1, keepdim=True)
        r = (centred.square().mean(-1, keepdim=True) + EPS).rsqrt()
        z = centred * r
        return w * z + b, (z, r, w)

    @staticmethod
    def backward(g: Tensor, z: Tensor, r: Tensor, w: Tensor) -> Gradients:
        dz = g * w
        dx = r * (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True))
        return dx, (g * z).flatten(0, -2).sum(0), g.flatten(0, -2).sum(0)

    @staticmethod
    def reference(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.layer_norm(x, w.shape, w, b, EPS)


class RMSNorm(Part):
    """y = w z, z = x r, r = (mean(x^2) + eps)^-1/2.

    Layer norm without its mean, so without the way through m: dx = r (dz - z mean(dz z)). Up to eps, dx is
    perpendicular to x: making x longer does not change y.
    """

    inputs: ClassVar[Shapes] = {"x": (4, 3, 5), "w": (5,)}
    formula = "dx = r (dz - z mean(dz z)),  dz = g w"

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Forward:
        r = (x.square().mean(-1, keepdim=True) + EPS).rsqrt()
        return w * x * r, (x * r, r, w)

    @staticmethod
    def backward(g: Tensor, z: Tensor, r: Tensor, w: Tensor) -> Gradients:
        dz = g * w
        return r * (dz - z * (dz * z).mean(-1, keepdim=True)), (g * z).flatten(0, -2).sum(0)

    @staticmethod
    def reference(x: Tensor, w: Tensor) -> Tensor:
        return F.rms_norm(x, w.shape, w, EPS)


class GELU(Part):
    """y = x P(x), P(x) = (1 + erf(x / sqrt 2)) / 2, the chance that a normal number is below x.

    The product rule: P(x) + x P'(x), and P' is the normal density p(x) = exp(-x^2 / 2) / sqrt(2 pi).
    """

    inputs: ClassVar[Shapes] = {"x": (7, 5)}
    formula = "dx = g (Φ(x) + x φ(x))"

    @staticmethod
    def forward(x: Tensor) -> Forward:
        below = (1 + torch.erf(x * math.sqrt(0.5))) / 2
        return x * below, (x, below)

    @staticmethod
    def backward(g: Tensor, x: Tensor, below: Tensor) -> Gradients:
        return (g * (below + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)),)

    reference = staticmethod(F.gelu)


class SwiGLU(Part):
    """y = a s(a) b, s the sigmoid: a gate and what passes through it (Shazeer 2020); both come from matrices before.

    A product: db = g a s. And s' = s (1 - s), so d(a s)/da = s + a s (1 - s): da = g b s (1 + a (1 - s)).
    """

    inputs: ClassVar[Shapes] = {"a": (7, 5), "b": (7, 5)}
    formula = "da = g b s (1 + a (1 - s)),  db = g a s,  s = sigmoid(a)"

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Forward:
        s = a.sigmoid()
        return a * s * b, (a, b, s)

    @staticmethod
    def backward(g: Tensor, a: Tensor, b: Tensor, s: Tensor) -> Gradients:
        return g * b * s * (1 + a * (1 - s)), g * a * s

    @staticmethod
    def reference(a: Tensor, b: Tensor) -> Tensor:
        return F.silu(a) * b


class Softmax(Part):
    """p_i = e^x_i / sum_j e^x_j.

    dp_i/dx_j = p_i ([i = j] - p_j), so dx_j = sum_i g_i p_i ([i = j] - p_j) = p_j (g_j - sum_i g_i p_i): each
    gradient less their mean under p. The sum of dx is 0, for adding a constant to all x changes nothing.
    """

    inputs: ClassVar[Shapes] = {"x": (7, 5)}
    formula = "dx = p (g - Σ g p)"

    @staticmethod
    def forward(x: Tensor) -> Forward:
        e = (x - x.amax(-1, keepdim=True)).exp()
        p = e / e.sum(-1, keepdim=True)
        return p, (p,)

    @staticmethod
    def backward(g: Tensor, p: Tensor) -> Gradients:
        return (p * (g - (g * p).sum(-1, keepdim=True)),)

    @staticmethod
    def reference(x: Tensor) -> Tensor:
        return x.softmax(-1)


class CrossEntropy(Part):
    """y = mean_n of -log p_n[target_n], p = softmax(x), in one piece.

    -log p_t = log sum_j e^x_j - x_t, whose derivative with respect to x_j is p_j - [j = t]. Neither a log nor a
    quotient of small numbers is left: fused is simpler and safer than log after softmax.
    """

    inputs: ClassVar[Shapes] = {"x": (7, 5), "ids": (7, 5)}
    formula = "dx = g (p - onehot) / N"

    @staticmethod
    def forward(x: Tensor, ids: Tensor) -> Forward:
        log_p = x - x.logsumexp(-1, keepdim=True)
        return -log_p.gather(1, ids[:, None]).mean(), (log_p.exp(), ids)

    @staticmethod
    def backward(g: Tensor, p: Tensor, ids: Tensor) -> Gradients:
        dx = p.clone()
        dx[torch.arange(len(ids)), ids] -= 1
        return (g * dx / len(ids),)

    reference = staticmethod(F.cross_entropy)


class Attention(Part):
    """y = p v, p = softmax(s), s = q k^T / sqrt(E) for keys that are not later, else -inf.

    Two products and a softmax. From y = p v: dv = p^T g and dp = g v^T. The softmax's: ds = p (dp - sum(dp p)); where p
    is 0, above the diagonal, so is ds. From s: dq = ds k / sqrt(E), dk = ds^T q / sqrt(E). As sum(dp p) = sum(g y) in
    each row, p need not be kept but can be made again, block by block (Dao et al. 2022, FlashAttention).
    """

    inputs: ClassVar[Shapes] = {"q": (2, 3, 6, 4), "k": (2, 3, 6, 4), "v": (2, 3, 6, 4)}
    formula = "dv = pᵀ g,  ds = p (g vᵀ - Σ g y),  dq = ds k / √E,  dk = dsᵀ q / √E"

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> Forward:
        scale = q.shape[-1] ** -0.5
        later = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
        p = (q @ k.mT * scale).masked_fill(later, -math.inf).softmax(-1)
        y = p @ v
        return y, (q, k, v, p, y, scale)

    @staticmethod
    def backward(g: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor, y: Tensor, scale: float) -> Gradients:
        ds = p * (g @ v.mT - (g * y).sum(-1, keepdim=True))
        return ds @ k * scale, ds.mT @ q * scale, p.mT @ g

    @staticmethod
    def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Rotary(Part):
    """(a, b) -> (a cos - b sin, a sin + b cos), by an angle that grows with the token's place (Su et al. 2021).

    A linear map: its gradient is the transposed matrix, and that of a rotation is the rotation back. So backward is
    forward with the sign of the sine turned, and lengths are kept both ways.
    """

    inputs: ClassVar[Shapes] = {"x": (2, 3, 6, 4)}
    formula = "dx = g turned back"

    @staticmethod
    def forward(x: Tensor) -> Forward:
        T, E = x.shape[-2:]
        speeds = 10000.0 ** (-2 * torch.arange(E // 2, dtype=x.dtype) / E)
        angle = torch.arange(T, dtype=x.dtype)[:, None] * speeds
        return _turned(x, angle.cos(), angle.sin()), (angle.cos(), angle.sin())

    @staticmethod
    def backward(g: Tensor, cos: Tensor, sin: Tensor) -> Gradients:
        return (_turned(g, cos, -sin),)

    @staticmethod
    def reference(x: Tensor) -> Tensor:
        from nanogpt.model.part import Flow
        from nanogpt.model.positions import Rotary as Ours

        tokens = torch.arange(x.shape[-2])[None]
        return Ours(head_dim=x.shape[-1], context=x.shape[-2]).rotate(x, x, Flow(tokens, tokens))[0]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


PARTS: dict[str, type[Part]] = {
    "embedding": Embedding,
    "linear": Linear,
    "tanh": Tanh,
    "batch norm": BatchNorm,
    "layer norm": LayerNorm,
    "RMS norm": RMSNorm,
    "GELU": GELU,
    "SwiGLU": SwiGLU,
    "softmax": Softmax,
    "cross-entropy": CrossEntropy,
    "attention": Attention,
    "rotary": Rotary,
}


def compare(name: str, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """One part on fresh inputs: the largest difference of its result and of each gradient, by hand and by autograd."""
    part, random = PARTS[name], torch.Generator().manual_seed(seed)
    inputs = {
        key: torch.randint(shape[-1], shape[:-1], generator=random)
        if key == "ids"
        else torch.randn(shape, generator=random, dtype=dtype).requires_grad_()
        for key, shape in part.inputs.items()
    }
    theirs = part.reference(*inputs.values())
    g = torch.randn(theirs.shape, generator=random, dtype=dtype)
    wanted = {key: x for key, x in inputs.items() if x.requires_grad}
    by_autograd = torch.autograd.grad(theirs, list(wanted.values()), g)
    with torch.no_grad():
        ours, kept = part.forward(*inputs.values())
        by_hand = part.backward(g, *kept)
    return {
        "part": name,
        "formula": part.formula,
        "result": _apart(ours, theirs),
        "gradients": {key: _apart(a, b) for key, a, b in zip(wanted, by_hand, by_autograd, strict=True)},
        "largest": max(float(b.abs().max()) for b in by_autograd),
    }


def table(seed: int = 0) -> list[dict[str, Any]]:
    """Every part in double, with the largest difference of a gradient in single beside it."""
    rows = [compare(name, seed) for name in PARTS]
    for row in rows:
        row["difference"] = max(row["gradients"].values())
        row["difference_fp32"] = max(compare(row["part"], seed, torch.float32)["gradients"].values())
    return rows


def _apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a.detach() - b.detach()).abs().max())
