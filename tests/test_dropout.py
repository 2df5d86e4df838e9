"""Dropout by its definition: each number alone, the right share of them, the mean as it was."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nanogpt.kernels.dropout import dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.02, 0.15, 0.5, 0.9])
def test_each_number_is_dropped_alone_and_the_others_make_up_for_it(share: float, dtype: torch.dtype) -> None:
    x = torch.ones(999, 1001, dtype=dtype, requires_grad=True)  # an odd number of numbers
    y = dropout(x, share)
    kept = y != 0
    assert torch.equal(y[kept], torch.full_like(y[kept], 1 / (1 - share)))
    n = x.numel()
    for what, p in (
        (kept, 1 - share),
        (kept[1:] & kept[:-1], (1 - share) ** 2),
        (kept[:, 1:] & kept[:, :-1], (1 - share) ** 2),
    ):
        error = (
            p * (1 - p) / n
        ) ** 0.5  # of neighbours too: they would not be this often together if one drew the other
        assert abs(float(what.double().mean()) - p) < 12 * error + 1e-5
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("share", [0.0, 1e-7, 1.0])
def test_the_ends_are_torchs(share: float) -> None:
    x = torch.randn(100)
    assert torch.equal(dropout(x, share), F.dropout(x, share))


def test_nothing_is_dropped_in_evaluation_and_a_seed_repeats_itself() -> None:
    x, found = torch.randn(33, 7), []
    assert torch.equal(dropout(x, 0.5, training=False), x)
    for _ in range(2):
        torch.manual_seed(3)
        found.append(dropout(x, 0.5))
    assert torch.equal(*found) and not torch.equal(found[0], dropout(x, 0.5))
