"""The life of each neuron: which are dead, when they died, whether they came back.

What counts as active is told where it is counted (look.py); here are shares of the probe's tokens, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogpt.observers.store import Layers

STATES = ("dead", "rare", "normal", "always")
"""Words for the codes of `states`: never active; on less than RARE of the tokens; in between; on every one."""
RARE = 0.01


def states(active: NDArray[np.float64]) -> NDArray[np.int8]:
    """Shares of tokens, of any shape -> codes, places in STATES; -1 where it was not observed (NaN)."""
    codes = np.full(np.shape(active), 2, np.int8)
    codes[active < RARE] = 1
    codes[active <= 0] = 0
    codes[active >= 1] = 3
    codes[np.isnan(active)] = -1
    return codes


@dataclass(frozen=True)
class History:
    """One neuron that was dead at some time. Steps are those of observations."""

    layer: str
    unit: int
    died: int
    """Step at which it was first seen dead; that of the first observation: dead at birth."""
    back: int | None
    """Step at which it was first seen active again after that; None: never."""
    dead: bool
    """Whether it is dead in the last observation."""
    deaths: int
    """Times it died."""
    bias: float
    norm: float
    """Its bias and the norm of its incoming weights when it died; NaN where there is none."""


def histories(layers: Layers, name: str) -> list[History]:
    """Of every neuron of the layer `name` that was dead at some time, in order; [] where none was."""
    active = layers.active(name)  # (observations, units)
    there = ~np.isnan(active).any(1) if active.size else np.zeros(len(active), bool)
    steps = np.array(layers.steps)[there]
    dead = active[there] <= 0
    bias, norm = (_values(layers, name, array)[there] for array in ("neurons/bias", "neurons/norm"))
    found = []
    for unit in np.flatnonzero(dead.any(0)):
        line = dead[:, unit]
        first = int(line.argmax())
        after = np.flatnonzero(~line[first:])
        found.append(
            History(
                layer=name,
                unit=int(unit),
                died=int(steps[first]),
                back=int(steps[first + after[0]]) if len(after) else None,
                dead=bool(line[-1]),
                deaths=int(line[0]) + int((line[1:] & ~line[:-1]).sum()),
                bias=float(bias[first, unit]),
                norm=float(norm[first, unit]),
            )
        )
    return found


def _values(layers: Layers, name: str, array: str) -> NDArray[np.float64]:
    """(observations, units); NaN throughout where the array was not observed."""
    try:
        return layers.of_units(name, array)
    except KeyError:
        return np.full_like(layers.active(name), np.nan)
