"""Updates: how much of itself a matrix changes in a step, beside one part in a thousand (makemore part 3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nanogpt.observers.checks.case import Case, layer_of
from nanogpt.observers.checks.limits import LIMITS, USUAL, level, level_below
from nanogpt.observers.checks.signal import activations, gradients
from nanogpt.observers.findings import Finding, Level


def ratios(case: Case) -> dict[str, NDArray[np.float64]]:
    """Matrix -> norm of its update over its own norm, at every observation after a step; NaN where there is none.

    Vectors are left out: a bias starts at zero and a gain at one, and neither has a size to compare with.
    """
    layers = case.layers
    first: dict[str, tuple[float, float]] = {}
    for one in case.layers.seen:
        for name, std in one.table("weights", "std").items():
            first.setdefault(name, (std, one.table("weights", "mean")[name]))
    names = layers.names("updates")
    updates = dict(zip(names, layers.series("updates", "norm").T, strict=True))
    weights = dict(zip(layers.names("weights"), layers.series("weights", "norm").T, strict=True))
    found = {}
    for name in names:
        std, mean = first.get(name, (np.nan, np.nan))
        vector = name.endswith("bias") or (std == 0 and mean != 0)
        if name not in weights or vector:
            continue
        with np.errstate(all="ignore"):
            ratio = updates[name] / weights[name]
        found[name] = np.where(np.isfinite(ratio), ratio, np.nan)
    return found


def rates(case: Case) -> list[Finding]:
    """A learning rate that is too low or too high, for the whole network or for some of its layers.

    Too low: even where the schedule is highest (the upper quartile over time). Too high: for most of the time (the
    median), so that neither a warm-up nor a decay is called ill.
    """
    known = {name: values[np.isfinite(values)] for name, values in ratios(case).items()}
    known = {name: values for name, values in known.items() if values.size}
    if not known or not case.grown:
        return []
    found: list[Finding] = []
    faint = bool(gradients(case) or activations(case))  # then updates are small for want of a signal, not of a rate
    for limit, quantile, judge in (("too low", 75, level_below), ("too high", 50, level)):
        if faint and limit == "too low":
            continue
        typical = {name: float(np.percentile(values, quantile)) for name, values in known.items()}
        ill = {name: value for name, value in typical.items() if judge(value, limit) != "good"}
        if 2 * len(ill) > len(typical):
            found.append(_finding(case, "", limit, float(np.median(list(ill.values()))), judge))
            continue
        layers: dict[str, dict[str, float]] = {}
        for name, value in ill.items():
            layers.setdefault(layer_of(name), {})[name] = value
        for values in layers.values():
            worst = max(values, key=lambda name: abs(math.log(max(values[name], 1e-30) / USUAL)))
            found.append(_finding(case, worst, limit, values[worst], judge))
    return found


def _finding(case: Case, where: str, limit: str, ratio: float, judge: Callable[[float, str], Level]) -> Finding:
    how = judge(ratio, limit)
    if ratio == 0:
        return Finding("bad", where, "its weights never change: no update at any step", _unmoved(case), 1e3)
    times = ratio / USUAL
    many = f"{_round(max(times, 1 / times)):,} times too {'small' if times < 1 else 'large'}"
    subject = "most matrices change" if not where else "it changes"
    words = f"{subject} by 10^{math.log10(ratio):.1f} of themselves a step, beside the usual 10^-3: lr about {many}"
    cure = case.cures.rate(1 / times) if not where or limit == "too high" else case.cures.initialisation()
    distance = abs(math.log10(ratio / LIMITS[limit].warn))
    return Finding(how, where, words, cure, 1 + distance)


def _unmoved(case: Case) -> str:
    return "is it in the optimizer, and does it get a gradient?" if not case.cures.ours else case.cures.rate(10)


def _round(number: float) -> int:
    """To one digit: 'about 30 times'."""
    size = 10 ** math.floor(math.log10(max(number, 1)))
    return int(round(number / size) * size)
