"""What a model says: how sure it is, whether rightly, and where in a text and on which tokens it errs.

N tokens, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanogpt.observers.store import Observation

CONFIDENCES = 15
"""Bins of the expected calibration error, of equal width: Guo et al. 2017 (arXiv:1706.04599), equation 3."""
PLACES = 64
"""Bins of places in the window, at most."""
TENTHS = 10
"""Bins of tokens by how common they are, each with a tenth of the training text: the first is the commonest."""


def output(seen: Observation, logits_NV: Tensor, targets_N: Tensor, places_N: Tensor, T: int,
           counts_V: Tensor | None) -> None:  # fmt: skip
    """Add `output/...` to an observation; places_N: of each token in its window of T."""
    logs = logits_NV.log_softmax(1)
    sure, said = logs.max(1)
    loss = -logs.gather(1, targets_N[:, None])[:, 0]
    entropy = -torch.linalg.vecdot(logs.exp(), logs.clamp_(min=-1e9)).mean()  # 0 ln 0 is 0
    columns = torch.stack([sure.exp(), (said == targets_N).float(), loss]).double().cpu().numpy()
    places = places_N.cpu().numpy()
    calibrated = calibration(columns[0], columns[1])
    seen.arrays |= {
        "output/entropy": np.array(float(entropy), np.float32),
        "output/error": np.array(error(calibrated), np.float32),
        "output/calibration": calibrated.astype(np.float32),
        "output/position": by(places * min(T, PLACES) // T, columns[2], min(T, PLACES)).astype(np.float32),
    }
    if counts_V is not None:
        tenth_V = tenths(counts_V.cpu().numpy())
        found = by(tenth_V[targets_N.cpu().numpy()], columns[2], TENTHS)
        seen.arrays["output/frequency"] = found.astype(np.float32)


def calibration(sure: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """(15, 3) by confidence: tokens, mean confidence, share that is right; NaN where there are none."""
    bins = np.clip(np.ceil(sure * CONFIDENCES).astype(int) - 1, 0, CONFIDENCES - 1)  # (m - 1)/M < p <= m/M
    return np.concatenate([by(bins, sure, CONFIDENCES)[:, :2], by(bins, right, CONFIDENCES)[:, 1:2]], 1)


def error(calibrated: NDArray[np.float64]) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy, weighted by tokens."""
    tokens, sure, right = calibrated.T
    return float(np.nansum(tokens * np.abs(sure - right)) / max(1.0, tokens.sum()))


def by(bins: NDArray[np.int64], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(count, 3): how many values fall into each bin, their mean, and its standard error; NaN where there are none, or
    for the error one."""
    there = np.bincount(bins, minlength=count)
    known, more = np.where(there > 0, there, np.nan), np.where(there > 1, there, np.nan)
    mean = np.bincount(bins, values, minlength=count) / known
    spread = np.bincount(bins, (values - mean[bins]) ** 2, minlength=count) / (more - 1)
    return np.stack([there, mean, np.sqrt(spread / more)], 1)


def tenths(counts_V: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which tenth of the text each token belongs to, the commonest tokens first, (V,)."""
    order = np.argsort(-counts_V, kind="stable")
    sorted_counts = counts_V[order]
    before = np.cumsum(sorted_counts) - sorted_counts
    which = np.empty(len(counts_V), np.int64)
    which[order] = np.minimum(before * TENTHS // max(1, int(counts_V.sum())), TENTHS - 1)
    return which
