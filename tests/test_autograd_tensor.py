"""The tensor engine beside torch: the same numbers, gradients, strides, losses, and the same mistakes refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanogpt.autograd import (
    Tensor,
    define,
    empty_meta,
    grad,
    gradcheck,
    gradgradcheck,
    logged,
    mode,
    no_grad,
    saved_tensors_hooks,
    tensor,
    zeros,
)
from nanogpt.autograd import functional as F
from nanogpt.autograd.networks import bengio, descend, gpt, weights_of
from nanogpt.autograd.storage import address
from nanogpt.config import compose
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel, resolve_model


def fresh(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng()
    return [rng.standard_normal(shape) for shape in shapes]


def both(arrays: list[np.ndarray]) -> tuple[list[Tensor], list[torch.Tensor]]:
    return [tensor(a, requires_grad=True) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]


def math_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's, by the one of its kernels whose gradient has a gradient."""
    with sdpa_kernel(SDPBackend.MATH):
        return TF.scaled_dot_product_attention(q, k, v, is_causal=True)


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., torch.Tensor], list[tuple[int, ...]]]] = {
    "broadcast": (lambda a, b: a * b - b / (a * a + 1.0), lambda a, b: a * b - b / (a * a + 1), [(3, 1, 4), (5, 1)]),
    "matmul": (lambda a, b: a @ b, lambda a, b: a @ b, [(2, 1, 3, 4), (5, 4, 2)]),
    "pow": (lambda a: (a * a + 1.0) ** -1.5 + 2.0 / (a + 9.0), lambda a: (a * a + 1) ** -1.5 + 2 / (a + 9), [(7,)]),
    "exp log": (lambda a: (a.exp() + 1.0).log(), TF.softplus, [(2, 3)]),
    "sin cos": (lambda a: a.sin() * a.cos(), lambda a: a.sin() * a.cos(), [(6,)]),
    "sum mean": (lambda a: a.sum(0) * a.mean((0, 1)), lambda a: a.sum(0) * a.mean((0, 1)), [(3, 4)]),
    "max": (lambda a: a.max(-1), lambda a: a.amax(-1), [(3, 4)]),
    "views": (
        lambda a: a.permute(2, 0, 1)[1:, 0, ::2].reshape(-1) * a.view(6, -1)[0, -1],
        lambda a: a.permute(2, 0, 1)[1:, 0, ::2].reshape(-1) * a.view(6, -1)[0, -1],
        [(2, 3, 4)],
    ),
    "relu": (lambda a: a.relu() * a, lambda a: a.relu() * a, [(5, 2)]),
    "linear": (F.linear, TF.linear, [(2, 3, 4), (5, 4), (5,)]),
    "softmax": (F.softmax, lambda a: a.softmax(-1), [(3, 5)]),
    "log_softmax": (F.log_softmax, lambda a: a.log_softmax(-1), [(3, 5)]),
    "gelu": (F.gelu, TF.gelu, [(9,)]),
    "gelu_tanh": (F.gelu_tanh, lambda a: TF.gelu(a, approximate="tanh"), [(9,)]),
    "silu": (F.silu, TF.silu, [(9,)]),
    "layer_norm": (F.layer_norm, lambda a, w, b: TF.layer_norm(a, (5,), w, b), [(2, 3, 5), (5,), (5,)]),
    "rms_norm": (F.rms_norm, lambda a, w: TF.rms_norm(a, (5,), w, 1e-6), [(2, 3, 5), (5,)]),
    "attention": (
        F.attention, math_attention, [(2, 2, 5, 3)] * 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_their_gradients_are_torch_s(name: str) -> None:
    ours, theirs, shapes = CASES[name]
    inputs, twins = both(fresh(*shapes))
    y, z = ours(*inputs), theirs(*twins)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-10, atol=1e-12)
    first = grad((y * y).sum(), inputs, create_graph=True)
    second = torch.autograd.grad((z * z).sum(), twins, create_graph=True)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-8, atol=1e-10)
    twice, again = sum(((a * a).sum() for a in first), tensor(0.0)), sum((b * b).sum() for b in second)
    for a, b in zip(grad(twice, inputs), torch.autograd.grad(again, twins), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["broadcast", "matmul", "max", "views", "softmax", "layer_norm", "attention"])
def test_gradients_pass_gradcheck_twice(name: str) -> None:
    function, _, shapes = CASES[name]
    inputs, _ = both(fresh(*[tuple(min(n, 3) if name != "views" else n for n in s) for s in shapes]))
    assert gradcheck(function, inputs) < 1e-6
    assert gradgradcheck(function, inputs) < 1e-3


def test_gradcheck_finds_a_wrong_formula_and_one_of_a_wrong_shape() -> None:
    wrong = define("thrice(a)", lambda a: 3 * a, a=lambda g: g * 2.0)
    with pytest.raises(UserError, match="by the formula and 3 by differences"):
        gradcheck(wrong, [tensor([1.0, 2.0], requires_grad=True)])
    flat = define("flatly(a)", lambda a: a * 1, a=lambda g: g.sum())
    with pytest.raises(UserError, match=r"gradient of 'a' is float64 \(\)"):
        flat(tensor([1.0, 2.0], requires_grad=True)).sum().backward()
    with pytest.raises(UserError, match="float64"):
        gradcheck(wrong, [tensor([1.0], "float32", requires_grad=True)])
    for function, inputs in [
        (wrong, [tensor([1.0])]),  # where the word requires_grad was forgotten
        (lambda: tensor([1.0]), []),
        (wrong, [zeros((0,)).requires_grad_()]),
    ]:
        with pytest.raises(UserError, match="nothing to check"):
            gradcheck(function, inputs)
    with pytest.raises(UserError, match="there already"):
        define("thrice(a)", lambda a: a)
    with pytest.raises(UserError, match="formula for b, which it does not take"):
        define("other(a)", lambda a: a, b=lambda g: g)
    with pytest.raises(UserError, match="the formula of 'a' names c; it may name g and a, a_dtype, a_shape, out"):
        define("other(a)", lambda a: a, a=lambda g, c: g)
    with pytest.raises(UserError, match="takes 1 arguments, not 2"):
        wrong(tensor([1.0]), 2.0)


def test_gradgradcheck_finds_what_gradcheck_cannot() -> None:
    """Right gradients with wrong gradients of their own, also where they are 0 and a square would hide it."""
    cut = define("cut(a)", lambda a: a * a, a=lambda g, a: g * a.detach() * 2.0)
    once = define("once(a)", lambda a: a * a, a=lambda g, a: g.detach() * a * 2.0)
    for wrong, at in [(cut, 0.0), (cut, 1.0), (once, 1.0)]:
        x = tensor([at], requires_grad=True)
        assert gradcheck(wrong, [x]) < 1e-6
        with pytest.raises(UserError, match="by the formula and"):
            gradgradcheck(wrong, [x])


def test_gradcheck_leaves_its_inputs_as_they_were_when_the_function_fails() -> None:
    x, calls = tensor([1.0, 2.0], requires_grad=True), iter(range(3))

    def fails(a: Tensor) -> Tensor:
        if next(calls) == 2:
            raise UserError("no more")
        return a * a

    with pytest.raises(UserError, match="no more"):
        gradcheck(fails, [x])
    assert x.tolist() == [1.0, 2.0]


def test_rows_that_are_taken_twice_get_both_gradients() -> None:
    (table,), (twin,) = both(fresh((5, 3)))
    ids = np.array([[1, 4, 1], [0, 1, 4]])
    (F.embedding(tensor(ids), table) ** 2).sum().backward()
    (TF.embedding(torch.tensor(ids), twin) ** 2).sum().backward()
    np.testing.assert_allclose(table.grad.numpy(), twin.grad.numpy())
    logits, other = both(fresh((4, 6)))
    targets = np.array([0, 5, 5, 2])
    ours, theirs = F.cross_entropy(logits[0], tensor(targets)), TF.cross_entropy(other[0], torch.tensor(targets))
    ours.backward(), theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    np.testing.assert_allclose(logits[0].grad.numpy(), other[0].grad.numpy(), atol=1e-12)


# -- memory -----------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_views_have_torch_s_shape_strides_and_offset(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    numbers = np.arange(float(np.prod(shape))).reshape(shape)
    x: Any = tensor(numbers)
    y: Any = torch.tensor(numbers)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["permute", "slice", "expand", "reshape", "select"]))
        if kind == "permute":
            dims = data.draw(st.permutations(range(y.ndim)))
            x, y = x.permute(*dims), y.permute(*dims)
        elif kind == "slice" and y.shape[0] > 2:
            x, y = x[1:, ...], y[1:, ...]
        elif kind == "expand":
            x, y = x.expand(2, *x.shape), y.expand(2, *y.shape)
        elif kind == "reshape":
            x, y = x.reshape(-1, y.shape[-1]), y.reshape(-1, y.shape[-1])
        elif kind == "select" and y.ndim > 1:
            x, y = x[..., -1], y[..., -1]
    np.testing.assert_array_equal(x.numpy(), y.numpy())
    assert x.shape == tuple(y.shape) and x.offset == y.storage_offset()
    if 1 not in x.shape:  # the stride of a single number is never used
        assert x.strides == y.stride() and x.is_contiguous() == y.is_contiguous()
    index = [n - 1 for n in x.shape]
    assert x.storage.numbers[address(index, x.strides, x.offset)] == y[tuple(index)]
    assert tensor(x).storage is not x.storage


def test_views_share_memory_and_copies_do_not() -> None:
    x = tensor(np.arange(6.0).reshape(2, 3))
    assert x.mT.storage is x.storage and x[1].offset == 3 and x.mT.strides == (1, 3)
    assert x.expand(4, 2, 3).strides == (0, 3, 1)
    assert x.mT.contiguous().storage is not x.storage and x.contiguous() is x
    x[1].mul_(10.0)
    assert x.tolist() == [[0, 1, 2], [30, 40, 50]] and x.version == 1
    with pytest.raises(UserError, match=r"nearest: \.reshape"):
        x.mT.view(6)
    assert x.mT.reshape(6).tolist() == [0, 30, 1, 40, 2, 50]
    assert tensor([]).sum().item() == 0 and zeros((0, 3)).view(3, 0).shape == (3, 0)


# -- dispatch ---------------------------------------------------------------------------------------------------------


def test_the_log_has_what_runs_below_autograd_forwards_and_backwards() -> None:
    x = tensor([[1.0, 2.0]], requires_grad=True)
    with logged() as lines:
        y = (x @ x.mT).sum()
        forward = len(lines)
        y.backward()
    assert lines[:forward] == ["permute (1, 2) -> (2, 1)", "matmul (1, 2) (2, 1) -> (1, 1)", "sum (1, 1) -> (1, 1)",
                               "view (1, 1) -> ()"]  # fmt: skip
    assert sum(line.startswith("matmul") for line in lines[forward:]) == 2


def test_a_mode_may_answer_in_another_s_place() -> None:
    def zero(operator: Any, args: tuple[Any, ...]) -> Any:
        out = operator(*args)
        return zeros(out.shape) if operator.name == "exp" else out

    with mode(zero):
        assert tensor([1.0]).exp().tolist() == [0.0]
    assert tensor([1.0]).exp().tolist() == [np.e]


def test_on_meta_there_are_shapes_and_a_graph_but_no_numbers() -> None:
    x = empty_meta((100_000, 40_000)).requires_grad_()
    y = F.softmax(F.linear(x, empty_meta((7, 40_000)))).sum()
    (g,) = grad(y, [x], empty_meta(()))
    assert g.shape == x.shape and g.device == "meta" and y.shape == ()
    with pytest.raises(UserError, match="no numbers"):
        y.item()
    with pytest.raises(UserError, match="cpu and meta"):
        empty_meta((2,)) + tensor([1.0, 2.0])


def test_an_operation_of_one_s_own() -> None:
    cube = define("cube(a)", lambda a: a**3, a=lambda g, a: g * a * a * 3.0)
    x = tensor(fresh((4,))[0], requires_grad=True)
    assert gradcheck(cube, [x]) < 1e-6 and gradgradcheck(cube, [x]) < 1e-3
    assert cube(empty_meta((2, 3))).shape == (2, 3)
    with pytest.raises(UserError, match="int64"):
        cube(tensor([1, 2]))
    same = define("same(a)", lambda a: a, a=lambda g: g)
    assert same(x).storage is not x.storage and not np.shares_memory(same(x).numpy(), x.numpy())
    other = define("rounded(a)", lambda a: a.astype("float32"))
    with pytest.raises(UserError, match=r"rounded: its kernel gave float32 \(4,\), not float64 \(4,\)"):
        other(x)


# -- the tape ---------------------------------------------------------------------------------------------------------


def test_the_graph_can_be_walked() -> None:
    x = tensor([2.0], requires_grad=True)
    y = (x * x).exp()
    assert y.grad_fn.name == "ExpBackward"
    (inner,) = y.grad_fn.next_functions
    assert inner.name == "MulBackward" and [n.name for n in inner.next_functions] == ["AccumulateGrad"] * 2
    assert set(y.grad_fn.saved) == {"out"} and set(inner.saved) == {"a", "b"}


def test_only_what_a_wanted_gradient_needs_is_saved() -> None:
    x, w = tensor([[1.0, 2.0]], requires_grad=True), tensor([[3.0], [4.0]])
    assert set((x @ w).grad_fn.saved) == {"b"}


def test_hooks_see_and_change_gradients_and_come_off() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    y = x * 3.0
    y.retain_grad()
    seen: list[list[float]] = []
    off = x.register_hook(lambda g: seen.append(g.tolist()))
    y.register_hook(lambda g: g * 2.0)
    (y * y).sum().backward(retain_graph=True)
    assert y.grad.tolist() == [12.0, 24.0] and seen == [[36.0, 72.0]] and x.grad.tolist() == [36.0, 72.0]
    off()
    (x * 1.0).sum().backward()
    assert len(seen) == 1 and x.grad.tolist() == [37.0, 73.0]


def test_a_whole_slice_is_a_view_with_hooks_of_its_own() -> None:
    for x in (tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, 2.0], requires_grad=True)):
        y = x * 1.0
        for part in (y[:], y[...], y.expand(2)):
            part.register_hook(lambda g: g * 0.0)
        y.sum().backward()
        assert x.grad.tolist() == [1.0, 1.0]


def test_a_retained_gradient_is_of_the_numbers_after_a_change_in_place() -> None:
    for x in (tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, 2.0], requires_grad=True)):
        y = x * 3.0
        y.retain_grad()
        y.mul_(5.0)
        (y * y).sum().backward()
        assert y.grad.tolist() == [30.0, 60.0] and x.grad.tolist() == [450.0, 900.0]


def test_saved_tensors_hooks_count_bytes_and_may_recompute() -> None:
    packed = []
    x = tensor(fresh((10, 10))[0], requires_grad=True)
    with saved_tensors_hooks(
        lambda t: packed.append(t.numel()) or t.numpy().astype("float32"), lambda a: tensor(a, "float64")
    ):
        y = (x * x).exp().sum()
    y.backward()
    assert packed == [100, 100, 100]
    twin = torch.tensor(x.numpy(), requires_grad=True)
    (twin * twin).exp().sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), twin.grad.numpy(), rtol=1e-5)
    assert not np.array_equal(x.grad.numpy(), twin.grad.numpy())  # float32 was kept


def test_what_hooks_unpack_still_has_its_place_in_the_graph() -> None:
    x = tensor([0.3, -1.2], requires_grad=True)
    with saved_tensors_hooks(lambda t: t.numpy().copy(), tensor):
        y = (x * x * x).tanh().sum()
    (first,) = grad(y, [x], create_graph=True)
    (second,) = grad(first.sum(), [x])
    twin = torch.tensor([0.3, -1.2], dtype=torch.double, requires_grad=True)
    (a,) = torch.autograd.grad((twin**3).tanh().sum(), twin, create_graph=True)
    (b,) = torch.autograd.grad(a.sum(), twin)
    np.testing.assert_allclose(second.numpy(), b.numpy(), rtol=1e-10)


def test_gradients_of_several_leaves_do_not_share_memory() -> None:
    a, b = tensor([1.0], requires_grad=True), tensor([1.0], requires_grad=True)
    (a + b).backward()
    a.grad.mul_(5.0)
    assert b.grad.tolist() == [1.0]


def test_a_hook_may_not_change_what_a_gradient_is() -> None:
    for hook, says in [
        (lambda g: g.sum(), r"float64 \(\); it must be float64 \(2,\)"),
        (lambda g: g.to("float32"), r"float32 \(2,\); it must be float64 \(2,\)"),
        (lambda g: 3, r"no tensor but int; nearest: float64 \(2,\)"),
    ]:
        x = tensor([1.0, 2.0], requires_grad=True)
        off = x.register_hook(hook)
        with pytest.raises(UserError, match=r"a hook on AccumulateGrad: .*" + says):
            (x * 2.0).sum().backward()
        off(), off()
        assert x.grad is None
    with (
        saved_tensors_hooks(lambda t: None, lambda _: zeros((3,))),
        pytest.raises(UserError, match=r"ExpBackward: what was unpacked is float64 \(3,\); it must be float64 \(2,\)"),
    ):
        x.exp().sum().backward()


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_change_in_place_of_what_backward_needs_is_caught() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    y = x * 2.0
    z = y * y
    y.add_(1.0)
    with pytest.raises(UserError, match="version 0, but it was changed in place and is at version 1"):
        z.sum().backward()
    a = tensor([1.0, 2.0], requires_grad=True)
    out = a.exp()
    out.mul_(2.0)
    with pytest.raises(UserError, match=r"ExpBackward .* nearest: change a copy"):
        out.sum().backward()
    with pytest.raises(UserError, match="leaf"):
        a.add_(1.0)


def test_a_change_in_place_that_nobody_needs_is_recorded() -> None:
    for work, twin_work in [
        (lambda y, w: y.add_(w), lambda y, w: y.add_(w)),
        (lambda y, w: y.mul_(w), lambda y, w: y.mul_(w)),
        (lambda y, w: y.zero_().add_(w), lambda y, w: y.zero_().add_(w)),
        (lambda y, w: y.copy_(w).mul_(3.0), lambda y, w: y.copy_(w).mul_(3.0)),
    ]:
        (x, w), (s, t) = both(fresh((3,), (3,)))
        (work(x + 1.0, w) ** 2).sum().backward()
        (twin_work(s + 1.0, t) ** 2).sum().backward()
        np.testing.assert_allclose(w.grad.numpy(), t.grad.numpy())
        if s.grad is not None and s.grad.abs().sum():
            np.testing.assert_allclose(x.grad.numpy(), s.grad.numpy())


def test_views_and_changes_in_place_never_give_a_silent_wrong_gradient() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    y = x * 1.0
    old = y[:1]
    with pytest.raises(UserError, match="change in place of a view"):
        old.mul_(2.0)
    y.mul_(3.0)
    with pytest.raises(UserError, match="before its base was changed"):
        old.sum()
    y[:1].sum().backward()
    assert x.grad.tolist() == [3.0, 0.0]
    buffer, w = zeros((2,)), tensor([5.0, 6.0], requires_grad=True)
    part = buffer[:1]
    buffer.add_(w)
    with pytest.raises(UserError, match="before its base was changed"):
        part * 2.0


def test_a_view_made_under_no_grad_is_no_way_around_the_tape() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    with no_grad():
        part = x[:1]
        part.mul_(5.0)
    assert x.tolist() == [5.0, 2.0]
    with pytest.raises(UserError, match="change in place of a view"):
        part.mul_(2.0)
    with pytest.raises(UserError, match=r"nearest: \.detach"):
        (x * 2.0).requires_grad_(False)


def test_numbers_beside_tensors_have_the_tensor_s_dtype_as_in_torch() -> None:
    for number in (2, 2.5, np.float64(2.5), np.float32(2.5), np.int64(2)):
        ours, theirs = tensor([1.0, -2.0], "float32"), torch.tensor([1.0, -2.0])
        for work in (lambda x: x * number, lambda x: number - x, lambda x: x**2 / number, lambda x: number / x):  # noqa: B023
            out, wanted = work(ours), work(theirs)
            assert str(out.dtype) == str(wanted.dtype).removeprefix("torch.") == "float32"
            np.testing.assert_array_equal(out.numpy(), wanted.numpy())
            assert work(empty_meta((2,), "float32")).dtype == "float32"
    for whole in (tensor([1, 2]), empty_meta((2,), "int64")):
        assert (whole * 2).dtype == (whole * np.int64(2)).dtype == "int64"
        with pytest.raises(UserError, match=r"numbers of int64, and 0.5; nearest: \.to\('float64'\)"):
            whole * 0.5


def test_numbers_that_are_not_finite_are_torch_s_and_quiet() -> None:
    numbers = [-np.inf, -2.0, -0.0, 0.0, 1e200, np.inf, np.nan]
    for work in (
        lambda x: x.log(), lambda x: x.sqrt(), lambda x: 1.0 / x, lambda x: x / 0.0, lambda x: (x * x).exp(),
        lambda x: x**3, lambda x: x**-2, lambda x: x.relu(), lambda x: x.tanh(), lambda x: x.sin(), lambda x: x - x,
        lambda x: x.erf(), lambda x: x[:0].mean(), lambda x: x.sum(), lambda x: x.max() if isinstance(x, Tensor)
        else x.amax(),
    ):  # fmt: skip
        ours = tensor(numbers, requires_grad=True)
        theirs = torch.tensor(numbers, dtype=torch.double, requires_grad=True)
        np.testing.assert_allclose(work(ours).numpy(), work(theirs).detach().numpy(), rtol=1e-12)


def test_tensors_of_no_numbers() -> None:
    x = tensor(np.ones((5, 3)), requires_grad=True)
    part = x[5:5, 3:3]
    assert part.shape == part.numpy().shape == (0, 0) and part.tolist() == [] and part.sum().item() == 0
    part.sum().backward()
    assert not x.grad.numpy().any()
    assert zeros((0, 3)).max(1).shape == (0,) and zeros((0, 3)).view(-1).shape == (0,)


def test_equality_is_number_by_number() -> None:
    a, b = tensor([1.0, 2.0]), tensor([1.0, 3.0])
    assert (a == b).tolist() == (a == np.float64(1.0)).tolist() == a.eq(b).tolist() == [True, False]
    assert len({a, b, a}) == 2


def test_a_second_backward_needs_to_be_asked_for() -> None:
    x = tensor([2.0], requires_grad=True)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [8.0]
    with pytest.raises(UserError, match="retain_graph=True"):
        y.backward()


def test_a_cycle_is_found() -> None:
    x = tensor([2.0], requires_grad=True)
    y = x.exp().log()
    y.grad_fn.next_functions[0].next_functions[0] = y.grad_fn
    with pytest.raises(UserError, match="cycle"):
        y.backward()


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda: zeros((2, 3)) + zeros((4,)), r"\(2, 3\) and \(4,\) cannot be broadcast"),
        (lambda: zeros((2, 3)) @ zeros((2, 3)), "last but one"),
        (lambda: zeros((2, 3)).view(4), "no view of shape"),
        (lambda: zeros((2, 3)).view(-1, -1), "no view of shape"),
        (lambda: zeros((2, 3)).expand(5, 3), "cannot be expanded"),
        (lambda: zeros((2, 3))[2], "outside dimension 0"),
        (lambda: zeros((2, 3))[0, 0, 0], "too many"),
        (lambda: zeros((2, 3))["a"], "not str"),
        (lambda: zeros((2, 3)).sum(2), "no dimension 2"),
        (lambda: zeros((2, 3)).permute(0, 0), "each of its 2 dimensions once"),
        (lambda: zeros((2, 3)).permute(0, 5), r"permute: a tensor \(2, 3\) has no dimension 5"),
        (lambda: zeros((2, 3)).transpose(0, 5), r"transpose: a tensor \(2, 3\) has no dimension 5"),
        (lambda: zeros((2, 3)).transpose(0, 0.5), "whole numbers"),
        (lambda: zeros((3,)).mT, "no dimension -2"),
        (lambda: zeros((1, 2)).expand(-1, -2), "cannot be expanded"),
        (lambda: zeros((2,)).expand(-1, 2), "cannot be expanded"),
        (lambda: zeros((1, 2)).expand(2), "cannot be expanded"),
        (lambda: zeros((2, 3)).view(2.0, 3), "whole numbers"),
        (lambda: zeros((2, 3)).view(-2, -3), "no view of shape"),
        (lambda: zeros((-1, 2)), r"zeros\(-1, 2\): no size is below 0"),
        (lambda: empty_meta((-1, 2)), r"empty_meta\(-1, 2\): no size is below 0"),
        (lambda: tensor([[1.0], [1.0, 2.0]]), r"rows of one length, as in \[\[1, 2\], \[3, 4\]\]"),
        (lambda: tensor(["1"], "float64") and tensor(["one"], "float64"), "no tensor can be made of this"),
        (lambda: zeros((2, 2)) @ [[1.0]], "@: a tensor and list"),
        (lambda: zeros((2,)).copy_(2.0), "copy_: a tensor and float"),
        (lambda: zeros((2, 2))[np.array([0, 1])], "not ndarray"),
        (lambda: zeros((0,)).max(), "of no numbers"),
        (lambda: zeros((2,)) + zeros((2,), "float32"), r"nearest: .to\('float64'\)"),
        (lambda: tensor([1, 2]).exp(), "not there for int64"),
        (lambda: tensor([1, 2], requires_grad=True), "no gradient"),
        (lambda: tensor(["a"]), "dtype"),
        (lambda: tensor(1j), "dtype complex128"),
        (lambda: zeros((2,))[tensor([2])], "there are 2 rows"),
        (lambda: zeros((2,))[tensor([0.5])], "int64"),
        (lambda: zeros((2,)) + "1", "a tensor and str"),  # type: ignore[operator]
        (lambda: zeros((2,)).requires_grad_().backward(), "needs a gradient"),
        (lambda: (zeros((2,)).requires_grad_() * 1.0).backward(zeros((3,))), r"\(3,\); it must be float64 \(2,\)"),
        (lambda: zeros((2,)).sum().backward(), "requires no gradient"),
        (lambda: grad(zeros(()).requires_grad_() * 1.0, [zeros((2,)).requires_grad_()]), "does not depend on input 0"),
        (lambda: F.cross_entropy(zeros((2, 3)), tensor([0, 3])), "3 classes"),
        (lambda: F.linear(zeros((2, 3)), zeros((4, 5))), "3 is not 5"),
        (lambda: zeros((2,)).item(), "one number"),
        (lambda: zeros((2,)).copy_(tensor([1, 2])), r"is int64 \(2,\); it must be float64 \(2,\)"),
        (lambda: zeros((1,)).expand(3).add_(1.0), "one in memory"),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_line(mistake: Callable[[], Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        mistake()


# -- networks ---------------------------------------------------------------------------------------------------------


def our_model(preset: str, *overrides: str) -> LanguageModel:
    config = compose(preset, list(overrides)).model
    model = LanguageModel(resolve_model(config.model_copy(update={"vocab_size": config.vocab_size or 27})))
    model.initialise(1)
    return model.double()


def test_bengio_s_network_trains_as_in_pytorch() -> None:
    model = our_model("makemore-mlp")
    ours = weights_of(model.state_dict())
    assert sum(w.numel() for w in ours.values()) == 11_897
    rng = np.random.default_rng()
    for _ in range(20):
        tokens, targets = rng.integers(27, size=(8, 3)), rng.integers(27, size=8)
        theirs = TF.cross_entropy(model(torch.tensor(tokens))[:, -1], torch.tensor(targets))
        model.zero_grad()
        theirs.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        loss = bengio(ours, tensor(tokens), tensor(targets))
        loss.backward()
        descend(ours.values(), 0.1)
        assert loss.item() == pytest.approx(theirs.item(), abs=1e-9)
    for name, w in model.state_dict().items():
        np.testing.assert_allclose(ours[name].numpy(), w.numpy(), atol=1e-9)


def test_a_gpt_of_one_block_trains_as_in_pytorch() -> None:
    model = our_model("gpt", "model.n_layers=1", "model.dim=24", "model.context=12", "model.mixer.heads=3").eval()
    ours = weights_of(model.state_dict())
    rng = np.random.default_rng()
    for _ in range(20):
        tokens, targets = rng.integers(27, size=(2, 4, 12))
        theirs = model.losses(torch.tensor(tokens), torch.tensor(targets))["loss"]
        model.zero_grad()
        theirs.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        loss = gpt(ours, tensor(tokens), tensor(targets), heads=3)
        loss.backward()
        descend(ours.values(), 0.1)
        assert loss.item() == pytest.approx(theirs.item(), abs=1e-9)
    for name, w in model.state_dict().items():
        np.testing.assert_allclose(ours[name].numpy(), w.numpy(), atol=1e-8)


def test_numbers_of_numpy_and_loops_are_understood() -> None:
    x = tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = sum((np.float64(2.0) * row * np.float64(3.0) for row in x), tensor(0.0))
    y.sum().backward()
    assert y.tolist() == [24.0, 36.0] and x.grad.tolist() == [[6.0, 6.0], [6.0, 6.0]]


def test_an_optimizer_s_step_under_no_grad_leaves_no_trace() -> None:
    w = tensor([1.0], requires_grad=True)
    with no_grad():
        w.sub_(0.5)
    assert w.is_leaf and w.tolist() == [0.5] and w.version == 1
