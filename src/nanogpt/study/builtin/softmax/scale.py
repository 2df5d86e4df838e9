"""Softmax is shift-invariant and scale-sensitive: p(z + c) = p(z), but p(c z) is another distribution for every c > 0.

The scale is the inverse temperature, p = softmax(z / T). N rows, V classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.study.builtin.models import writer
from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series

EXAMPLE = (1.0, 2.0, 3.0)
GRID = np.logspace(-2, 2, 81)
"""Temperatures."""
TOKENS = 4000
SMALLEST = 1e-8
"""Norms that are drawn: a double is exact to 1e-16, and these are roots."""


def entropy(z_NV: Tensor, T: float) -> Tensor:
    """H of softmax(z / T) in nats, (N,). It rises with T: dH/dT = Var_p[z] / T^3."""
    return torch.special.entr((z_NV / T).softmax(-1)).sum(-1)


def jacobian_norm(z_NV: Tensor, T: float) -> Tensor:
    """Frobenius norm of dp/dz = (diag p - p p^T) / T, (N,). It vanishes at both ends: as 1/T where p is even, and since
    p (1 - p) does where p is a step."""
    p = (z_NV / T).softmax(-1)
    two, three = p.square().sum(-1), p.pow(3).sum(-1)
    return (two - 2 * three + two.square()).clamp(min=0).sqrt() / T


def loss_gradient_norm(z_NV: Tensor, y_N: Tensor, T: float) -> Tensor:
    """Norm of the gradient of -log p_y by z, (p - y) / T, (N,): where the first choice is wrong the logarithm keeps it
    from vanishing as T falls."""
    p = (z_NV / T).softmax(-1)
    return (p - F.one_hot(y_N, z_NV.shape[-1])).norm(dim=-1) / T


def shift_and_scale(study: Study) -> Measurement:
    """Both words, on random logits, and on (1, 2, 3) where the numbers are known."""
    random = torch.Generator().manual_seed(1)
    z_NV = 3 * torch.randn(10_000, 50, generator=random, dtype=torch.double)
    p_NV = z_NV.softmax(1)
    shifts = np.linspace(-1000, 1000, 41)
    moved = max(float(((z_NV + c).softmax(1) - p_NV).abs().max()) for c in shifts)
    doubled = float(((2 * z_NV).softmax(1) - p_NV).abs().max())
    z = torch.tensor(EXAMPLE, dtype=torch.double)
    scales = np.logspace(-2, 1.5, 71)
    scaled = np.array([(c * z).softmax(0).tolist() for c in scales])
    shifted = np.array([(z + c).softmax(0).tolist() for c in shifts])
    known = {
        f"softmax({c:g} (1, 2, 3)), class {i + 1}": float((c * z).softmax(0)[i]) for c in (0.1, 10) for i in range(3)
    }
    return Measurement(
        numbers={"largest change of a probability by a shift of up to 1,000": moved,
                 "largest change of a probability by a factor of 2": doubled, **known},
        findings=[f"Softmax is shift-invariant: shifts of up to 1,000 change no probability by more than {moved:.1g}. "
                  f"It is not scale-invariant: a factor of 2 changes one by {doubled:.2f}."],
        charts=[
            Chart("Shifted logits: the same distribution", "softmax of (1, 2, 3) + c.", "shift c", "probability",
                  [Series(f"class {i + 1}", shifts.tolist(), shifted[:, i].tolist()) for i in range(3)]),
            Chart("Scaled logits: from even to a step", "softmax of c (1, 2, 3): c is the inverse temperature.",
                  "scale c", "probability",
                  [Series(f"class {i + 1}", scales.tolist(), scaled[:, i].tolist()) for i in range(3)], log_x=True),
        ],
    )  # fmt: skip


def temperature(study: Study) -> Measurement:
    """From a step to the uniform distribution, on a trained model's own logits."""
    logits, y = writer(study).logits("test", TOKENS)
    z = logits.double()
    wrong = z.argmax(1) != y
    H = [float(entropy(z, T).mean()) for T in GRID]
    J = [float(jacobian_norm(z, T).median()) for T in GRID]  # a mean would be that of the few near ties
    if_wrong, if_right = (
        [float(loss_gradient_norm(z[rows], y[rows], T).median()) for T in GRID] for rows in (wrong, ~wrong)
    )
    even, top = float(np.log(z.shape[1])), float(GRID[int(np.argmax(J))])
    moved = max(float(((z / T).argmax(1) != z.argmax(1)).double().mean()) for T in GRID)
    numbers = {
        "share of ln V that is entropy at T = 0.01": H[0] / even,
        "share of ln V that is entropy at T = 100": H[-1] / even,
        "smallest rise of the entropy from one T to the next": float(np.diff(H).min()),
        "share of first choices that a temperature changes": moved,
        "T of the largest dp/dz": top,
        "dp/dz at T = 0.01, share of the largest": J[0] / max(J),
        "dp/dz at T = 100, share of the largest": J[-1] / max(J),
    }
    says = (
        f"On a trained model's logits ({len(z):,} tokens) entropy rises all the way, from {H[0]:.3f} to {H[-1]:.3f} "
        f"of ln V = {even:.3f} nats, and no first choice changes. The median dp/dz is largest at T = {top:.2f} and "
        f"falls to {100 * J[0] / max(J):.1f}% of that at T = 0.01 and {100 * J[-1] / max(J):.1f}% at T = 100. That of "
        f"the loss vanishes at T = 0.01 only where the first choice is right ({if_right[0]:.2g}); where it is wrong "
        f"the logarithm undoes the exponential and it is {if_wrong[0]:.3g}."
    )
    T = GRID.tolist()
    return Measurement(
        numbers,
        [says],
        [
            Chart("Entropy by temperature",
                  "Mean over a trained model's predictions; dotted: ln V, the uniform distribution.",
                  "temperature T", "entropy (nats)",
                  [Series("entropy", T, H), Series("uniform", [T[0], T[-1]], [even, even], dash="dot")], log_x=True),
            Chart("Gradients by temperature",
                  "Median norm of dp/dz, and of the gradient of the loss by the logits z, where the first choice is "
                  "right and where it is wrong.",
                  "temperature T", "norm",
                  [Series("dp/dz", T, _drawn(J)), Series("loss, right", T, _drawn(if_right)),
                   Series("loss, wrong", T, _drawn(if_wrong))],
                  log_x=True, log_y=True),
        ],
    )  # fmt: skip


def _drawn(values: list[float]) -> list[float | None]:
    """What a figure shows of a norm: below the limit it is rounding."""
    return [value if value > SMALLEST else None for value in values]
