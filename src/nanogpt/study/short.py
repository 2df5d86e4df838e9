"""Short forms of a plan: `seeds = 5`, an arm that is only its overrides, and `[grid]`, whose product is the arms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

from pydantic import BaseModel

MOST = 1000
"""Seeds of a claim, and arms."""


def written_out(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with each of them in its long form. ValueError where what is written is of another kind."""
    found = dict(plan)
    if "seeds" in found:
        found["seeds"] = _seeds(found["seeds"])
    arms = {name: _arm(f"arms.{name}", value) for name, value in _table("arms", found.get("arms", {})).items()}
    made = _product(_table("grid", found.pop("grid", {})))
    if both := arms.keys() & made.keys():
        raise ValueError(f"arms.{min(both)}: [grid] makes an arm of this name too")
    if len(arms) + len(made) > MOST:
        raise ValueError(f"arms: {len(arms) + len(made)} of them; at most {MOST}")
    return {**found, "arms": {**arms, **made}}


def _seeds(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if not 1 <= value <= MOST:
        raise ValueError(f"seeds={str(value)[:20]}: from 1 to {MOST}")
    return list(range(1, value + 1))


def _table(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={str(value)[:40]}: should be a table, as in [{key}]")
    return value


def _arm(key: str, value: Any) -> Any:
    if isinstance(value, BaseModel):  # an Arm that was made in Python
        return value
    if isinstance(value, (list, tuple)):
        return {"set": list(value)}
    if isinstance(value, Mapping) and isinstance(value.get("set", []), (list, tuple)):
        return value
    raise ValueError(f'{key}={str(value)[:40]}: should be a list of overrides, or a table of set = ["..."] and more')


def _product(grid: Mapping[str, Any]) -> dict[str, Any]:
    """Every combination of one word from each axis, named `xavier-residual`: settings one after the other, of single
    values the later one."""
    axes = [list(_table(f"grid.{axis}", words).items()) for axis, words in grid.items()]
    if (count := math.prod(map(len, axes))) > MOST:
        raise ValueError(f"grid: {count} arms; at most {MOST}")
    made = {}
    for choice in product(*axes) if axes else ():
        arm: dict[str, Any] = {}
        for word, value in choice:
            more = dict(_arm(f"grid.{word}", value))
            arm = {**arm, **more, "set": [*arm.get("set", []), *more.get("set", [])]}
        made["-".join(word for word, _ in choice)] = arm
    return made
