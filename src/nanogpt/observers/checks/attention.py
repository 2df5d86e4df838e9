"""Attention: heads that collapse onto one token, heads that look at all alike, logits that run away."""

from __future__ import annotations

import math
import re

import numpy as np

from nanogpt.observers.checks.case import Case, layer_of
from nanogpt.observers.checks.limits import LATE, LIMITS, level, level_below, worse
from nanogpt.observers.findings import Finding

QUERIES, LONGEST = 16, 1024
"""Queries of a window that are looked at, evenly spaced, and tokens of a window at most (attention.py and probes.py,
which import torch)."""


def heads(case: Case) -> list[Finding]:
    """One finding a layer: a head that looks at one token only, or at all, is ordinary; a layer of them is not."""
    found: list[Finding] = []
    for layer, rows in _layers(case).items():
        entropy, logit = (_take(case, f"attention/{name}", rows) for name in ("entropy", "logit"))
        largest = float(np.max(np.abs(logit))) if logit.size else 0.0
        if (how := level(largest, "logit")) != "good":
            words = f"attention logits reach {largest:,.0f}: the softmax is a hard choice, and its gradient is gone"
            found.append(Finding(how, layer, words, case.cures.attention(), worse(largest, "logit")))
        if not entropy.size or not case.grown:
            continue
        widest = float(entropy.max())
        if (how := level_below(widest, "entropy")) != "good":
            words = f"every head looks at one token only (entropy at most {widest:.3f} nats)"
            score = LIMITS["entropy"].warn / max(1e-6, widest)
            found.append(Finding(how, layer, words, case.cures.attention(), score))
        most = uniform_entropy(case, layer)
        if case.last.step >= LATE and most and float(np.abs(entropy / most - 1).max()) < LIMITS["uniform"].warn:
            words = f"every head looks at all tokens alike (entropy {entropy.min():.2f} of at most {most:.2f} nats)"
            found.append(Finding("warn", layer, words, _wake(case), 1.0))
    return found


def uniform_entropy(case: Case, layer: str) -> float:
    """Of a head that sees all that it may alike, in nats: the mean of ln(tokens that a query sees) over the queries
    that are looked at. 0 where it is not known: another model, or documents of many lengths."""
    context = case.settings.get("model.context")
    mixers = case.settings.get("model.mixer")
    if not isinstance(context, int) or context < 2 or case.settings.get("data.batching") not in ("auto", "stream"):
        return 0.0
    number = int(number) if (number := layer_of(layer).rpartition(".")[2]).isdigit() else 0
    mixer = mixers[number] if isinstance(mixers, list) and number < len(mixers) else str(mixers)
    window = re.search(r"window=(\d+)", str(mixer))
    T = min(context, LONGEST)
    most = int(window[1]) if window and int(window[1]) else T
    count = min(QUERIES, T)
    return sum(math.log(min(most, (k + 1) * T // count)) for k in range(count)) / count


def _layers(case: Case) -> dict[str, list[int]]:
    """`blocks.3.mixer` -> the rows of its heads."""
    found: dict[str, list[int]] = {}
    for row, name in enumerate(case.last.names.get("attention", [])):
        found.setdefault(name.partition(":")[0], []).append(row)
    return found


def _take(case: Case, array: str, rows: list[int]) -> np.ndarray:
    values = np.asarray(case.last.arrays.get(array, []), float)
    kept = values[[row for row in rows if row < len(values)]]
    return kept[np.isfinite(kept)]


def _wake(case: Case) -> str:
    return f"train longer, or {case.cures.rate(3)}"
