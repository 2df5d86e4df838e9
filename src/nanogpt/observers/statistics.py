"""Moments and histograms of many tensors at a fixed cost: each tensor is read once, in few passes over the memory.

R rows, N numbers in a row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanogpt.observers.store import BINS, OCTAVES, STATISTICS

LIMIT = 2**11
"""Numbers of a tensor that are looked at: all of them up to here, evenly spaced ones of a larger tensor. A mean over
them is off by 0.022 standard deviations, a norm by 2%. (Neurons are counted on every token.)"""
AT_ONCE = 2**17
"""Numbers that are worked on at once: they stay in a processor's cache."""
ROWS = 64
"""Tensors that are worked on at once, at most."""
TINY = torch.finfo(torch.float32).tiny
KEYS = 2**11
"""Distinct first 11 bits of a float32: the sign, 8 bits of exponent, 2 of mantissa. Four to an octave, as EDGES."""


def sample(x: Tensor, limit: int = LIMIT) -> Tensor:
    """At most `limit` evenly spaced numbers of a tensor, flat; where it can be, a view. The step between them shares no
    factor with the last dimension, so that every column of a matrix is seen as often."""
    flat = x.detach().reshape(-1)
    count = x.numel()
    if count <= limit:
        return flat
    step = -(-count // limit)
    while math.gcd(step, x.shape[-1]) > 1:
        step += 1
    return flat[::step]


def moments(x: Tensor, saturated: Tensor | float = math.nan) -> NDArray[np.float64]:
    """The columns STATISTICS of all numbers of a tensor, (9,); `saturated`: the share, or True where one is.

    Of the whole population, as numpy has them by default: std divides by N, skew and kurtosis are the standardised
    third and fourth moment (3 for a Gaussian), NaN where all numbers are equal.
    """
    rows = Rows(limit=max(1, x.numel()))
    rows.add("", "", x, float(saturated.float().mean()) if isinstance(saturated, Tensor) else saturated)
    return rows.results()[""][1][0].astype(np.float64)


def histogram(x: Tensor) -> NDArray[np.int64]:
    """Counts of all numbers of a tensor between EDGES, (323,), as `numpy.histogram` counts them (in float32)."""
    rows = Rows(limit=max(1, x.numel()))
    rows.add("", "", x)
    return rows.results()[""][2][0].astype(np.int64)


class Rows:
    """The statistics of many named tensors, by kind. Those of equal length are worked on together: on a small model the
    number of operations is what takes time."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._names: list[tuple[str, str]] = []
        self._saturated: list[float | Tensor] = []
        self._numbers: list[int] = []
        self._groups: dict[tuple[int, torch.device], _Group] = {}
        self._done: list[tuple[list[int], int, Tensor, Tensor]] = []

    @torch.no_grad()
    def add(
        self, kind: str, name: str, x: Tensor, saturated: float | Tensor = math.nan, numbers: int | None = None
    ) -> None:
        """Look at a tensor as it is now. `saturated`: the share of numbers near a bound; NaN where there is none.
        numbers: of the whole tensor, where x is a sample of it already. What is empty, or not of floating point, is
        left out."""
        if not x.numel() or not x.is_floating_point():
            return
        part = sample(x, self.limit)
        key = part.numel(), part.device
        if key not in self._groups:
            self._groups[key] = _Group(*key)
        group = self._groups[key]
        group.rows_RN[len(group.places)].copy_(part)
        group.places.append(len(self._names))
        self._names.append((kind, name))
        self._saturated.append(saturated)
        self._numbers.append(numbers or x.numel())
        if len(group.places) == len(group.rows_RN):
            self._work(group)

    @torch.no_grad()
    def _work(self, group: _Group) -> None:
        x_RN = group.rows_RN[: len(group.places)]
        self._done.append((group.places, x_RN.shape[1], *sums(x_RN)))
        group.places = []

    def results(self) -> dict[str, tuple[list[str], NDArray[np.float32], NDArray[Any]]]:
        """Kind -> names, moments (R, 9) and histograms (R, 323; uint16 where the limit fits), in the order in which
        they were added."""
        for group in self._groups.values():
            if group.places:
                self._work(group)
        found = np.full((len(self._names), len(STATISTICS)), np.nan, np.float32)
        counts = np.zeros((len(self._names), BINS), np.uint16 if self.limit < 2**16 else np.int64)
        with np.errstate(all="ignore"):  # of what is constant, not finite, or too large for float32
            for places, N, some, histograms in self._done:
                keys = histograms.cpu().numpy()
                numbers = np.array([self._numbers[place] for place in places])
                found[places, :-1] = statistics(some.cpu().numpy().astype(np.float64), keys, N, numbers)
                counts[places] = folded(keys)
        found[:, -1] = [float(share) for share in self._saturated]
        kinds: dict[str, list[int]] = {}
        for place, (kind, _) in enumerate(self._names):
            kinds.setdefault(kind, []).append(place)
        return {
            kind: ([self._names[place][1] for place in places], found[places], counts[places])
            for kind, places in kinds.items()
        }


class _Group:
    """Rows of equal length that wait to be worked on, in memory that is used again."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.rows_RN = torch.empty(max(1, min(ROWS, AT_ONCE // count)), count, device=device)
        self.places: list[int] = []


def sums(x_RN: Tensor) -> tuple[Tensor, Tensor]:
    """float32 rows -> (7, R), least, largest, size, mean, and the central moments of x over its size, from the second
    to the fourth; (R, KEYS), how many numbers begin with which 11 bits."""
    N = x_RN.shape[1]
    low, high = x_RN.amin(1), x_RN.amax(1)
    # Gradients of 1e-12 and activations of 1e12 both have a fourth power, once they are measured in their largest.
    size = torch.maximum(high.abs(), low.abs()).clamp_(min=TINY)
    mean = x_RN.mean(1)
    away = (x_RN - mean[:, None]).div_(size[:, None])
    square = away * away
    powers = square.mean(1), torch.linalg.vecdot(away, square) / N, torch.linalg.vecdot(square, square) / N
    # A NaN has any of 2^24 bit patterns, and some begin as infinity or as what becomes of -0: it gets one of its own.
    counts = _counts(torch.where(x_RN.isnan(), math.nan, x_RN) if bool(high.isnan().any()) else x_RN)
    return torch.stack([low, high, size, mean, *powers]), counts


def statistics(
    some_7R: NDArray[np.float64], counts: NDArray[np.int64], N: int, numbers_R: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of N numbers a row: `sums` -> (R, 8), STATISTICS but the last. numbers_R: how many each tensor has, over which
    its norm is."""
    low, high, size, mean, second, third, fourth = some_7R
    std = np.sqrt(second) * size
    skew, kurtosis = third / second**1.5, fourth / second**2
    norm = np.hypot(std, mean) * np.sqrt(numbers_R)
    zero = (counts[:, 0] + counts[:, KEYS // 2 - 1]) / N
    return np.stack([mean, std, skew, kurtosis, low, high, norm, zero], 1)


def _counts(x_RN: Tensor) -> Tensor:
    """How many numbers of each row have which key. A bin has its left edge; below zero that is the end farther from
    zero, so a negative number is first moved one step towards zero, and -0.0 becomes the last key of the positive ones,
    which no number has."""
    R = x_RN.shape[0]
    bits = x_RN.contiguous().view(torch.int32)
    key = (bits >> 31).add_(bits).bitwise_right_shift_(21).bitwise_and_(KEYS - 1)
    if R > 1:
        key += torch.arange(0, R * KEYS, KEYS, dtype=torch.int32, device=key.device)[:, None]
    return torch.bincount(key.view(-1), minlength=R * KEYS).view(R, KEYS)


def folded(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts by key -> by bin, (R, 323). What is not a number is in none, as with numpy."""
    low, high = ((octave + 127) * 4 for octave in OCTAVES)
    infinite = 255 * 4
    up, down = counts[:, : KEYS // 2], counts[:, KEYS // 2 :]
    near_zero = up[:, :low].sum(1) + up[:, -1] + down[:, :low].sum(1)
    return np.concatenate(
        [
            down[:, high : infinite + 1].sum(1, keepdims=True),
            down[:, low:high][:, ::-1],
            near_zero[:, None],
            up[:, low:high],
            up[:, high : infinite + 1].sum(1, keepdims=True),
        ],
        1,
    )
