"""Causal attention in blocks (kernels/causal.py) against the formula written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nanogpt.kernels.causal import BLOCK, LONGEST, NARROWEST, attend_causally, suits


def written_out(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T + mask) v, one key head for each group of query heads."""
    shared = q.shape[1] // k.shape[1]
    k, v = (torch.stack([x[:, h // shared] for h in range(q.shape[1])], 1) for x in (k, v))
    logits = torch.einsum("bhte,bhse->bhts", q, k) * scale
    T = q.shape[2]
    weights = logits.exp() * torch.tensor([[float(s <= t) for s in range(T)] for t in range(T)], dtype=q.dtype)
    return torch.einsum("bhts,bhse->bhte", weights / weights.sum(-1, keepdim=True), v)


def drawn(B: int, H: int, K: int, T: int, E: int) -> tuple[list[Tensor], Tensor]:
    """q, k, v and a gradient, rounded to bf16, as float64."""
    shapes = [(B, H, T, E), (B, K, T, E), (B, K, T, E), (B, H, T, E)]
    *inputs, grad = (torch.randn(shape).bfloat16().double() for shape in shapes)
    return inputs, grad


@pytest.mark.parametrize("H, K, T", [(2, 2, 2), (3, 1, BLOCK), (4, 2, BLOCK + 1), (2, 2, 3 * BLOCK - 7)])
def test_blocks_are_the_formula(H: int, K: int, T: int) -> None:
    inputs, grad = drawn(2, H, K, T, 16)
    exact = [x.requires_grad_() for x in inputs]
    wanted = written_out(*exact, 0.3)
    wanted_grads = torch.autograd.grad(wanted, exact, grad)
    low = [x.detach().bfloat16().requires_grad_() for x in inputs]
    got = attend_causally(*low, 0.3)
    got_grads = torch.autograd.grad(got, low, grad.bfloat16())
    assert got.dtype == torch.bfloat16
    for a, b in zip([got, *got_grads], [wanted, *wanted_grads], strict=True):
        error = (a.double() - b).square().mean().sqrt() / b.square().mean().sqrt()
        assert error < 0.015, error  # bf16 has 8 bits: 0.004 in each of a few roundings


def test_float64_is_exact_to_the_last_digits() -> None:
    """The algorithm without the rounding, also on views that are not contiguous."""
    inputs, grad = drawn(1, 4, 2, 2 * BLOCK + 5, 8)
    one = [x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs]
    two = [x.clone().requires_grad_() for x in inputs]
    got, wanted = attend_causally(*one, 8**-0.5), written_out(*two, 8**-0.5)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    for a, b in zip(torch.autograd.grad(got, one, grad), torch.autograd.grad(wanted, two, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_later_tokens_change_nothing() -> None:
    (q, k, v), _ = drawn(1, 2, 2, 2 * BLOCK, 8)
    low = [x.bfloat16() for x in (q, k, v)]
    changed = [x.clone() for x in low]
    for x in changed:
        x[:, :, BLOCK + 3 :] = 1000.0
    before, after = attend_causally(*low, 1.0), attend_causally(*changed, 1.0)
    assert torch.equal(before[:, :, : BLOCK + 3], after[:, :, : BLOCK + 3])
    assert torch.equal(low[2][:, :, :1], before[:, :, :1])  # the first token sees itself only


def test_where_blocks_are_taken() -> None:
    def q(T: int, E: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
        return torch.empty(1, 1, T, E, dtype=dtype, device=device)

    for dtype, longest in LONGEST.items():
        assert suits(q(2, 64, dtype)) and suits(q(longest, 64, dtype))
        assert not suits(q(1, 64, dtype)) and not suits(q(longest + 1, 64, dtype))
        assert not suits(q(8, 64, dtype, device="meta"))
    assert suits(q(8, 8, torch.bfloat16)) and not suits(q(8, NARROWEST - 1, torch.float32))
    assert not suits(q(8, 64, torch.float64))
    with torch.no_grad():
        assert suits(q(8, 64, torch.bfloat16)) and not suits(q(8, 64, torch.float32))
