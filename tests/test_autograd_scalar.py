"""The scalar engine beside micrograd's published numbers and beside torch in double."""

from __future__ import annotations

import gc
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.autograd import MLP, Layer, Neuron, Value, draw_dot, draw_svg
from nanogpt.autograd.layout import layered
from nanogpt.errors import UserError


def test_the_readme_example_of_micrograd() -> None:
    a, b = Value(-4.0), Value(2.0)
    c = a + b
    d = a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + (b + a).relu()
    d += 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    g += 10.0 / f
    g.backward()
    assert [f"{x:.4f}" for x in (g.data, a.grad, b.grad)] == ["24.7041", "138.8338", "645.5773"]


@pytest.mark.parametrize("start", [-4.0, 0.3, 2.5])
def test_its_first_engine_test_beside_torch_exactly(start: float) -> None:
    def run(x):  # type: ignore[no-untyped-def]
        z = 2 * x + 2 + x
        q = z.relu() + z * x
        h = (z * z).relu()
        return h + q + q * x

    x = Value(start)
    y = run(x)
    y.backward()
    t = torch.tensor(start, dtype=torch.double, requires_grad=True)
    u = run(t)
    u.backward()
    assert y.data == u.item() and x.grad == t.grad.item()


@pytest.mark.parametrize(("first", "second"), [(-4.0, 2.0), (1.7, -0.4)])
def test_its_second_engine_test_beside_torch(first: float, second: float) -> None:
    def run(a, b):  # type: ignore[no-untyped-def]
        c = a + b
        d = a * b + b**3
        c = c + c + 1
        c = c + 1 + c + (-a)
        d = d + d * 2 + (b + a).relu()
        d = d + 3 * d + (b - a).relu()
        e = c - d
        f = e**2
        g = f / 2.0
        return g + 10.0 / f

    a, b = Value(first), Value(second)
    g = run(a, b)
    g.backward()
    s, t = (torch.tensor(x, dtype=torch.double, requires_grad=True) for x in (first, second))
    u = run(s, t)
    u.backward()
    assert (g.data, a.grad, b.grad) == pytest.approx((u.item(), s.grad.item(), t.grad.item()), rel=1e-12)


def test_the_lecture_s_neuron_and_the_same_from_exp() -> None:
    def gradients(rebuilt: bool) -> list[float]:
        x1, x2, w1, w2 = Value(2.0), Value(0.0), Value(-3.0), Value(1.0)
        n = x1 * w1 + x2 * w2 + 6.8813735870195432
        e = (2 * n).exp()
        o = (e - 1) / (e + 1) if rebuilt else n.tanh()
        o.backward()
        return [o.data, x1.grad, w1.grad, x2.grad, w2.grad]

    assert gradients(False) == pytest.approx([0.5**0.5, -1.5, 1.0, 0.5, 0.0])
    assert gradients(True) == pytest.approx(gradients(False))


def test_a_step_along_the_gradient_and_a_value_used_twice() -> None:
    a, b, c, f = Value(2.0), Value(-3.0), Value(10.0), Value(-2.0)
    loss = (a * b + c) * f
    loss.backward()
    assert loss.data == -8.0
    for v in (a, b, c, f):
        v.data += 0.01 * v.grad
    assert ((a * b + c) * f).data == pytest.approx(-7.286496)
    twice = Value(3.0)
    (twice + twice).backward()
    assert twice.grad == 2.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.2, 2.0), min_size=3, max_size=3), st.lists(st.integers(0, 7), min_size=1, max_size=12))
def test_any_expression_has_torch_s_gradient(starts: list[float], steps: list[int]) -> None:
    def run(xs):  # type: ignore[no-untyped-def]
        xs = list(xs)
        for n, step in enumerate(steps):
            a, b = xs[n % 3], xs[(n + 1) % 3]
            xs[n % 3] = [
                a + b,
                a * b,
                a - b,
                a / (b * b + 1),
                a.tanh(),
                (a * 0.1).exp(),
                a.relu() + b,
                (a * a + 1).log(),
            ][step]
        return xs[0] * xs[1] + xs[2]

    ours = [Value(x) for x in starts]
    y = run(ours)
    y.backward()
    theirs = [torch.tensor(x, dtype=torch.double, requires_grad=True) for x in starts]
    u = run(theirs)
    u.backward()
    assert y.data == pytest.approx(u.item(), rel=1e-9)
    for a, t in zip(ours, theirs, strict=True):
        assert a.grad == pytest.approx(0.0 if t.grad is None else t.grad.item(), rel=1e-9, abs=1e-12)


def moons() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's make_moons(100, noise=0.1), number by number from numpy's global state."""
    angles = np.linspace(0, np.pi, 50)
    outer, inner = (np.cos(angles), np.sin(angles)), (1 - np.cos(angles), 1 - np.sin(angles) - 0.5)
    points, kind = np.hstack([outer, inner]).T, np.repeat([0, 1], 50)
    order = np.arange(100)
    np.random.shuffle(order)
    return points[order] + np.random.normal(scale=0.1, size=(100, 2)), kind[order] * 2 - 1


def train_on_moons(steps: int) -> list[tuple[float, float]]:
    """(loss, accuracy) at each step of micrograd's demo."""
    np.random.seed(1337)
    random.seed(1337)
    points, kinds = moons()
    model = MLP(2, [16, 16, 1])
    found = []
    for step in range(steps):
        scores = [model(row) for row in points.tolist()]
        losses = [(1 + -int(y) * s).relu() for y, s in zip(kinds, scores, strict=True)]
        loss = sum(losses) * (1.0 / len(losses)) + 1e-4 * sum(p * p for p in model.parameters())
        found.append((loss.data, np.mean([(s.data > 0) == (y > 0) for y, s in zip(kinds, scores, strict=True)])))
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= (1.0 - 0.9 * step / 100) * p.grad
    return found


def test_the_demo_starts_as_micrograd_s() -> None:
    (first, share), (second, _) = train_on_moons(2)
    assert (f"{first:.4f}", share, f"{second:.4f}") == ("0.8958", 0.5, "1.7236")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Values refer only to what came before them: Python's search for circles finds none, in two thirds of the time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.usefixtures("no_collector")
def test_the_demo_ends_as_micrograd_s() -> None:
    loss, share = train_on_moons(100)[-1]
    assert (f"{loss:.6f}", share) == ("0.010978", 1.0)


def test_numpy_s_numbers_are_numbers() -> None:
    x = Value(np.float64(2.0))
    y = -np.int64(3) * x + Value(np.int64(1)) + x ** np.int64(2)
    y.backward()
    assert y.data == -1.0 and x.grad == 1.0


def test_modules_are_micrograd_s() -> None:
    assert len(MLP(2, [16, 16, 1]).parameters()) == 337 and len(MLP(3, [4, 4, 1]).parameters()) == 41
    assert repr(MLP(2, [2, 1])) == ("MLP of [Layer of [ReLUNeuron(2), ReLUNeuron(2)], Layer of [LinearNeuron(2)]]")
    layer = Layer(2, 3)
    sum(layer([1.0, 2.0]), Value(0)).backward()
    layer.zero_grad()
    assert all(p.grad == 0 for p in layer.parameters())
    assert isinstance(MLP(1, [1, 1])([2.0]), Value)


def test_a_graph_may_be_deeper_than_python_s_stack() -> None:
    x = Value(1.0)
    y = x
    for _ in range(20_000):
        y = y + 1
    y.backward()
    assert x.grad == 1.0 and y.data == 20_001


def test_errors_say_what_would_be_right() -> None:
    a = Value(1.0)
    b = a + 1
    a.parents, a.slopes = (b,), (1.0,)
    with pytest.raises(UserError, match="cycle"):
        b.backward()
    with pytest.raises(UserError, match="2 inputs got 3"):
        Neuron(2)([1.0, 2.0, 3.0])
    with pytest.raises(UserError, match="plain number"):
        Value(2.0) ** Value(3.0)  # type: ignore[operator]
    with pytest.raises(UserError, match="one number"):
        Value("2")  # type: ignore[arg-type]
    for mistake in (
        lambda: Value(-1.0).log(), lambda: Value(1.0) / 0, lambda: 1 / Value(0.0), lambda: Value(0.0) ** -0.5,
        lambda: Value(-8.0) ** 0.5,
    ):  # fmt: skip
        with pytest.raises(UserError, match="above 0"):
            mistake()
    with pytest.raises(UserError, match="one number"):
        Value(10**400)


def test_numbers_that_are_not_finite_are_torch_s() -> None:
    for x in (-1e200, 1e200, 0.0, 709.78, 1000.0, math.inf, math.nan):
        for work in (lambda v: v**2, lambda v: v**3, lambda v: v**0.5 if x >= 0 else v, lambda v: v.exp(),  # noqa: B023
                     lambda v: v.relu(), lambda v: v.tanh()):  # fmt: skip
            ours, theirs = Value(x), torch.tensor(x, dtype=torch.double, requires_grad=True)
            y, z = work(ours), work(theirs)
            y.backward(), z.backward()
            found, wanted = [y.data, ours.grad], [z.item(), theirs.grad.item()]
            assert found == pytest.approx(wanted, rel=1e-12, nan_ok=True), (x, y.op)


def test_the_drawing_has_every_value_and_operation() -> None:
    x, w = Value(2.0, label="x <1>"), Value(-3.0, label="w")
    o = (x * w + x).tanh()
    o.backward()
    dot, svg = draw_dot(o), draw_svg(o)
    assert dot.count("shape=record") == 5 and dot.count("->") == 8
    assert svg.count('class="box"') == 5 and svg.count('class="op"') == 3 and svg.count('class="line"') == 8
    assert "x &lt;1&gt;" in svg and f"grad {x.grad:.4f}" in svg and f"data {o.data:.4f}" in dot
    assert not re.search(r"nan|inf", svg)


def test_a_long_chain_is_drawn_in_steps_that_grow_with_it() -> None:
    """Counted, not timed: each sweep of the layout asks once for each node's place."""
    asked: Counter[int] = Counter()

    class Counted(int):
        def __hash__(self) -> int:
            asked[length] += 1
            return int.__hash__(self)

    for length in (100, 400):
        nodes = [Counted(n) for n in range(length)]
        layered(nodes, list(pairwise(nodes)), dict.fromkeys(nodes, 10.0), 5.0)
    assert asked[400] < 5 * asked[100]
