"""What each operation of a pass does to what is known of its tensors (signals.py)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from nanogpt.observers.signals import Edge, Pass, Rule, Signal


def _linear(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    x, weight, *rest = args
    bias = kwargs.get("bias", rest[0] if rest else None)
    if walk.known(weight) is not None:
        return False
    walk.linear(x, weight, bias, weight.shape[1], weight.shape[0], out)
    return True


def _product(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    """x @ W, and addmm(b, x, W): matrices as they are written by hand."""
    bias, x, weight = args if name == "addmm" else (None, *args)
    if walk.known(weight) is not None or weight.ndim != 2 or not (walk.known(x) or walk.known(bias)):
        return False
    walk.linear(x, weight, bias, weight.shape[0], weight.shape[1], out)
    return True


def _convolution(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    x, weight, *rest = args
    bias = kwargs.get("bias", rest[0] if rest else None)
    places = weight[0][0].numel()
    groups = kwargs.get("groups", 1)
    walk.linear(x, weight, bias, weight.shape[1] * places, weight.shape[0] // groups * places, out)
    return True


def _embedding(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    """Rows of a table. Two tokens have in common what is the same token twice."""
    ids, table = args[0], args[1]
    power, mean = walk.power_of(table), float(table.detach().double().mean())
    rows = ids.flatten(1) if ids.ndim > 1 else ids.reshape(1, -1)
    T = rows.shape[1]
    same = [float(row.unique(return_counts=True)[1].double().square().sum() - T) for row in rows]
    alike = sum(same) / len(same) / (T * (T - 1)) if T > 1 else 1.0
    walk.put(out, power, mean, alike * power + (1 - alike) * mean**2, [])
    return True


def _sum(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    if len(args) < 2 or not (walk.known(args[0]) or walk.known(args[1])):
        return False
    x, y = (walk.moments(a, out) for a in args[:2])
    if y.power == 0 and walk.known(args[0]) is x:  # a branch that is not there
        walk.carry(x, out)
        return True
    sign = -1.0 if "sub" in name else 1.0
    both = 2 * sign * x.mean * y.mean
    signals = [s for a, s in zip(args, (x, y), strict=False) if walk.known(a) is not None]
    edges = [Edge(s, out.numel() / s.numel, out.numel() / s.numel) for s in signals]
    walk.put(out, x.power + y.power + both, x.mean + sign * y.mean, x.shared + y.shared + both, edges)
    return True


def _times(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    if not (walk.known(args[0]) or walk.known(args[1])):
        return False
    x, y = (walk.moments(a, out) for a in args[:2])
    if "div" in name:
        if walk.known(args[1]) is not None or (isinstance(args[1], Tensor) and args[1].numel() > 1):
            return False
        y = Signal(1 / y.power, 1 / y.mean, 1 / y.power, 1)
    sides = [(s, other, out.numel() / s.numel) for a, s, other in ((args[0], x, y), (args[1], y, x)) if walk.known(a)]
    edges = [Edge(s, other.power * share, other.shared * share) for s, other, share in sides]
    walk.put(out, x.power * y.power, x.mean * y.mean, x.shared * y.shared, edges)
    return True


def _fused(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    """addcmul(a, b, c) = a + v b c."""
    if not any(walk.known(a) for a in args[:3]):
        return False
    x, y, z = (walk.moments(a, out) for a in args[:3])
    v = float(kwargs.get("value", 1))
    cross = 2 * v * x.mean * y.mean * z.mean
    ways = [(args[0], x, 1.0, 1.0), (args[1], y, v * v * z.power, v * v * z.shared),
            (args[2], z, v * v * y.power, v * v * y.shared)]  # fmt: skip
    edges = [
        Edge(s, own * out.numel() / s.numel, common * out.numel() / s.numel)
        for a, s, own, common in ways
        if walk.known(a) is not None
    ]
    walk.put(
        out,
        x.power + v * v * y.power * z.power + cross,
        x.mean + v * y.mean * z.mean,
        x.shared + v * v * y.shared * z.shared + cross,
        edges,
    )
    return True


def _mixed(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    """lerp(a, b, t) = (1 - t) a + t b, and where(t, b, a)."""
    a, b, t = (args[2], args[1], args[0]) if name == "where" else args
    x, y = walk.moments(a, out), walk.moments(b, out)
    if name == "where":
        share = float(t.double().mean())
        t2, stay, both = share, 1 - share, 0.0
    else:
        z = walk.moments(t, out)
        t2, stay, both = z.power, 1 - 2 * z.mean + z.power, z.mean - z.power
    cross = 2 * both * x.mean * y.mean
    mean = x.mean + (share if name == "where" else z.mean) * (y.mean - x.mean)
    ways = [(s, part * out.numel() / s.numel) for c, s, part in ((a, x, stay), (b, y, t2)) if walk.known(c)]
    walk.put(out, stay * x.power + t2 * y.power + cross, mean, stay * x.shared + t2 * y.shared + cross,
             [Edge(s, part, part) for s, part in ways])  # fmt: skip
    return True


def _norm(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    """The second moment becomes that of the weight; layer and batch norm take the mean away, batch norm that of each
    unit over all tokens, which is what they have in common."""
    x = walk.known(args[0])
    if x is None:
        return False
    given = dict(zip(WHERE[name], args[1:], strict=False)) | kwargs
    weight, bias = given.get("weight"), given.get("bias")
    w = 1.0 if weight is None else walk.power_of(weight)
    b = walk.moments(0.0 if bias is None else bias, out)
    gone = {"rms_norm": 0.0, "batch_norm": x.shared}.get(name, x.mean**2)
    left = x.power - gone + float(given.get("eps") or 0.0)
    scale = w / left if left > 0 else math.nan
    mean = x.mean * math.sqrt(scale) if name == "rms_norm" else 0.0
    walk.put(out, (x.power - gone) * scale + b.power, mean + b.mean, max(0.0, x.shared - gone) * scale + b.shared,
              [Edge(x, scale, 0.0 if name == "batch_norm" else scale)])  # fmt: skip
    return True


WHERE = {
    "rms_norm": ("shape", "weight", "eps"),
    "layer_norm": ("shape", "weight", "bias", "eps"),
    "batch_norm": ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "group_norm": ("groups", "weight", "bias", "eps"),
}
"""Arguments after the first, by place."""


def _joined(walk: Pass, name: str, args: Any, kwargs: Any, out: Tensor) -> bool:
    """cat and stack: each tensor counts by its size."""
    if not any(walk.known(t) for t in args[0]):
        return False
    tensors = [t for t in args[0] if t.numel()]
    parts = [walk.moments(t, out) for t in tensors]
    share = [t.numel() / out.numel() for t in tensors]
    power, mean, shared = (
        sum(getattr(p, key) * s for p, s in zip(parts, share, strict=True)) for key in ("power", "mean", "shared")
    )
    edges = [Edge(p, 1.0, 1.0) for t, p in zip(tensors, parts, strict=True) if walk.known(t)]
    walk.put(out, power, mean, shared, edges)
    return True


RULES: dict[str, Rule] = {
    "linear": _linear, "matmul": _product, "__matmul__": _product, "addmm": _product, "conv1d": _convolution,
    "conv2d": _convolution, "embedding": _embedding, "cat": _joined, "stack": _joined,
    **dict.fromkeys(("add", "__add__", "__radd__", "add_", "__iadd__", "sub", "__sub__"), _sum),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "div", "__truediv__", "true_divide"), _times),
    "addcmul": _fused,
    **dict.fromkeys(("lerp", "where"), _mixed),
    **dict.fromkeys(WHERE, _norm),
}  # fmt: skip
