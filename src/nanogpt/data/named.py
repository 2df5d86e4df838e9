"""Corpora with a name. Each keeps the split of its literature."""

from __future__ import annotations

import hashlib
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nanogpt.config import DataConfig
from nanogpt.data.cache import key_of, remember
from nanogpt.data.corpus import (
    HELD_OUT_BYTES,
    Corpus,
    Pieces,
    Segment,
    batching_of,
    by_position,
    files,
    held_out_bytes,
    separated,
    stream,
    walk,
)
from nanogpt.data.sources import Source, find
from nanogpt.data.text import Piece, line_end
from nanogpt.errors import UserError

SEPARATOR = "<|endoftext|>"
NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "idle_test", "lib2to3"}
SHAKESPEARE = Source(
    "tinyshakespeare.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
)
NAMES = Source(
    "names.txt",
    "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
)
TINYSTORIES = Source(
    "tinystories_train_2M.txt",
    "5352b299dcb1a32898b2d779b145b5a05f3e1265953fd21c264c9f9f9c9ae33d",
    "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStories-train.txt",
    first_bytes=2 << 20,
)


def _python(config: DataConfig, carve_test: bool) -> Corpus:
    """The standard library's own source: each file a document, split by file.

    Files go by the hash of their path, so that a split mixes all topics and does not change when
    another file does.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths, sha256 = _library(root)
    parts = _by_file(root, paths, config)
    return Corpus(
        name="python",
        source=f"the standard library at {root}",
        sha256=sha256,
        documents=True,
        batching=batching_of(config, "stream"),
        rule=f"by file; val={config.val} test={config.test} held_out={HELD_OUT_BYTES}",
        parts={name: files(sorted(segments)) for name, segments in parts.items()},
    )


def _library(root: Path) -> tuple[list[Path], str]:
    """The source files, ordered by path, and one hash over all of them."""
    found = [(p, p.stat()) for p in walk(root, NOT_LIBRARY) if p.suffix == ".py"]
    found = [(path, status) for path, status in found if status.st_size]
    stamp = [(str(path), status.st_size, status.st_mtime_ns) for path, status in found]
    facts = remember(key_of("python", stamp), lambda: _digest(root, [path for path, _ in found]))
    skipped = set(facts["skipped"])
    kept = [path for path, _ in found if path.relative_to(root).as_posix() not in skipped]
    if not kept:
        raise UserError(f"data.corpus=python: no source files at {root}; name another corpus, or a file of your own")
    return kept, facts["sha256"]


def _by_file(root: Path, paths: Sequence[Path], config: DataConfig) -> dict[str, list[Segment]]:
    """Each file to the first of val, test, train that still has room for it; train has room for all."""
    total = sum(path.stat().st_size for path in paths)
    room = {"val": held_out_bytes(config.val, total), "test": held_out_bytes(config.test, total), "train": total}
    parts: dict[str, list[Segment]] = {"train": [], "val": [], "test": []}
    for path in sorted(paths, key=lambda p: hashlib.sha256(p.relative_to(root).as_posix().encode()).digest()):
        size = path.stat().st_size
        split = next(name for name in room if size <= room[name])
        room[split] -= size
        parts[split].append((path, 0, size))
    return parts


def _digest(root: Path, paths: Sequence[Path]) -> dict[str, object]:
    """One hash over paths and contents; files that are not UTF-8 text are left out."""
    digest, skipped = hashlib.sha256(), []
    for path in paths:
        name, content = path.relative_to(root).as_posix(), path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            skipped.append(name)
            continue
        if b"\0" in content:
            skipped.append(name)
            continue
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return {"sha256": digest.hexdigest(), "skipped": skipped}


def _shakespeare(config: DataConfig, carve_test: bool) -> Corpus:
    """Tiny Shakespeare as nanoGPT splits it: the first int(0.9 n) characters train, the rest is val."""
    if config.batching in ("pad", "pack"):
        raise UserError(
            f"data.batching={config.batching}: shakespeare is one stream, without documents; nearest: stream "
            "(or a corpus of documents: names, tinystories, python)"
        )
    path = find(SHAKESPEARE)
    size = path.stat().st_size  # pure ASCII: a byte is a character
    cut = int(0.9 * size)
    parts: dict[str, list[Segment]] = {"train": [(path, 0, cut)], "val": [(path, cut, size)]}
    if carve_test:
        carved = line_end(path, cut - int(0.05 * cut), cut)
        assert carved
        parts |= {"train": [(path, 0, carved)], "test": [(path, carved, cut)]}
    return Corpus(
        name="shakespeare",
        source=str(path),
        sha256=SHAKESPEARE.sha256,
        documents=False,
        batching="stream",
        rule="last tenth is val" + (", test is the last twentieth of train" if carve_test else ""),
        parts={name: stream(segments) for name, segments in parts.items()},
    )


def _names(config: DataConfig, carve_test: bool) -> Corpus:
    """makemore's 32,033 names, one document each, shuffled and split 80/10/10 as its lectures do."""
    path = find(NAMES)

    def split(low: float, high: float) -> Pieces:
        def pieces() -> Iterator[Piece]:
            words = path.read_text(encoding="utf-8").splitlines()
            random.Random(42).shuffle(words)
            return ((word, True) for word in words[int(low * len(words)) : int(high * len(words))])

        return pieces

    return Corpus(
        name="names",
        source=str(path),
        sha256=NAMES.sha256,
        documents=True,
        batching=batching_of(config, "pad"),
        rule="shuffled with seed 42, 80/10/10",
        parts={"train": split(0, 0.8), "val": split(0.8, 0.9), "test": split(0.9, 1)},
    )


def _tinystories(config: DataConfig, carve_test: bool) -> Corpus:
    """The first 2 MiB of TinyStories' training file: a story is a document; split by position."""
    path = find(TINYSTORIES)
    content = path.read_bytes()
    ends = [match.end() + 1 for match in re.finditer(re.escape(SEPARATOR).encode(), content)]

    def place(target: int, limit: int) -> int | None:
        return min((end for end in ends if end < limit), key=lambda end: abs(end - target), default=None)

    bounds = by_position(len(content), config, place)
    assert bounds
    return Corpus(
        name="tinystories",
        source=str(path),
        sha256=TINYSTORIES.sha256,
        documents=True,
        batching=batching_of(config, "stream"),
        rule=f"train, test, val between stories; val={config.val} test={config.test} held_out={HELD_OUT_BYTES}",
        parts={name: separated(path, a, b, SEPARATOR) for name, (a, b) in bounds.items()},
    )


def files_of(name: str) -> list[Path]:
    """The files of a named corpus, for one who joins it with others."""
    return [find(SOURCES[name])] if name in SOURCES else _library(Path(sysconfig.get_path("stdlib")))[0]


SOURCES = {"shakespeare": SHAKESPEARE, "names": NAMES, "tinystories": TINYSTORIES}
CORPORA: dict[str, Callable[[DataConfig, bool], Corpus]] = {
    "python": _python,
    "shakespeare": _shakespeare,
    "names": _names,
    "tinystories": _tinystories,
}
