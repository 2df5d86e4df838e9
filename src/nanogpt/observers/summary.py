"""The health of a run as numbers and words: what `nanogpt inspect` shows, and its --json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nanogpt.observers.checks.case import Case, layer_of
from nanogpt.observers.checks.neurons import deaths
from nanogpt.observers.checks.updates import ratios
from nanogpt.observers.findings import ORDER, Finding
from nanogpt.observers.health import health
from nanogpt.observers.store import Layers, Observation

WORDS = {"bad": "ill", "warn": "look", "good": "well"}
"""A level as a verdict; `look` is what someone should look at."""


def summary(layers: Layers, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One JSON object: verdict, totals, a row for each layer worst first, all findings worst first. Numbers that are
    missing or not finite are None. Something must have been observed."""
    findings = health(layers, settings)
    case = Case(layers, settings)
    rows = _rows(case, findings)
    levels = [row["level"] for row in rows]
    neurons = [row for row in rows if row["neurons"]]
    return {
        "verdict": WORDS[min((f.level for f in findings), key=ORDER.__getitem__, default="good")],
        "step": case.last.step,
        "steps": case.steps,
        "observations": len(layers.seen),
        "layers_ill": levels.count("bad"),
        "layers_to_look_at": levels.count("warn"),
        "layers_well": levels.count("good"),
        "neurons": sum(row["neurons"] for row in neurons),
        "dead": sum(row["dead"] for row in neurons),
        "came_back": sum(row["came_back"] for row in neurons),
        "unseen": [str(name) for name in case.last.facts.get("unseen") or []],
        "loss_first": _loss(layers.seen[0]),
        "loss": _loss(case.last),
        "layers": rows,
        "findings": [finding.as_dict() for finding in findings],
    }


def _rows(case: Case, findings: list[Finding]) -> list[dict[str, Any]]:
    """One row for each layer, those with the worst finding first; the well ones in the model's order."""
    worst: dict[str, Finding] = {}
    for finding in findings:  # worst first
        worst.setdefault(layer_of(finding.where), finding)
    died: dict[str, list[int]] = {}
    for unit in case.last.units:
        of = deaths(case, unit)
        counts = died.setdefault(layer_of(unit.name), [0, 0, 0])
        counts[:] = [counts[0] + unit.count, counts[1] + int(of.dead.sum()), counts[2] + of.back]
    steps: dict[str, list[float]] = {}
    for name, values in ratios(case).items():
        if np.isfinite(values).any():
            steps.setdefault(layer_of(name), []).append(float(np.nanmedian(values)))
    rows = []
    for name in case.names:
        neurons, dead, back = died.get(name, (0, 0, 0))
        ratio = float(np.median(steps[name])) if name in steps else 0.0
        rows.append(
            {
                "layer": name,
                "level": worst[name].level if name in worst else "good",
                "neurons": neurons,
                "dead": dead,
                "came_back": back,
                "activation": _size(case, "activations", name),
                "gradient": _size(case, "activation_gradients", name),
                "update_ratio": number(math.log10(ratio)) if ratio > 0 else None,
            }
        )
    return sorted(rows, key=lambda row: _order(worst.get(str(row["layer"]))))


def _order(finding: Finding | None) -> tuple[int, float]:
    """Worst first; what is equally ill, and all that is well, in the model's order."""
    good = finding is None or finding.level == "good"
    return (ORDER["good"], 0.0) if good or finding is None else (ORDER[finding.level], -round(finding.score, 1))


def _loss(seen: Observation) -> float | None:
    values = np.ravel(seen.arrays.get("loss", []))
    return number(values[0]) if values.size else None


def _size(case: Case, kind: str, layer: str) -> float | None:
    """The standard deviation of what comes out of a layer at the last observation."""
    table = case.last.table(kind, "std")
    inside = [name for name in table if layer_of(name) == layer]
    return number(table[layer] if layer in table else table[inside[-1]]) if inside else None


def number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
