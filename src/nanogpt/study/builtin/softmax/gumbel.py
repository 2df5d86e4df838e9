"""Gumbel noise: the arg max of z + G is a draw from softmax(z), and no other noise does it.

Gumbel 1954; Yellott 1977 (Luce's choice is Gumbel noise and no other); the top k are k draws without replacement (Kool
et al. 2019, arXiv:1903.06059), whose order is Plackett and Luce's.
"""

from __future__ import annotations

from itertools import permutations
from math import pi, prod, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import integrate, stats
from torch import Tensor

from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series

LOGITS = (0.0, 1.0, 2.0)
STD = pi / sqrt(6)
"""Of a standard Gumbel variable."""
DRAWS, QUICK, FEW = 1_000_000, 200_000, 100_000
ITEMS, TOP = (0.0, 0.5, 1.0, 1.5, 2.0), 3


def gumbel(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """-log E with E exponential: standard Gumbel variables, fp64."""
    return -torch.empty(shape, dtype=torch.double).exponential_(generator=random).log()


def gaussian_shares(z: tuple[float, ...], std: float = STD) -> NDArray[np.float64]:
    """How often each z_i + e_i is the largest with e ~ N(0, std^2): int phi(x) prod_j Phi(x + (z_i - z_j) / std) dx."""

    def share(i: int) -> float:
        gaps = [(z[i] - other) / std for j, other in enumerate(z) if j != i]
        value = integrate.quad(lambda x: stats.norm.pdf(x) * prod(stats.norm.cdf(x + g) for g in gaps), -12, 12)[0]
        return float(value)

    return np.array([share(i) for i in range(len(z))])


def plackett_luce(p: NDArray[np.float64], k: int) -> dict[tuple[int, ...], float]:
    """Probability of each ordered draw of k without replacement: prod_n p_n / (1 - what was drawn before)."""

    def chance(order: tuple[int, ...]) -> float:
        left, value = 1.0, 1.0
        for item in order:
            value *= p[item] / left
            left -= p[item]
        return float(value)

    return {order: chance(order) for order in permutations(range(len(p)), k)}


def softmax(z: tuple[float, ...]) -> NDArray[np.float64]:
    return torch.tensor(z, dtype=torch.double).softmax(0).numpy()


def fit(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """p value of a chi-square test that counts come from these shares."""
    return float(stats.chisquare(counts, shares / shares.sum() * counts.sum()).pvalue)


def small(p: float) -> str:
    """A p value that may be too small for a float."""
    return f"= {p:.1g}" if p > 0 else "< 1e-300"


def gumbel_max(study: Study) -> Measurement:
    """One draw: Gumbel noise against Gaussian noise of the same variance."""
    draws = QUICK if study.quick else DRAWS
    random = torch.Generator().manual_seed(1)
    z = torch.tensor(LOGITS, dtype=torch.double)
    noisy = z + gumbel((draws, 3), random)
    counts = np.bincount(noisy.argmax(1).numpy(), minlength=3)
    other = z + STD * torch.randn(FEW, 3, generator=random, dtype=torch.double)
    gaussian = np.bincount(other.argmax(1).numpy(), minlength=3)
    p, q, bell = fit(counts, softmax(LOGITS)), fit(gaussian, softmax(LOGITS)), gaussian_shares(LOGITS)
    largest = noisy.max(1).values
    mean, error = float(largest.mean()), float(largest.std()) / draws**0.5
    gap = gumbel((FEW,), random) - gumbel((FEW,), random)
    classes = [f"z = {z:g}" for z in LOGITS]
    exact = {f"softmax, {c}": float(s) for c, s in zip(classes, softmax(LOGITS), strict=True)}
    exact |= {f"Gaussian noise, {c}": float(s) for c, s in zip(classes, bell, strict=True)}
    return Measurement(
        numbers={"p value, Gumbel noise": p, "p value, Gaussian noise": q, "mean of the largest": mean,
                 "p value, difference of two Gumbels is logistic": float(stats.kstest(gap.numpy(), "logistic").pvalue),
                 **exact},
        findings=[f"The arg max of logits plus Gumbel noise is not told from softmax in {draws:,} draws (chi-square, "
                  f"p = {p:.2f}); with Gaussian noise of the same variance it is in {FEW:,} (p {small(q)}). The "
                  f"largest is {mean:.4f} ± {error:.4f} on average; logsumexp(z) + 0.5772 = "
                  f"{float(z.logsumexp(0)) + np.euler_gamma:.4f}."],
        charts=[Chart("Which noise samples the softmax",
                      f"Share of arg max(z + noise), less softmax(z); {draws:,} draws with Gumbel noise, {FEW:,} with "
                      "Gaussian noise of the same variance. Bars are 95% intervals.",
                      "class", "share less softmax", [
                          _off("Gumbel noise", classes, counts), _off("Gaussian noise", classes, gaussian),
                          Series("Gaussian noise, calculated", classes, (bell - softmax(LOGITS)).tolist(), dash="dot"),
                      ], kind="points")],
    )  # fmt: skip


def _off(name: str, classes: list[str], counts: NDArray[np.int64]) -> Series:
    """How far shares are from the softmax, with their 95% intervals."""
    share = counts / counts.sum()
    half = 1.96 * np.sqrt(share * (1 - share) / counts.sum())
    off = share - softmax(LOGITS)
    return Series(name, classes, off.tolist(), low=(off - half).tolist(), high=(off + half).tolist())


def gumbel_top_k(study: Study) -> Measurement:
    """The k largest of z + G, in their order, against Plackett and Luce; and k draws with replacement, for contrast."""
    draws = QUICK if study.quick else DRAWS
    random = torch.Generator().manual_seed(2)
    z = torch.tensor(ITEMS, dtype=torch.double)
    expected = plackett_luce(softmax(ITEMS), TOP)
    base = len(ITEMS) ** np.arange(TOP)[::-1]
    codes = [int(np.dot(order, base)) for order in expected]

    def counted(chosen_NK: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.bincount(chosen_NK @ base, minlength=len(ITEMS) ** TOP)[codes]
        return found

    top = (z + gumbel((draws, len(ITEMS)), random)).topk(TOP).indices.numpy()
    again = torch.multinomial(z.softmax(0), draws * TOP, replacement=True, generator=random).view(draws, TOP).numpy()
    shares, counts, replaced = np.array(list(expected.values())), counted(top), counted(again)
    p, q, kept = fit(counts, shares), fit(replaced, shares), float(replaced.sum() / draws)
    return Measurement(
        numbers={"p value, Gumbel top-k": p, "p value, with replacement": q},
        findings=[f"The {TOP} largest of {len(ITEMS)} logits plus Gumbel noise come in all {len(codes)} orders as "
                  f"often as draws without replacement do (chi-square, {draws:,} draws, p = {p:.2f}). Draws with "
                  f"replacement of which those without a repeat are kept ({100 * kept:.0f}%) do not (p {small(q)})."],
        charts=[Chart("Gumbel top-k is sampling without replacement",
                      "Each point is an order of three of the five: how often it is drawn, against Plackett and "
                      "Luce; on the diagonal both are equal.",
                      "probability without replacement", "share of draws", [
                          Series("Gumbel top-k", shares.tolist(), (counts / draws).tolist()),
                          Series("with replacement, no repeats", shares.tolist(), (replaced / replaced.sum()).tolist()),
                      ], kind="points")],
    )  # fmt: skip
