"""The signal through depth: finite everywhere, neither vanishing nor exploding on its way up or the gradient's down."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from nanogpt.observers.checks.case import Case, layer_of
from nanogpt.observers.checks.limits import LIMITS, level, level_below
from nanogpt.observers.findings import Finding
from nanogpt.observers.store import KINDS, STATISTICS

FINITE = [STATISTICS.index(name) for name in ("mean", "std", "min", "max", "norm")]
"""Columns that are numbers whenever what they describe is."""


def not_finite(case: Case) -> list[Finding]:
    """Weights, activations, gradients that are not numbers: one finding a layer."""
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        for name, row in zip(case.last.names.get(kind, []), case.last.arrays.get(f"{kind}/moments", []), strict=False):
            if np.isnan(row[FINITE]).any() or np.isinf(row[FINITE]).any():
                found.setdefault(layer_of(name), []).append(f"{kind.replace('_', ' ')} of {name}")
    cure = f"go back to the last checkpoint with {case.cures.slower(10)}"
    return [
        Finding("bad", where, f"not finite: {names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}", cure, 1e9)
        for where, names in found.items()
    ]


def gradients(case: Case) -> list[Finding]:
    """The gradient of the activations at the first layer over that at the last."""
    names, std = case.depth("activation_gradients", "std")
    if case.last.step == 0 and not std.any():  # a head that starts at zero sends nothing down, until the first step
        return []
    return list(_through(case, names, std[::-1], "gradient", down=True))


def activations(case: Case) -> list[Finding]:
    """The size of the signal at the last layer over that at the first."""
    names, std = case.depth("activations", "std")
    residual = case.last.names.get("stream") and "residual=none" not in str(case.settings.get("model.layout"))
    return list(_through(case, names, std, "stream" if residual else "activation", down=False))


def _through(case: Case, names: list[str], std: np.ndarray, limit: str, *, down: bool) -> Iterator[Finding]:
    """`std` in the direction of travel. What shrinks or grows by too much from its start to its end."""
    if len(std) < 2 or not std[0] > 0:
        return
    what, start, end = ("gradient", names[-1], names[0]) if down else ("signal", names[0], names[-1])
    ratio = float(std[-1] / std[0])
    if ratio == 0:
        words = f"no {what} arrives: it is zero at {end}, and {std[0]:.1e} at {start}"
        silent = [unit.name for unit in case.last.units if unit.count and not case.last.active(unit.name).any()]
        if silent:  # said after what it comes from
            yield Finding("bad", end, f"{words}; {silent[0]}, which is dead, lets none through", "", 0.0)
        else:
            yield Finding("bad", end, words, case.cures.initialisation(), 1e6)
        return
    size = max(ratio, 1 / ratio)
    how = level(size, limit)
    if how == "good" or (limit == "stream" and ratio < 1):
        return
    factor = ratio ** (1 / (len(std) - 1))
    verb = ("vanishes" if ratio < 1 else "explodes") if down else ("fades" if ratio < 1 else "grows")
    words = f"the {what} {verb}: times {factor:.2g} a layer, {std[0]:.1e} at {start}, {std[-1]:.1e} at {end}"
    yield Finding(how, end, words, case.cures.initialisation(), math.log(size) / math.log(LIMITS[limit].warn))


def idle_blocks(case: Case) -> list[Finding]:
    """Blocks that add nothing to the residual stream, once training has had its time."""
    if not case.grown or "stream/share" not in case.last.arrays:
        return []
    found = []
    for name, share in zip(case.last.names.get("stream", []), case.last.arrays["stream/share"].tolist(), strict=False):
        how = level_below(share, "adds nothing") if math.isfinite(share) else "good"
        if how != "good":
            words = f"it adds {share:.2%} of what is there: the stream runs past it"
            cure = "fewer layers (model.n_layers)" if case.cures.ours else "leave it out, or give it a larger start"
            found.append(Finding(how, name, words, cure, LIMITS["adds nothing"].warn / max(share, 1e-9)))
    return found
