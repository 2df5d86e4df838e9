"""What was observed, on disk: `layers/step-000200.npz` in a run's folder, one whole file for each observation.

    about                             JSON: format, step, names of the rows below, tokens of the probe, seconds it took
    loss                              ()       of the probe, nats a token
    KIND/moments                      (N, 9)   float32, columns STATISTICS; KIND is one of KINDS, rows are about's names
    KIND/histogram                    (N, 323) uint16, numbers between EDGES
    neurons/active                    (U,)     uint32, tokens of the probe on which a unit is active
    neurons/bias, neurons/norm        (U,)     float16, its bias and the norm of its incoming weights
    stream/rms, share, cosine         (L,)     after each block; what it added over what is there; and their cosine
    lens/loss, error, agree           (L,)     of what the model would say after each block: its loss, the standard
                                               error of that, and the share of equal top tokens
    lens/tokens, lens/chances         (L, T)   what it would say after each block of one short text, and how surely
    attention/entropy, logit, first   (H,)     by head: nats; the largest logit; weight on the first token
    output/entropy, error             ()       nats; expected calibration error
    output/calibration                (15, 3)  by confidence: tokens, mean confidence, share that is right
    output/position                   (P, 3)   by place in the window: tokens, loss, its standard error
    output/frequency                  (F, 3)   by how common the token is in the text: tokens, loss, its standard error

A file is written beside its place and renamed, so a kill loses one observation and damages none; a run that goes back
to a checkpoint deletes those after it, and one that grows thins them by deleting. Whatever is not there was not
observed (a plain module has no stream). `numpy.load` reads it: no pickle, no code of ours is needed.
"""

from __future__ import annotations

import io
import json
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.runs import LAYERS, LOOK

FORMAT = 2
"""2: histograms in 16 bits, standard errors in output/, the name of each activation. 1 is read as it is."""
KINDS = ("activations", "activation_gradients", "weights", "weight_gradients", "updates")
STATISTICS = ("mean", "std", "skew", "kurtosis", "min", "max", "norm", "zero", "saturated")
"""Columns of moments. kurtosis: 3 for a Gaussian. norm: the square root of the sum of squares. zero, saturated: shares;
saturated is NaN but for an activation that is bounded on both sides."""
OCTAVES = (-32, 8)
EDGES: NDArray[np.float64] = np.concatenate(
    [
        [-np.inf],
        -(_up := np.array([2.0**o * (1 + q / 4) for o in range(*OCTAVES) for q in range(4)] + [2.0 ** OCTAVES[1]]))[
            ::-1
        ],
        _up,
        [np.inf],
    ]
)
"""Of all histograms, at all times: four bins an octave from 2^-32 to 2^8 on either side of zero, as numpy counts them
(a bin has its left edge). One scale for weights, activations and gradients, so that any two can be compared."""
BINS = len(EDGES) - 1


@dataclass(frozen=True)
class Units:
    """A layer of neurons. kind: rectified (dead is zero on every token), bounded (dead is saturated on every token), or
    smooth (dead is nearly zero on every token)."""

    name: str
    count: int
    kind: str
    act: str = ""
    """What the activation is called: relu, tanh, ..."""


@dataclass
class Observation:
    """One look at a model. Arrays as in the table above; `names` gives their rows: a list of module or parameter names
    for each of KINDS, `stream` (blocks), `attention` (`blocks.3.mixer:0`, a head each)."""

    step: int
    arrays: dict[str, NDArray[Any]]
    names: dict[str, list[str]]
    units: list[Units] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """tokens (of the probe), seconds (it took), text (ids of the lens's short text), targets, ..."""

    def table(self, kind: str, statistic: str) -> dict[str, float]:
        """Name -> number: `table("activations", "std")`."""
        if kind not in self.names:
            return {}
        column = self.arrays[f"{kind}/moments"][:, STATISTICS.index(statistic)]
        return dict(zip(self.names[kind], column.tolist(), strict=True))

    def active(self, name: str) -> NDArray[np.float64]:
        """Share of the probe's tokens on which each unit of one layer is active."""
        start = 0
        for units in self.units:
            if units.name == name:
                return self.arrays["neurons/active"][start : start + units.count] / max(1, self.facts["tokens"])
            start += units.count
        raise KeyError(name)


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.npz"


def write(folder: Path, seen: Observation) -> Path:
    """Write one observation, whole. OSError where the disk refuses."""
    about = {
        "format": FORMAT,
        "step": seen.step,
        "names": seen.names,
        "units": [[u.name, u.count, u.kind, u.act] for u in seen.units],
        "facts": seen.facts,
    }
    held = io.BytesIO()
    arrays = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), **seen.arrays}
    # As numpy.savez_compressed, but the quickest compression: a fifth more bytes in a third of the time.
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            one = io.BytesIO()
            np.lib.format.write_array(one, np.asanyarray(array), allow_pickle=False)
            archive.writestr(f"{name}.npy", one.getvalue())
    folder.mkdir(exist_ok=True, parents=True)
    path = path_of(folder, seen.step)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        beside.write_bytes(held.getvalue())  # not synced, which takes as long as a small model's step
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def read(path: Path) -> Observation:
    """Read one. ValueError, in words, where it is not one that this version can read; OSError where it cannot be."""
    held = io.BytesIO(path.read_bytes())
    try:
        with np.load(held, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
        version = int(about["format"])
        if version <= FORMAT:
            units = [Units(*u) for u in about["units"]]
            seen = Observation(int(about["step"]), arrays, about["names"], units, about["facts"])
            _check(seen)
    except Exception as error:  # zlib, zipfile, numpy and json have each their own for bytes that are not theirs
        raise ValueError(f"{path}: damaged ({_words(error)})") from None
    if version > FORMAT:
        raise ValueError(f"{path}: format {version}, and this version of nanogpt reads up to {FORMAT}")
    return seen


def _words(error: Exception) -> str:
    """What is wrong, without numpy's advice to load whatever it is."""
    text = " ".join(str(error).split())
    return "no arrays of numbers" if "pickle" in text else text or type(error).__name__


def _check(seen: Observation) -> None:
    """KeyError or TypeError where rows and names do not fit."""
    strange = [name for name, array in seen.arrays.items() if array.dtype.kind not in "fiub"]
    if strange:
        raise TypeError(f"{strange[0]} has no numbers")
    if not isinstance(seen.facts, dict) or not isinstance(seen.facts.get("tokens", 0), int):
        raise TypeError("facts are not what they should be")
    for kind in KINDS:
        rows = len(seen.names.get(kind, []))
        if rows and seen.arrays[f"{kind}/moments"].shape != (rows, len(STATISTICS)):
            raise TypeError(f"{kind}/moments has not {rows} rows")
        if rows and seen.arrays[f"{kind}/histogram"].shape != (rows, BINS):
            raise TypeError(f"{kind}/histogram has not {rows} rows")
    units = sum(u.count for u in seen.units)
    if units and seen.arrays["neurons/active"].shape != (units,):
        raise TypeError(f"neurons/active has not {units} numbers")


def steps(folder: Path) -> dict[int, Path]:
    """Step -> file of every observation, in order."""
    names = [(int(m[1]), path) for path in folder.glob("step-*.npz") if (m := LOOK.fullmatch(path.name))]
    return dict(sorted(names))


def delete(folder: Path, keep: Any) -> None:
    """Delete the observations of those steps that `keep`, a function of the step, refuses."""
    for step, path in steps(folder).items():
        if not keep(step):
            path.unlink(missing_ok=True)


class Layers:
    """Everything that was observed in one run, read as far as it goes. `problems` has a line for what could not be."""

    def __init__(self, run: Path | str) -> None:
        self.folder = Path(run) / LAYERS
        self.problems: list[str] = []

    @cached_property
    def seen(self) -> list[Observation]:
        """The observations, by step."""
        found = []
        for path in steps(self.folder).values():
            try:
                found.append(read(path))
            except ValueError as error:
                self.problems.append(str(error))
            except OSError as error:
                self.problems.append(f"{path}: {error.strerror or error}")
        return found

    @property
    def steps(self) -> list[int]:
        return [one.step for one in self.seen]

    def names(self, kind: str) -> list[str]:
        """Rows of a kind, in the model's order."""
        return list(dict.fromkeys(name for one in self.seen for name in one.names.get(kind, [])))

    def series(self, kind: str, statistic: str) -> NDArray[np.float64]:
        """One statistic of every row over time, (observations, names); NaN where it was not observed."""
        return self._stack([one.table(kind, statistic) for one in self.seen], self.names(kind))

    def values(self, array: str) -> NDArray[np.float64]:
        """A one-dimensional array with names over time: `values("stream/rms")`, (observations, names)."""
        kind = array.partition("/")[0]
        key = "stream" if kind == "lens" else kind
        tables = [
            dict(zip(one.names.get(key, []), one.arrays[array].tolist(), strict=False)) if array in one.arrays else {}
            for one in self.seen
        ]
        return self._stack(tables, self.names(key))

    def numbers(self, array: str) -> NDArray[np.float64]:
        """One number over time: `numbers("output/entropy")`, (observations,)."""
        return np.array([float(one.arrays[array]) if array in one.arrays else np.nan for one in self.seen])

    def histograms(self, kind: str, name: str) -> NDArray[np.int64]:
        """Of one row over time, (observations, BINS); zeros where it was not observed."""
        counts = np.zeros((len(self.seen), BINS), np.int64)
        for number, one in enumerate(self.seen):
            if name in one.names.get(kind, []):
                counts[number] = one.arrays[f"{kind}/histogram"][one.names[kind].index(name)]
        return counts

    @property
    def units(self) -> list[Units]:
        return list({u.name: u for one in self.seen for u in one.units}.values())

    def active(self, name: str) -> NDArray[np.float64]:
        """Share of the probe's tokens on which each unit of a layer is active, (observations, units)."""
        return self._of_units(name, lambda one: one.active(name))

    def of_units(self, name: str, array: str) -> NDArray[np.float64]:
        """`of_units("blocks.0.ffn.act", "neurons/bias")`: (observations, units), NaN where there is none."""

        def take(one: Observation) -> NDArray[Any]:
            before = 0
            for units in one.units:
                if units.name == name:
                    return one.arrays[array][before : before + units.count]
                before += units.count
            raise KeyError(name)

        return self._of_units(name, take)

    def _of_units(self, name: str, take: Any) -> NDArray[np.float64]:
        count = next((u.count for u in self.units if u.name == name), 0)
        rows = np.full((len(self.seen), count), np.nan)
        for number, one in enumerate(self.seen):
            if any(u.name == name and u.count == count for u in one.units):
                rows[number] = take(one)
        return rows

    def _stack(self, tables: Sequence[Mapping[str, float]], names: Sequence[str]) -> NDArray[np.float64]:
        rows = [[table.get(name, np.nan) for name in names] for table in tables]
        return np.array(rows, float).reshape(len(tables), len(names))
