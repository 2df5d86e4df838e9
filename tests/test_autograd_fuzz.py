"""Random programs on both engines beside torch in double: values, gradients, gradients of gradients.

A program goes over a pool of tensors, each a pair (ours, torch's), step by step: arithmetic with broadcasting, views,
reductions, rows taken twice, changes in place, hooks. A step that either side refuses is left out, and what the pool
then holds must still be equal.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt.autograd import Value, grad, tensor
from nanogpt.autograd.dispatch import OPS
from nanogpt.errors import UserError

Pair = tuple[Any, Any]
UNARY: list[Callable[[Any], Any]] = [
    lambda x: x.tanh(), lambda x: x.sin(), lambda x: x.cos(), lambda x: x.relu(), lambda x: x.erf(),
    lambda x: (x * 0.3).tanh().exp(), lambda x: (x * x + 1.0).log(), lambda x: (x * x + 0.5).sqrt(), lambda x: -x,
    lambda x: (x * x + 1.0) ** -1.5, lambda x: x**3, lambda x: x**0, lambda x: 1.5 - x, lambda x: 2.0 / (x * x + 1.0),
    lambda x: x * 0.5 + 1, lambda x: x / 3.0,
]  # fmt: skip
BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / (b * b + 1.0),
]  # fmt: skip


class Refused(Exception):
    """Which side said no: "ours" or "torch"."""


def on_both(work: Callable[..., Any], *pairs: Pair, theirs: Callable[..., Any] | None = None) -> Pair:
    """The step on both sides. Where ours refuses torch is not asked to change anything."""
    try:
        ours = work(*(a for a, _ in pairs))
    except (UserError, RuntimeError) as error:  # of ours, or of torch.broadcast_shapes
        raise Refused("ours") from error
    try:
        return ours, (theirs or work)(*(b for _, b in pairs))
    except (RuntimeError, IndexError) as error:
        raise Refused("torch") from error


def view(rng: np.random.Generator, pair: Pair) -> Pair:
    x = pair[1]
    kind = rng.choice(["permute", "transpose", "expand", "slice", "select", "reshape", "view", "dots"])
    if kind == "permute" and x.ndim:
        dims = [int(d) for d in rng.permutation(x.ndim)]
        return on_both(lambda t: t.permute(*dims), pair)
    if kind == "expand":
        sizes = [*([2] * int(rng.integers(2))), *(3 if n == 1 else -1 for n in x.shape)]
        return on_both(lambda t: t.expand(*sizes), pair) if sizes else pair
    if kind in ("reshape", "view"):
        sizes = [[-1], [1, -1], [x.shape[0], -1] if x.ndim else [1, 1], [-1, 2]][rng.integers(4)]
        return on_both(lambda t: getattr(t, kind)(*sizes), pair)
    if not x.ndim:
        return pair
    dim = int(rng.integers(x.ndim))
    if kind == "transpose":
        return on_both(lambda t: t.transpose(dim, -1), pair)
    size = x.shape[dim]
    if kind == "slice":
        start, step = int(rng.integers(-1, size + 1)), int(rng.integers(1, 3))
        return on_both(lambda t: t[(slice(None),) * dim + (slice(start, None, step),)], pair)
    index = int(rng.integers(-size, size)) if size else 0
    items = (..., index) if kind == "dots" else (slice(None),) * dim + (index,)
    return on_both(lambda t: t[items], pair)


def reduced(rng: np.random.Generator, pair: Pair) -> Pair:
    x, keep = pair[1], bool(rng.integers(2))
    dims = tuple(int(d) for d in rng.permutation(x.ndim)[: rng.integers(1, x.ndim + 1)]) if x.ndim else ()
    kind = rng.choice(["sum", "mean", "max"]) if dims else "sum"
    name = "amax" if kind == "max" else kind
    if not dims:
        return on_both(lambda t: t.sum(), pair)
    return on_both(lambda t: getattr(t, kind)(dims, keep), pair, theirs=lambda t: getattr(t, name)(dims, keepdim=keep))


def in_place(rng: np.random.Generator, pair: Pair, other: Pair) -> Pair:
    kind = rng.choice(["add_", "mul_", "sub_", "copy_", "zero_"])
    if kind == "zero_":
        return on_both(lambda t: t.zero_(), pair)
    return on_both(lambda t, o: getattr(t, kind)(o), pair, other)


def step(rng: np.random.Generator, pool: list[Pair]) -> Pair:
    pair, other = (pool[int(n)] for n in rng.integers(len(pool), size=2))
    kind = rng.choice(["unary", "binary", "view", "reduce", "matmul", "take", "where", "in place", "hook", "detach"],
                      p=[0.2, 0.2, 0.2, 0.1, 0.06, 0.04, 0.04, 0.1, 0.04, 0.02])  # fmt: skip
    if kind == "unary":
        return on_both(UNARY[rng.integers(len(UNARY))], pair)
    if kind == "binary":
        return on_both(BINARY[rng.integers(len(BINARY))], pair, other)
    if kind == "view":
        return view(rng, pair)
    if kind == "reduce":
        return reduced(rng, pair)
    if kind == "matmul":
        if min(pair[1].ndim, other[1].ndim) < 2:  # torch takes vectors too
            return pair
        return on_both(lambda a, b: a @ b.mT, pair, other)
    if kind == "take":
        if not pair[1].ndim or not pair[1].shape[0]:
            return pair
        ids = rng.integers(pair[1].shape[0], size=(2, 3))
        return on_both(lambda t: t[tensor(ids)], pair, theirs=lambda t: t[torch.tensor(ids)])
    if kind == "where":
        return on_both(
            lambda a, b: OPS["where"](*(t.expand(*torch.broadcast_shapes(a.shape, b.shape)) for t in (a > 0.1, a, b))),
            pair, other, theirs=lambda a, b: torch.where(a > 0.1, a, b),
        )  # fmt: skip
    if kind == "in place":
        return in_place(rng, pair, other)
    if kind == "hook" and pair[1].requires_grad and not pair[1].is_leaf:
        on_both(lambda t: t.register_hook(lambda g: g * 0.5), pair)
    return on_both(lambda t: t.detach(), pair) if kind == "detach" else pair


def agree(ours: Any, theirs: Any) -> None:
    a, b = ours.numpy(), theirs.detach().numpy()
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9 * max(1.0, float(np.abs(b).max(initial=0.0))))


def program(seed: int) -> Counter[str]:
    """One program; what was left out, and how far the gradients could be compared."""
    rng = np.random.default_rng(seed)
    seen: Counter[str] = Counter()
    leaves: list[Pair] = []
    for _ in range(rng.integers(2, 5)):
        numbers = rng.standard_normal(tuple(rng.choice([1, 2, 3, 4], size=rng.integers(4))))
        on = bool(rng.random() < 0.8)
        leaves.append((tensor(numbers, requires_grad=on), torch.tensor(numbers, requires_grad=on)))
    pool = list(leaves)
    for _ in range(rng.integers(4, 25)):
        try:
            made = step(rng, pool)
        except Refused as error:
            seen[f"step refused: {error}"] += 1
            if str(error) == "torch":  # ours may have changed something in place that torch did not
                return seen
            continue
        if made[1].numel() < 500 and (not made[1].numel() or float(made[1].detach().abs().max()) < 50):
            pool.append(made)
            agree(*made)
    # Of leaves alone: a hooked tensor's own gradient is the hook's in torch, or not, by what else is asked for.
    return compared(rng, pool, [pair for pair in leaves if pair[1].requires_grad and pair[1].is_leaf], seen)


def compared(rng: np.random.Generator, pool: list[Pair], leaves: list[Pair], seen: Counter[str]) -> Counter[str]:
    total: Pair = (tensor(0.0), torch.tensor(0.0, dtype=torch.double))
    for pair in pool:
        v = rng.standard_normal(tuple(pair[1].shape))
        try:
            part = on_both(
                lambda t, v=v: (t * tensor(v)).sum(), pair, theirs=lambda t, v=v: (t * torch.tensor(v)).sum()
            )
        except Refused as error:
            seen[f"stale view: {error}"] += 1
            continue
        total = (total[0] + part[0], total[1] + part[1])
    assert total[0].requires_grad == total[1].requires_grad
    if not leaves or not total[1].requires_grad:
        return seen
    inputs, twins = [a for a, _ in leaves], [b for _, b in leaves]
    # A second pass goes through a hook as often as formulas name its tensor: torch's sqrt names its result, ours not.
    hooked = any(b._backward_hooks for _, b in pool)
    for order in ("first",) if hooked else ("first", "second", "third"):
        ours = refusing(lambda: grad(total[0], inputs, create_graph=True, allow_unused=True))  # noqa: B023
        theirs = refusing(lambda: torch.autograd.grad(total[1], twins, create_graph=True, materialize_grads=True))  # noqa: B023
        if ours is None or theirs is None:
            seen[f"{order}: refused by {'both' if ours is theirs else 'ours' if ours is None else 'torch'}"] += 1
            return seen
        for a, b in zip(ours, theirs, strict=True):
            agree(a, b)
        seen[order] += 1
        factors = [rng.standard_normal(tuple(b.shape)) for b in twins]
        total = (
            sum(((a * tensor(f)).sum() for a, f in zip(ours, factors, strict=True)), tensor(0.0)),
            sum((b * torch.tensor(f)).sum() for b, f in zip(theirs, factors, strict=True)),
        )
        if not total[1].requires_grad:
            return seen
        if not total[0].requires_grad:  # torch calls a zero that is made of its inputs dependent on them
            assert all(not g.any() for g in torch.autograd.grad(total[1], twins, materialize_grads=True))
            return seen
    return seen


def refusing(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (UserError, RuntimeError):
        return None


def test_random_programs_of_tensors_are_torch_s() -> None:
    seen: Counter[str] = Counter()
    for seed in np.random.default_rng().integers(2**32, size=100):
        try:
            seen += program(int(seed))
        except AssertionError as error:
            pytest.fail(f"program {seed}: {error}")
    assert seen["first"] > 50 and seen["second"] > 25


def expression(seed: int) -> tuple[int, float]:
    """One expression of single numbers; how many steps it has, and its value."""
    rng = np.random.default_rng(seed)
    starts = rng.uniform(-2, 2, size=4)
    pool: list[Pair] = [(Value(float(x)), torch.tensor(x, dtype=torch.double, requires_grad=True)) for x in starts]
    steps = [
        lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / (b * b + 1), lambda a, b: -a,
        lambda a, b: a**2, lambda a, b: a**3, lambda a, b: (a * a + 1) ** -0.5, lambda a, b: a.tanh(),
        lambda a, b: (a * 0.1).exp(), lambda a, b: a.relu() + b, lambda a, b: (a * a + 1).log(), lambda a, b: 2 * a - 1,
        lambda a, b: 1 / (b * b + 2), lambda a, b: 3 - a, lambda a, b: a**0 + b**1,
    ]  # fmt: skip
    for _ in range(rng.integers(3, 40)):
        work = steps[rng.integers(len(steps))]
        (a, s), (b, t) = (pool[int(n)] for n in rng.integers(len(pool), size=2))
        made = work(a, b), work(s, t)
        if abs(made[1].item()) < 1e3:
            pool.append(made)
    y, u = pool[-1][0] + pool[-2][0] * pool[-3][0], pool[-1][1] + pool[-2][1] * pool[-3][1]
    y.backward()
    gradients = torch.autograd.grad(u, [t for _, t in pool[:4]], materialize_grads=True)
    assert math.isclose(y.data, u.item(), rel_tol=1e-9, abs_tol=1e-12)
    for (x, _), g in zip(pool[:4], gradients, strict=True):
        assert math.isclose(x.grad, g.item(), rel_tol=1e-8, abs_tol=1e-9 * max(1.0, abs(u.item())))
    return len(pool) - 4, y.data


def test_random_expressions_of_numbers_are_torch_s() -> None:
    for seed in np.random.default_rng().integers(2**32, size=100):
        try:
            expression(int(seed))
        except AssertionError as error:
            pytest.fail(f"expression {seed}: {error}")
