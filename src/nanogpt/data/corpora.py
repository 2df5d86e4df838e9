"""Corpora: texts by name, or files of your own, and how each is split into train, val and test.

Choices are made on val, claims on test.
"""

from __future__ import annotations

import glob
import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from nanogpt.config import DataConfig
from nanogpt.data.corpus import (
    HELD_OUT_BYTES,
    Corpus,
    Segment,
    batching_of,
    by_position,
    files,
    separated,
    stream,
    walk,
)
from nanogpt.data.named import CORPORA, files_of
from nanogpt.data.sources import sha256_of
from nanogpt.data.text import line_end, looks_like_text
from nanogpt.errors import UserError, nearest
from nanogpt.files import short_name


def open_corpus(config: DataConfig) -> Corpus:
    """The corpus that the configuration names.

    `data.carve=test` gives a test split to a corpus whose literature has none (Tiny Shakespeare), taken
    from the end of train. Train is then shorter: the two never overlap, so a model trained without
    carving has no test split at all rather than one that it has seen.
    """
    items = [config.corpus] if isinstance(config.corpus, str) else list(config.corpus)
    if not items:
        raise UserError("data.corpus: an empty list; name a corpus, a file, a folder or a glob")
    if len(items) == 1 and items[0] in CORPORA:
        return CORPORA[items[0]](config)
    if len(items) == 1 and Path(items[0]).expanduser().is_file():
        return _own_file(Path(items[0]).expanduser(), config)
    return _own_files(items, config)


def placed(config: DataConfig) -> DataConfig:
    """The same, with files, folders and globs as absolute paths: a run is scored and resumed from any folder."""
    items = [config.corpus] if isinstance(config.corpus, str) else config.corpus
    whole = [item if item in CORPORA else str(Path(item).expanduser().absolute()) for item in items]
    return config.model_copy(update={"corpus": whole[0] if isinstance(config.corpus, str) else whole})


def _own_file(path: Path, config: DataConfig) -> Corpus:
    """One file: train | test | val by position. With data.batching=pad or pack each line is a document."""
    batching = batching_of(config, "stream")
    lines = batching != "stream"
    parts = _by_position([path], config)
    return Corpus(
        name=short_name(str(path)),
        source=str(path),
        sha256=sha256_of(path),
        documents=lines,
        batching=batching,
        rule=_position_rule(config) + (", a document a line" if lines else ""),
        parts={k: separated(*v[0], "\n") if lines else stream(v) for k, v in parts.items()},
    )


def _own_files(items: Sequence[str], config: DataConfig) -> Corpus:
    """Several files: each is a document, in order; train | test | val by position over all of them."""
    # A file named twice (by its folder and by itself) counts once: else it could be in train and in val.
    paths = list({path.resolve(): path for item in items for path in paths_of(item)}.values())
    stamp = [sha256_of(path) for path in paths]
    parts = _by_position(paths, config)
    return Corpus(
        name="+".join(short_name(item) for item in items[:3]) + ("+more" if len(items) > 3 else ""),
        source=", ".join(items),
        sha256=stamp[0] if len(stamp) == 1 else hashlib.sha256(json.dumps(stamp).encode()).hexdigest(),
        documents=True,
        batching=batching_of(config, "stream"),
        rule=_position_rule(config) + ", a document a file",
        parts={name: files(segments) for name, segments in parts.items()},
    )


def paths_of(item: str) -> list[Path]:
    """The files that one entry of data.corpus stands for."""
    path = Path(item).expanduser()
    if item in CORPORA:
        return files_of(item)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in walk(path, {"__pycache__"}) if looks_like_text(p)]
        if not found:
            raise UserError(f"{item}: no text files in this folder")
        return found
    if any(mark in item for mark in "*?["):
        # Not Path.glob: it would take hidden files too, which a shell leaves out.
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())  # noqa: PTH207
        if not found:
            raise UserError(f"{item}: no file matches")
        return found
    raise UserError(f"no corpus '{item}'{nearest(item, CORPORA)}, nor is it a file, a folder or a glob that exists")


def _position_rule(config: DataConfig) -> str:
    return f"train, test, val by position at line ends; val={config.val} test={config.test} held_out={HELD_OUT_BYTES}"


def _by_position(paths: Sequence[Path], config: DataConfig) -> dict[str, list[Segment]]:
    """Cut the files, one after the other, at the line ends nearest to the shares asked for.

    Reads only around the cuts.
    """
    sizes = [path.stat().st_size for path in paths]
    starts = list(accumulate(sizes, initial=0))
    total = starts.pop()
    if not total:
        raise UserError(f"{paths[0]}: the file is empty; a corpus needs text")

    def place(target: int, limit: int) -> int | None:
        at = bisect_right(starts, target) - 1
        inside = line_end(paths[at], target - starts[at], min(sizes[at], limit - starts[at]))
        ends = [starts[at], starts[at] + sizes[at], *([] if inside is None else [starts[at] + inside])]
        return min((end for end in ends if 0 < end < limit), key=lambda end: abs(end - target), default=None)

    bounds = by_position(total, config, place)
    if bounds is None:
        where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        raise UserError(
            f"{where}: {total:,} bytes in too few lines to be cut into train, test and val at line ends; "
            "a corpus needs more lines (or smaller data.val and data.test)"
        )
    parts: dict[str, list[Segment]] = {}
    for name, (low, high) in bounds.items():
        spans = ((p, max(low - s, 0), min(high - s, n)) for p, s, n in zip(paths, starts, sizes, strict=True))
        parts[name] = [(path, a, b) for path, a, b in spans if a < b]
    return parts
