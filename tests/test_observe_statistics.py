"""Moments and histograms equal numpy's and scipy's, whatever the numbers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from scipy import stats

from nanogpt.observers.statistics import LIMIT, Rows, histogram, moments, sample
from nanogpt.observers.store import BINS, EDGES, STATISTICS


def expected(x: np.ndarray) -> np.ndarray:
    """All bits of a float64 at its disposal."""
    with np.errstate(invalid="ignore"):  # numpy warns of a NaN that signals
        return np.histogram(x.astype(np.float64), EDGES)[0]


def test_the_bins_are_four_to_an_octave() -> None:
    up = EDGES[EDGES > 0][:-1]
    assert np.array_equal(up[::4], 2.0 ** np.arange(-32, 9)) and len(EDGES) == BINS + 1
    assert np.array_equal(up[1:5] / up[0], [1.25, 1.5, 1.75, 2])


def of_bits(*bits: int) -> np.ndarray:
    return np.array(bits, np.uint32).view(np.float32)


@given(arrays(np.float32, some.integers(1, 200), elements=some.floats(width=32)))
@example(of_bits(0x7F800001, 0x7FFFFFFF, 0x7FE00000, 0x7FC00000))
@example(of_bits(0xFF800001, 0xFFFFFFFF, 0xFFC00000, 0xFFE00000))
@example(of_bits(0xFF800000, 0x7F800000, 0x80000000, 0x80000001, 0x7FA00001))
@settings(max_examples=300, deadline=None)
def test_any_numbers_at_all(x: np.ndarray) -> None:
    assert np.array_equal(histogram(torch.from_numpy(x)), expected(x))


def test_numbers_on_the_edges_and_beside_them() -> None:
    """A bin has its left edge, above zero and below."""
    inner = EDGES[1:-1].astype(np.float32)
    assert np.array_equal(inner, EDGES[1:-1]), "edges are exact in float32"
    beside = [np.nextafter(inner, np.float32(way), dtype=np.float32) for way in (-np.inf, np.inf)]
    x = np.concatenate([inner, *beside, np.float32([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38])])
    assert np.array_equal(histogram(torch.from_numpy(x)), expected(x))
    assert histogram(torch.tensor([math.nan, 1.0])).sum() == 1, "what is no number is in no bin"


def test_a_nan_of_any_bits_is_in_no_bin() -> None:
    """Every exponent and mantissa that means "not a number" begins in one of these ways; some among real numbers."""
    tops = np.arange(0x7F80, 0x8000, dtype=np.uint32)
    bits = np.concatenate([top << 16 | low for top in (tops, tops | 0x8000) for low in (0, 1, 0xFFFF)])
    x = bits.astype(np.uint32).view(np.float32)
    x = x[np.isnan(x)]
    assert len(x) > 700 and histogram(torch.from_numpy(x)).sum() == 0
    mixed = np.concatenate([x, np.float32([1.0, -0.0, np.inf])])
    assert np.array_equal(histogram(torch.from_numpy(mixed)), expected(mixed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    """In bf16 one number in 32 lies on an edge."""
    x = (torch.randn(4096) * 3).to(dtype)
    assert np.array_equal(histogram(x), expected(x.float().numpy()))


@pytest.mark.parametrize("size", [1e-20, 1e-6, 1.0, 1e15])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_moments(size: float, shift: float) -> None:
    """Of a skewed sample, at every size: gradients deep in a network have a fourth power too."""
    x = (torch.from_numpy(np.random.default_rng().gamma(2.0, size=(50, 80))) - shift).mul(size).float()
    x[3, 4:9] = 0
    found = dict(zip(STATISTICS, moments(x), strict=True))
    y = x.double().numpy().ravel()
    want = {
        "mean": y.mean(), "std": y.std(), "skew": stats.skew(y), "kurtosis": stats.kurtosis(y, fisher=False),
        "min": y.min(), "max": y.max(), "norm": np.linalg.norm(y), "zero": (y == 0).mean(),
    }  # fmt: skip
    for key, value in want.items():
        assert found[key] == pytest.approx(value, rel=2e-3 if key in ("skew", "kurtosis") else 2e-5), key
    assert math.isnan(found["saturated"])


def test_a_constant_has_no_shape() -> None:
    found = dict(zip(STATISTICS, moments(torch.full((7,), 0.5)), strict=True))
    assert found["std"] == 0 and found["mean"] == 0.5 and math.isnan(found["skew"]) and math.isnan(found["kurtosis"])
    nothing = dict(zip(STATISTICS, moments(torch.zeros(7)), strict=True))
    assert nothing["zero"] == 1 and nothing["norm"] == 0


def test_many_tensors_at_once_are_as_each_alone() -> None:
    """Of equal and of different lengths, in any order, changed after they were taken."""
    sizes = [(3,), (40, 50), (3,), (), (40, 50), (7, 7), *[(LIMIT,)] * 40]
    tensors = [torch.randn(size) * 10.0 ** (-number % 7) for number, size in enumerate(sizes)]
    rows, before = Rows(), [x.clone() for x in tensors]
    for number, x in enumerate(tensors):
        rows.add("weights", str(number), x)
        x.zero_()
    names, found, counts = rows.results()["weights"]
    assert names == [str(number) for number in range(len(tensors))]
    for x, line, bins in zip(before, found, counts, strict=True):
        assert np.allclose(line[:-1], moments(x)[:-1], rtol=1e-4, equal_nan=True)
        assert np.array_equal(bins, histogram(x))


def test_the_norm_of_a_large_tensor_is_that_of_all_of_it() -> None:
    """Of a sample the others are estimates as they are; a norm grows with the numbers."""
    x = torch.randn(300, 700) * 3 + 1
    rows = Rows()
    rows.add("weights", "whole", x)
    rows.add("weights", "part", sample(x), numbers=x.numel())
    for line in rows.results()["weights"][1]:
        assert line[STATISTICS.index("norm")] == pytest.approx(float(x.norm()), rel=0.1)


def test_of_a_large_tensor_every_column_is_seen_alike() -> None:
    x = torch.arange(384).repeat(1024, 1).float()
    part = sample(x)
    assert LIMIT / 2 < len(part) <= LIMIT
    often = np.bincount(part.long().numpy(), minlength=384)
    assert often.max() - often.min() <= 1
    small = torch.randn(32, 64)
    assert torch.equal(sample(small), small.flatten()), "all of a small one"
