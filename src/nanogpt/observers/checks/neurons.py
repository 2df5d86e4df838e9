"""Neurons: dead ones, rarely active ones, those that never rest, saturation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogpt.observers.checks.case import Case
from nanogpt.observers.checks.limits import RARE, level, worse
from nanogpt.observers.findings import Finding
from nanogpt.observers.store import STATISTICS, Units

MEANS = {"rectified": "zero", "bounded": "saturated", "smooth": "nearly zero"}
"""What a dead unit's output is, on every token of the probe."""


@dataclass(frozen=True)
class Deaths:
    """When the units of one layer died. All arrays are (units,)."""

    dead: NDArray[np.bool_]
    """At the last observation."""
    since: NDArray[np.int64]
    """Step of the first observation from which on it was dead throughout; -1 for one that is alive."""
    back: int
    """Units that were dead at an earlier observation and are not now."""
    born: int
    """Of the dead, those that were so at the first observation already."""

    @staticmethod
    def of(active: NDArray[np.float64], steps: list[int]) -> Deaths:
        """active: (observations, units), tokens of the probe; NaN where it was not observed."""
        known = np.isfinite(active).all(1)
        if not known.any():
            none = np.zeros(active.shape[1], bool)
            return Deaths(none, np.full(active.shape[1], -1), 0, 0)
        dead = active[known] == 0
        alive_after = np.where(dead.all(0), 0, len(dead) - np.argmin(dead[::-1], axis=0))
        when = np.array([*np.array(steps)[known], -1])
        since = np.where(dead[-1], when[np.minimum(alive_after, len(dead))], -1)
        back = int((dead.any(0) & ~dead[-1]).sum())
        return Deaths(dead[-1], since, back, int(dead.all(0).sum()))


def deaths(case: Case, unit: Units) -> Deaths:
    return Deaths.of(case.layers.of_units(unit.name, "neurons/active"), case.layers.steps)


def dead_units(case: Case) -> list[Finding]:
    found = []
    for unit in case.last.units:
        if unit.kind == "bounded" and unit.name == case.output:  # a classifier that has become sure of itself
            continue
        died = deaths(case, unit)
        count = int(died.dead.sum())
        share = count / max(1, unit.count)
        how = level(share, "dead")
        if how == "good":
            continue
        words = f"{count:,} of {unit.count:,} neurons are dead ({share:.0%}): {MEANS.get(unit.kind, 'zero')} on every "
        words += f"token; {_when(died, count, case.layers.steps[0])}{_back(died)}{_how(case, unit, died)}"
        found.append(Finding(how, unit.name, words, _cure(case, unit, died, count), worse(share, "dead")))
    return found


def _when(died: Deaths, count: int, first: int) -> str:
    born = "before training" if first == 0 else f"at the first look, step {first}"
    if died.born == count:
        return f"all were so {born}"
    later = died.since[died.dead & (died.since > first)]
    low, high = (int(np.percentile(later, q)) for q in (10, 90))
    span = f"in step {low}" if low == high else f"between steps {low} and {high}"
    return f"{died.born:,} were so {born}, the others died {span}" if died.born else f"they died {span}"


def _back(died: Deaths) -> str:
    return f"; {died.back:,} others had died and came back" if died.back else ""


def _how(case: Case, unit: Units, died: Deaths) -> str:
    """The bias and the norm of the incoming weights when they died, beside those of the living."""
    row = {step: n for n, step in enumerate(case.layers.steps)}
    parts = []
    for array, word in (("neurons/bias", "bias"), ("neurons/norm", "incoming norm")):
        if any(array not in one.arrays for one in case.layers.seen):
            continue
        values = case.layers.of_units(unit.name, array)
        then = np.array([values[row[int(step)], n] for n, step in enumerate(died.since) if step >= 0])
        then, others = then[np.isfinite(then)], values[-1][~died.dead & np.isfinite(values[-1])]
        if then.size and then.any():
            beside = f" (the living: {np.median(others):.2g})" if others.size else ""
            parts.append(f"{word} {np.median(then):.2g}{beside}")
    return f"; when they died: {', '.join(parts)}" if parts else ""


def _cure(case: Case, unit: Units, died: Deaths, count: int) -> str:
    """Dead from the start: another start. Died on the way: smaller steps. Either way an activation that cannot die."""
    first = case.cures.initialisation() if 2 * died.born >= count else case.cures.slower(3)
    return f"{first}, or {case.cures.activation(unit.name)}"


def lopsided_units(case: Case) -> list[Finding]:
    """Rectified units that hardly ever, or always, let something through."""
    found = []
    for unit in case.last.units:
        if unit.kind != "rectified" or not unit.count:
            continue
        active = case.last.active(unit.name)
        rare = float(((active > 0) & (active < RARE)).mean())
        always = float((active > 1 - RARE).mean())
        if (how := level(rare, "rare")) != "good":
            words = f"{rare:.0%} of the neurons are active on under {RARE:.0%} of tokens"
            found.append(Finding(how, unit.name, words, case.cures.initialisation(), worse(rare, "rare")))
        if (how := level(always, "always")) != "good":
            words = f"{always:.0%} of the neurons are active on every token: there the rectifier is a straight line"
            found.append(Finding(how, unit.name, words, case.cures.initialisation(), worse(always, "always")))
    return found


def saturation(case: Case) -> list[Finding]:
    found = []
    kinds = {unit.name: unit.kind for unit in case.last.units}
    for name, share in case.last.table("activations", STATISTICS[8]).items():
        judged = np.isfinite(share) and kinds.get(name, "bounded") == "bounded" and name != case.output
        how = level(share, "saturated") if judged else "good"
        if how != "good":
            words = f"{share:.0%} of its outputs are saturated, where it has no slope and passes no gradient"
            cure = f"{case.cures.initialisation()}, or {case.cures.activation(name)}"
            found.append(Finding(how, name, words, cure, worse(share, "saturated")))
    return found
