"""What comes out: whether its confidence can be believed."""

from __future__ import annotations

import numpy as np

from nanogpt.observers.checks.case import Case
from nanogpt.observers.checks.limits import level, worse
from nanogpt.observers.findings import Finding


def calibration(case: Case) -> list[Finding]:
    if not case.grown or "output/error" not in case.last.arrays:
        return []
    error = float(case.last.arrays["output/error"])
    how = level(error, "calibration") if np.isfinite(error) else "good"
    if how == "good":
        return []
    sure = _overconfidence(case)
    which = "too sure" if sure > 0 else "too unsure"
    cure = "more text, fewer steps or dropout; sample at --temperature 1.2" if sure > 0 else "train longer"
    words = f"its confidence misses its share of right tokens by {error:.0%} on average: it is {which} of itself"
    return [Finding(how, "output", words, cure, worse(error, "calibration"))]


def _overconfidence(case: Case) -> float:
    """Mean confidence less share that is right, from the table of calibration."""
    table = np.nan_to_num(np.asarray(case.last.arrays.get("output/calibration", np.zeros((1, 3))), float))
    tokens, confidence, right = table[:, 0], table[:, 1], table[:, 2]
    return float((tokens * (confidence - right)).sum())
