"""A run under examination: what was observed, its settings, and which rows make one layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.observers.checks.cures import Cures
from nanogpt.observers.checks.limits import GROWN, YOUNG
from nanogpt.observers.store import Layers, Observation

ENDS = ("embed", "position", "norm", "head", "objective")
"""What stands below and above the blocks of our models, each one layer."""
PARAMETER = re.compile(r"(in_proj_)?(weight|bias)(_.+)?")
"""What PyTorch's modules call their parameters: `weight`, `bias_hh_l0`, `in_proj_weight`."""


def layer_of(name: str) -> str:
    """The layer that a module or parameter belongs to: `blocks.3.ffn.up.weight` to `blocks.3`, `head.act` to `head`,
    `net.0.weight` to `net.0`; without a number the module itself, `encoder.fc1.weight` to `encoder.fc1`. An activation
    that a matrix feeds, `relu@fc1`, belongs to where the matrix stands."""
    name, _, fed_by = name.partition(":")[0].partition("#")[0].partition("@")
    if fed_by:
        name = f"{name.rpartition('.')[0]}.{fed_by}".lstrip(".")
    parts = name.split(".")
    numbers = [n for n, part in enumerate(parts) if part.isdigit()]
    if numbers:
        return ".".join(parts[: numbers[0] + 1])
    if parts[0] in ENDS:
        return parts[0]
    own = PARAMETER.fullmatch(parts[-1]) and len(parts) > 1
    return ".".join(parts[:-1] if own else parts)


@dataclass(frozen=True)
class Case:
    """Something was observed: `layers.seen` is not empty. settings: `Run.settings()`, {} where they cannot be read."""

    layers: Layers
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> Observation:
        return self.layers.seen[-1]

    @cached_property
    def cures(self) -> Cures:
        acts = Counter({unit.act: 0 for unit in self.last.units})
        for unit in self.last.units:
            acts[unit.act] += unit.count
        return Cures(self.settings, max(acts, key=acts.__getitem__, default=""))

    @property
    def steps(self) -> int:
        """Of the whole run; as many as were taken where nobody knows."""
        planned = self.settings.get("train.steps", self.settings.get("observed.steps"))
        return planned if isinstance(planned, int) and planned > 0 else self.last.step

    @property
    def grown(self) -> bool:
        """Whether training has had time to make something of the network."""
        return self.last.step >= max(YOUNG, GROWN * self.steps)

    @cached_property
    def names(self) -> list[str]:
        """The layers in the model's order."""
        rows = self.layers.names("activations") + [u.name for u in self.layers.units] + self.layers.names("weights")
        found = list(dict.fromkeys(layer_of(name) for name in rows if name))
        first = {name: n for n, name in reversed(list(enumerate(layer_of(r) for r in self.layers.names("weights"))))}
        return sorted(found, key=lambda name: (first.get(name, _after(found, first, name)), found.index(name)))

    @property
    def output(self) -> str:
        """What the model puts out: the last row, in the order in which they ran."""
        rows = self.layers.names("activations")
        return rows[-1] if rows else ""

    @cached_property
    def chain(self) -> list[str]:
        """The same thing at every depth, from the first to the last: blocks, or else layers of neurons."""
        rows = self.layers.names("activations")
        stream = [name for name in self.layers.names("stream") if name in rows]
        if len(stream) > 1:
            return stream
        units = [unit.name for unit in self.layers.units if unit.name in rows]
        if len(units) > 1:
            return units
        numbered = [name for name in rows if name == layer_of(name) and name.rpartition(".")[2].isdigit()]
        return [name for name in numbered if name != self.output]  # what comes out has a size of its own

    def depth(self, kind: str, statistic: str) -> tuple[list[str], NDArray[np.float64]]:
        """A statistic of the last observation along the chain: names and numbers, without those that are missing."""
        table = self.last.table(kind, statistic)
        pairs = [(name, table[name]) for name in self.chain if np.isfinite(table.get(name, np.nan))]
        return [name for name, _ in pairs], np.array([value for _, value in pairs], float)


def _after(found: list[str], first: Mapping[str, int], name: str) -> float:
    """A place for a layer without weights (an activation in a Sequential): behind the one that comes before it."""
    before = [first[other] for other in found[: found.index(name)] if other in first]
    return max(before, default=-1) + 0.5
