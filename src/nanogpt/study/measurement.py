"""What a study measures beyond the losses of its arms: numbers, and charts as plain data.

A function named in the plan's `measure` gets the study and answers a `Measurement`. It is kept as JSON beside the runs,
so a report can be drawn again without measuring, and how a chart looks is decided by views/, in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanogpt.errors import UserError, nearest
from nanogpt.parts import user_module

Kind = Literal["lines", "points", "bars", "heatmap"]


@dataclass(frozen=True)
class Series:
    """One line, set of points or bars. x: numbers, or words where the axis is one of names. low, high: a band or an
    interval around y. dash: "dot" for what is predicted or published rather than measured."""

    name: str
    x: Sequence[Any]
    y: Sequence[float | None]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dash: Literal["solid", "dash", "dot"] = "solid"


@dataclass(frozen=True)
class Chart:
    """One figure. title: what it shows, in a few words; text: a sentence or two below it; x, y: axis titles with units.

    heatmap: each series is a row, its name on the y axis, and `z` is the title of the colours.
    """

    title: str
    text: str
    x: str
    y: str
    series: Sequence[Series]
    kind: Kind = "lines"
    z: str = ""
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Measurement:
    """numbers: by the names that the plan's checks use. findings: sentences with the numbers in them. charts: in the
    order of the report."""

    numbers: dict[str, float] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def function(folder: str, name: str) -> Callable[[Any], Measurement]:
    """`FILE.py:NAME` in the folder of a plan. UserError where the file or the function is not there."""
    file, _, attribute = name.partition(":")
    path = Path(folder) / file
    if not path.is_file():
        raise UserError(f"measure={name}: no file {path}")
    module = user_module(path.resolve())
    found = getattr(module, attribute, None)
    if not callable(found):
        there = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UserError(f"measure={name}: {path} has no function '{attribute}'{nearest(attribute, there)}")
    return found
