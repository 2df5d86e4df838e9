"""What a function does to Gaussian numbers: its moments, and those of its derivative, by quadrature.

Mean-field theory (He et al. 2015; Poole et al. 2016, arXiv:1606.05340) takes the inputs of an activation as Gaussian:
each is a sum over many independent weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nanogpt.observers.rest import Rest

POINTS, REACH = 1024, 8.0
"""Of the midpoint rule, over so many standard deviations on either side: 1e-4 off where f bends, 1% where it jumps."""
DEGREE = 24
"""Hermite polynomials by which the covariance of two outputs is worked out; what is above counts as the last."""
SAMPLES = 512
"""Vectors that stand for all, where a function looks at several numbers at once."""


class Through(NamedTuple):
    """What comes out of f(z), z ~ N(mean, variance), and what flows back."""

    power: float
    """E[f(z)^2]."""
    mean: float
    """E[f(z)]."""
    shared: float
    """E[f(z) f(z')], z and z' of the given covariance."""
    slope: float
    """E[f'(z)^2], by which the second moment of the gradient is multiplied."""
    common: float
    """E[f'(z) f'(z')], by which the covariance of the gradient at two tokens is."""


def through(f: Callable[[Tensor], Tensor], mean: float, variance: float, covariance: float, width: int) -> Through:
    """Moments of f(z) for vectors of `width` numbers. covariance: of one number at two tokens."""
    if not math.isfinite(mean + variance):
        return Through(*[math.nan] * 5)
    std = math.sqrt(max(variance, 0.0))
    correlation = min(1.0, max(0.0, covariance / variance)) if variance > 0 else 1.0
    if not _alone(f, width):
        return _sampled(f, mean, std, correlation, width)
    z, weights, hermite = _grid()
    points = (mean + std * z).float()[:, None].expand(-1, width if _has_numbers(f) else 1)
    y, slope = _with_slope(f, points)
    (power, first, shared), (steep, _, common) = (_expanded(v, weights, hermite, correlation) for v in (y, slope))
    return Through(power, first, shared, steep, common)


def _expanded(y: Tensor, weights: Tensor, hermite: Tensor, correlation: float) -> tuple[float, float, float]:
    """(E[y^2], E[y], E[y y']) of a function given on the grid, (POINTS, units): with coefficients a_k in Hermite
    polynomials, Mehler's formula gives E[y y'] = sum_k a_k^2 correlation^k."""
    coefficients = (weights[:, None] * hermite).t() @ y
    power, known = weights @ y.square(), coefficients.square()
    powers = correlation ** torch.arange(DEGREE, dtype=torch.float64)
    shared = powers @ known + (power - known.sum(0)).clamp(min=0) * correlation**DEGREE
    return float(power.mean()), float(coefficients[0].mean()), float(shared.mean())


def _with_slope(f: Callable[[Tensor], Tensor], x: Tensor, back: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """f(x), and the gradient with respect to x where `back` is that with respect to f(x); both on the CPU."""
    home = next((p.device for p in f.parameters()), x.device) if isinstance(f, nn.Module) else x.device
    with torch.enable_grad():
        x = x.detach().to(home).requires_grad_()
        y = f(x)
        back = back.to(home) if isinstance(back, Tensor) else back
        slope = torch.autograd.grad((y * back).sum(), x, allow_unused=True)[0] if y.requires_grad else None
    slope = torch.zeros_like(x) if slope is None else slope
    return y.detach().double().cpu(), slope.double().cpu()


def _sampled(f: Callable[[Tensor], Tensor], mean: float, std: float, correlation: float, width: int) -> Through:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SAMPLES, width, generator=random) for _ in range(2))
    other = correlation * a + math.sqrt(1 - correlation**2) * b
    outputs = _with_slope(f, a[:1])[0].shape[-1]
    back = torch.randn(SAMPLES, outputs, generator=random)
    (y, slope), (z, tilt) = (_with_slope(f, mean + std * x, back) for x in (a, other))
    return Through(*(float(n.mean()) for n in (y.square(), y, y * z, slope.square(), slope * tilt)))


def _has_numbers(f: Callable[[Tensor], Tensor]) -> bool:
    """Whether f has learned numbers, perhaps others for each unit."""
    return isinstance(f, nn.Module) and any(p.numel() > 1 for p in f.parameters())


def _alone(f: Callable[[Tensor], Tensor], width: int) -> bool:
    """Whether each number goes through by itself: then a grid will do for all of them."""
    if width < 2:
        return True
    x = torch.linspace(-2, 2, width)[None] + 0.01
    other = torch.cat([x[:, :1], x[:, 1:].flip(1) + 0.3], 1)
    y, again, changed = (_with_slope(f, v)[0] for v in (x, x, other))
    return y.shape == x.shape and torch.equal(y, again) and bool(torch.allclose(y[:, 0], changed[:, 0]))


def units(
    f: nn.Module, rest: Rest, mean: float, variance: float, covariance: float, width: int, tokens: int
) -> tuple[float, float]:
    """(share of the units of an activation that are dead, share of its outputs that rest), as `rest` has it.

    A unit has an offset that all its tokens share, from biases and from what the tokens have in common, and numbers of
    its own around it: it is dead where it rests on every one of the tokens. NaN where nothing can be said.
    """
    if not math.isfinite(mean + variance) or _has_numbers(f) or not _alone(f, width):
        return math.nan, math.nan
    shared = min(max(covariance, 0.0), variance)
    z, weights, _ = _grid()
    z, weights = z[::8], weights[::8] / weights[::8].sum()
    own = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)
    points = mean + math.sqrt(shared) * z[:, None] + math.sqrt(variance - shared) * own
    with torch.no_grad():
        rests = rest.resting(f(points.float()[..., None])[..., 0]).double().mean(1)
    return float(weights @ rests**tokens), float(weights @ rests)


@cache
def _grid() -> tuple[Tensor, Tensor, Tensor]:
    """Points, their weights, and the normed Hermite polynomials there, (POINTS, DEGREE)."""
    width = 2 * REACH / POINTS
    z = (torch.arange(POINTS, dtype=torch.float64) + 0.5) * width - REACH
    weights = torch.exp(-z * z / 2)
    columns = [torch.ones_like(z), z]
    for k in range(1, DEGREE - 1):
        columns.append((z * columns[k] - math.sqrt(k) * columns[k - 1]) / math.sqrt(k + 1))
    return z, weights / weights.sum(), torch.stack(columns, 1)
