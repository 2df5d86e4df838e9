"""How a network fares, from what was observed: a conclusion for each ailment, and for each layer that has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nanogpt.observers.checks.attention import heads
from nanogpt.observers.checks.case import Case, layer_of
from nanogpt.observers.checks.neurons import dead_units, lopsided_units, saturation
from nanogpt.observers.checks.output import calibration
from nanogpt.observers.checks.signal import activations, gradients, idle_blocks, not_finite
from nanogpt.observers.checks.updates import rates
from nanogpt.observers.findings import Finding, worst_first
from nanogpt.observers.store import Layers

CHECKS: dict[str, Callable[[Case], list[Finding]]] = {
    "what is finite": not_finite,
    "dead neurons": dead_units,
    "how often neurons are active": lopsided_units,
    "saturation": saturation,
    "gradients through depth": gradients,
    "activations through depth": activations,
    "what blocks add": idle_blocks,
    "updates": rates,
    "attention": heads,
    "calibration": calibration,
}
"""What is looked for (observers/checks/); limits and their sources are in checks/limits.py."""


def health(layers: Layers, settings: Mapping[str, Any] | None = None) -> list[Finding]:
    """Everything that is ill, and every layer that is well, worst first; [] where nothing was observed.

    settings: `Run.settings()`, so that cures name what to type. What cannot be judged, because an array is missing or
    damaged, gets a line in `layers.problems`.
    """
    if not layers.seen:
        return []
    case = Case(layers, settings or {})
    found: list[Finding] = []
    for what, check in CHECKS.items():
        try:
            found += check(case)
        except (ValueError, KeyError, IndexError, TypeError) as error:  # a foreign or damaged file: read on
            layers.problems.append(f"step {case.last.step}: {what} cannot be judged ({type(error).__name__}: {error})")
    ill = {layer_of(finding.where) for finding in found}
    found += [Finding("good", name, "well") for name in case.names if name not in ill]
    return worst_first(found)
