"""What the pictures draw: one run, read once, as far as it can be read, with a word for what could not be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nanogpt.errors import UserError
from nanogpt.observers.store import Layers
from nanogpt.runs import Run
from nanogpt.tokenizers import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from nanogpt.cost import Cost

Numbers: TypeAlias = NDArray[np.float64]


class Source:
    """A run as the pictures see it. `number` is its place among those that are drawn together, `name` tells it from
    the others."""

    def __init__(self, run: Run, number: int = 0, name: str | None = None) -> None:
        self.run, self.number, self.name = run, number, name or run.name
        self.problems: list[str] = []
        self.layers = Layers(run.path)
        self.problems += [*self._opened(), *self._try(self.run.unread, [])]
        self._series: dict[tuple[str, str], Numbers] = {}
        self._columns: dict[str, Numbers] = {}

    def _opened(self) -> list[str]:
        """Read the observations, and say what could not be."""
        if self.run.layers.exists() and not self.run.layers.is_dir():
            return [f"{self.run.layers}: not a folder"]
        _ = self.layers.seen
        return self.layers.problems

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl"""
        return self._try(self.run.metrics, []) or []

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        return [row for row in self._try(self.run.samples, []) if isinstance(row.get("text"), str)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        return self._try(self.run.settings, {})

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._try(self.run.environment, {})

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """None where the run has none, or a damaged one."""
        if not self.run.tokenizer_path.exists():
            return None
        return self._try(lambda: load_tokenizer(self.run.tokenizer_path), None)

    @cached_property
    def cost(self) -> Cost | None:
        """Parameters and operations, counted from the configuration; None for a module that is not ours."""
        if "model.dim" not in self.settings:
            return None
        from nanogpt.cost import cost

        def count() -> Cost:
            with self.run.own_parts():
                return cost(self.run.config().model)

        return self._try(count, None)

    def series(self, kind: str, statistic: str) -> Numbers:
        """`Layers.series`, worked out once: (observations, names)."""
        key = (kind, statistic)
        if key not in self._series:
            self._series[key] = self.layers.series(kind, statistic)
        return self._series[key]

    def column(self, key: str) -> Numbers:
        """One number of every row of metrics.jsonl, NaN where it is not there or not a number."""
        if key not in self._columns:
            self._columns[key] = np.array([_number(row.get(key)) for row in self.rows], float)
        return self._columns[key]

    def keys(self) -> list[str]:
        """Names of the numbers in metrics.jsonl, in the order of their first row."""
        return list(dict.fromkeys(k for row in self.rows for k, v in row.items() if not math.isnan(_number(v))))

    @property
    def steps(self) -> list[int]:
        """Of the observations."""
        return self.layers.steps

    def _try(self, read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.problems.append(" ".join(str(error).split()) or type(error).__name__)
            return otherwise


Runs: TypeAlias = "Run | Source | str | Path | Iterable[Run | Source | str | Path]"


def sources(runs: Runs) -> list[Source]:
    """One run or several, given as runs, folders, or what this function answered."""
    given: Sequence[Any] = [runs] if isinstance(runs, (Run, Source, str, Path)) else list(runs)
    if not given:
        raise UserError("a picture needs at least one run")
    found = [one if isinstance(one, (Run, Source)) else Run.open(one) for one in given]
    folders = [one.run if isinstance(one, Source) else one for one in found]
    names = distinct([run.path for run in folders])
    return [
        one if isinstance(one, Source) else Source(one, number, name)
        for number, (one, name) in enumerate(zip(found, names, strict=True))
    ]


def distinct(paths: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells it from the others; a number where a run is given twice."""
    whole = [path.resolve().parts for path in paths]
    names = {parts: parts[-1] if parts else "run" for parts in whole}
    for deep in range(2, max(map(len, whole), default=0) + 1):
        there = list(names.values())
        names = {parts: "/".join(parts[-deep:]) if there.count(name) > 1 else name for parts, name in names.items()}
    return [
        names[parts] + (f" ({whole[:n].count(parts) + 1})" if whole.count(parts) > 1 else "")
        for n, parts in enumerate(whole)
    ]


def differences(found: Sequence[Source]) -> dict[str, list[Any]]:
    """Settings in which runs differ: key -> the value of each, None where a run has no such setting."""
    keys = dict.fromkeys(key for one in found for key in one.settings)
    rows = {key: [one.settings.get(key) for one in found] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


__all__ = ["Numbers", "Runs", "Source", "differences", "distinct", "sources"]
