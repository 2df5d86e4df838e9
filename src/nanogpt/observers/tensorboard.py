"""A run as TensorBoard event files: curves, layer statistics, histograms, samples. Whole or not at all."""

from __future__ import annotations

import math
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.errors import UserError
from nanogpt.files import one_line
from nanogpt.observers.store import BINS, EDGES, KINDS, STATISTICS, Layers, Observation
from nanogpt.runs import Run

SINGLE = ("loss", "output/entropy", "output/error")
LISTS = {"stream": ("stream/rms", "stream/share", "stream/cosine", "lens/loss", "lens/error", "lens/agree"),
         "attention": ("attention/entropy", "attention/logit", "attention/first")}  # fmt: skip
"""Arrays with a number for each block, and for each head."""


def export_tensorboard(run: Run, folder: Path | str) -> dict[str, Any]:
    """Write the event files of a run into a new folder: `tensorboard --logdir FOLDER` shows it.

    Returns how many scalars, histograms and texts were written, and `problems`, a line for each observation that could
    not be read. UserError where tensorboard is not installed or the folder exists; nothing is left half-written.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already; give another folder")
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        with one_line(f"write {folder}"):
            beside.mkdir(parents=True)
            written = _write(run, beside)
            beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return written


def _write(run: Run, folder: Path) -> dict[str, Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--format tensorboard needs the tensorboard package: pip install 'nanogpt[tensorboard]'"
        ) from None
    layers = Layers(run.path)
    counts = {"scalars": 0, "histograms": 0, "texts": 0}
    with SummaryWriter(str(folder)) as writer:
        for row in run.metrics():
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float) and "step" in row:
                    writer.add_scalar(name, value, row["step"])
                    counts["scalars"] += 1
        for one in layers.seen:
            try:
                numbers, shapes = scalars(one), histograms(one)
            except (ValueError, KeyError, IndexError, TypeError) as error:  # a foreign or damaged file: read on
                layers.problems.append(f"step {one.step}: left out ({type(error).__name__}: {error})")
                continue
            for name, value in numbers.items():
                writer.add_scalar(name, value, one.step)
            for name, histogram in shapes.items():
                writer.add_histogram_raw(name, **histogram, global_step=one.step)
            counts["scalars"] += len(numbers)
            counts["histograms"] += len(shapes)
        for row in run.samples():
            if isinstance(row.get("text"), str) and "step" in row:
                writer.add_text("sample", _verbatim(row["text"]), row["step"])
                counts["texts"] += 1
    return {**counts, "problems": layers.problems}


def scalars(seen: Observation) -> dict[str, float]:
    """Tag -> number: `activations/std/blocks.0`, `dead/blocks.0.ffn.act` (a share), `stream/rms/blocks.0` ..."""
    found = {f"probe/{name.rpartition('/')[2]}": float(seen.arrays[name]) for name in SINGLE if name in seen.arrays}
    for kind in KINDS:
        for statistic in STATISTICS:
            found |= {f"{kind}/{statistic}/{name}": v for name, v in seen.table(kind, statistic).items()}
    for unit in seen.units:
        found[f"dead/{unit.name}"] = float((seen.active(unit.name) == 0).mean())
    for rows, arrays in LISTS.items():
        for array in arrays:
            values = np.ravel(seen.arrays.get(array, []))
            found |= {f"{array}/{name}": float(v) for name, v in zip(seen.names.get(rows, []), values, strict=False)}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def histograms(seen: Observation) -> dict[str, dict[str, Any]]:
    """Tag -> what TensorBoard keeps of a histogram, in our bins: arguments of `add_histogram_raw`."""
    found = {}
    for kind in KINDS:
        for name, moments, counts in zip(
            seen.names.get(kind, []),
            seen.arrays.get(f"{kind}/moments", []),
            seen.arrays.get(f"{kind}/histogram", []),
            strict=False,
        ):
            if counts.any() and np.isfinite(moments[[0, 4, 5, 6]]).all():
                found[f"{kind}/{name}"] = _raw(moments, counts)
    return found


def _raw(moments: NDArray[np.float32], counts: NDArray[np.uint32]) -> dict[str, Any]:
    """The bins that hold something, and one empty one below them, whose right edge is where the first begins.

    TensorBoard gives a bin by its right edge, and wants finite ones: the outermost end at the extremes.
    """
    mean, low, high, norm = (float(moments[STATISTICS.index(name)]) for name in ("mean", "min", "max", "norm"))
    held = np.flatnonzero(counts)
    first, last = int(held[0]), int(held[-1])
    limits = np.clip(EDGES[first : last + 2], min(low, EDGES[1]), max(high, EDGES[BINS - 1]))
    number = int(counts.sum())
    return {
        "min": low,
        "max": high,
        "num": number,
        "sum": mean * number,
        "sum_squares": norm**2,
        "bucket_limits": limits.tolist(),
        "bucket_counts": [0, *counts[first : last + 1].tolist()],
    }


def _verbatim(text: str) -> str:
    """TensorBoard reads Markdown: four spaces show a text as it is."""
    return "\n".join("    " + line for line in text.splitlines())
