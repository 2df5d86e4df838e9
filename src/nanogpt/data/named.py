"""Corpora with a name. Each keeps the split of its literature."""

from __future__ import annotations

import hashlib
import io
import random
import re
import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
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


def _without_tags(archive: bytes) -> bytes:
    """NLTK's Brown corpus as words: categories a ... r in order, one sentence a line, without tags and blank lines."""
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        names = sorted(name for name in files.namelist() if re.fullmatch(r"brown/c[a-r]\d\d", name))
        lines = [line.split() for name in names for line in files.read(name).decode("utf-8").splitlines()]
    return "".join(" ".join(t.rpartition("/")[0] for t in line) + "\n" for line in lines if line).encode()


BROWN = Source(
    "brown_words.txt",
    "1c2bc5499dfabffb49758b2d93a78a83b567695ae3abc905bb84bf1ff0dc1587",
    "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/brown.zip",
    convert=_without_tags,
)
PEPS = Source("peps.txt", "9dd93e082503ea27f99b4eece4ce71f3f1661b597e9b40633f8ed5d2e99c70a7", "")
WIKITEXT2 = Source("wikitext2_valid.txt", "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8", "")


def _python(config: DataConfig) -> Corpus:
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


def _refuse_documents(name: str, config: DataConfig) -> None:
    if config.batching in ("pad", "pack"):
        raise UserError(
            f"data.batching={config.batching}: {name} is one stream, without documents; nearest: stream "
            "(or a corpus of documents: names, tinystories, python)"
        )


def _shakespeare(config: DataConfig) -> Corpus:
    """Tiny Shakespeare as nanoGPT splits it: the first int(0.9 n) characters train, the rest is val."""
    _refuse_documents("shakespeare", config)
    path = find(SHAKESPEARE)
    size = path.stat().st_size  # pure ASCII: a byte is a character
    cut = int(0.9 * size)
    parts: dict[str, list[Segment]] = {"train": [(path, 0, cut)], "val": [(path, cut, size)]}
    if config.carve == "test":
        carved = line_end(path, cut - int(0.05 * cut), cut)
        assert carved
        parts |= {"train": [(path, 0, carved)], "test": [(path, carved, cut)]}
    return Corpus(
        name="shakespeare",
        source=str(path),
        sha256=SHAKESPEARE.sha256,
        documents=False,
        batching="stream",
        rule="last tenth is val" + (", test is the last twentieth of train" if config.carve == "test" else ""),
        parts={name: stream(segments) for name, segments in parts.items()},
    )


def _names(config: DataConfig) -> Corpus:
    """makemore's 32,033 names, one document each, shuffled and split 80/10/10 as its lectures do."""

    def order(count: int) -> list[int]:
        places = list(range(count))
        random.Random(42).shuffle(places)
        return places

    shares = {"train": (0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1)}
    spans = {name: lambda n, low=low, high=high: (int(low * n), int(high * n)) for name, (low, high) in shares.items()}
    return _some_names("names", config, "shuffled with seed 42, 80/10/10", order, spans)


def _names_all(config: DataConfig) -> Corpus:
    """All names in the file's order as train and as val: what makemore's counts of the first lecture are of."""
    spans = {name: lambda n: (0, n) for name in ("train", "val")}
    return _some_names("names-all", config, "train and val are both all of it", lambda n: list(range(n)), spans)


def _names_makemore(config: DataConfig) -> Corpus:
    """The names as makemore.py splits them: the last 1,000 of a permutation are its test, on which it chooses."""

    def order(count: int) -> list[int]:
        import torch  # makemore.py draws with torch's own generator

        return torch.randperm(count, generator=torch.Generator().manual_seed(3407)).tolist()

    spans = {"train": lambda n: (0, n - 1000), "val": lambda n: (n - 1000, n)}
    return _some_names("names-makemore", config, "permuted by torch's seed 3407, val is the last 1000", order, spans)


def _some_names(name: str, config: DataConfig, rule: str, order: Callable[[int], list[int]],
                spans: Mapping[str, Callable[[int], tuple[int, int]]]) -> Corpus:  # fmt: skip
    """Names in an order, each split a span of it."""
    path = find(NAMES)

    def split(span: Callable[[int], tuple[int, int]]) -> Pieces:
        def pieces() -> Iterator[Piece]:
            words = path.read_text(encoding="utf-8").splitlines()
            low, high = span(len(words))
            return ((words[place], True) for place in order(len(words))[low:high])

        return pieces

    return Corpus(
        name=name,
        source=str(path),
        sha256=NAMES.sha256,
        documents=True,
        batching=batching_of(config, "pad"),
        rule=rule,
        parts={part: split(span) for part, span in spans.items()},
    )


def _brown(config: DataConfig) -> Corpus:
    """The Brown corpus as one stream of words: the first 800,000 train, 200,000 val, the rest test (Bengio 2003)."""
    _refuse_documents("brown", config)
    path = find(BROWN)

    def cuts() -> list[int]:
        ends = [match.end() for match in re.finditer(rb"\S+", path.read_bytes())]
        return [0, ends[799_999], ends[999_999], path.stat().st_size]

    bounds = remember(key_of("brown", BROWN.sha256), cuts)
    return Corpus(
        name="brown",
        source=str(path),
        sha256=BROWN.sha256,
        documents=False,
        batching="stream",
        rule="train 800,000 words, val 200,000, test the rest",
        parts={
            part: stream([(path, a, b)])
            for part, (a, b) in zip(("train", "val", "test"), pairwise(bounds), strict=True)
        },
    )


def _one_file(name: str, source: Source) -> Callable[[DataConfig], Corpus]:
    """A file that is one stream, without a split of its own: train, test, val by position, at line ends."""

    def corpus(config: DataConfig) -> Corpus:
        _refuse_documents(name, config)
        path = find(source)
        bounds = by_position(path.stat().st_size, config, lambda target, limit: line_end(path, target, limit))
        assert bounds
        return Corpus(
            name=name,
            source=str(path),
            sha256=source.sha256,
            documents=False,
            batching="stream",
            rule=f"train, test, val by position; val={config.val} test={config.test} held_out={HELD_OUT_BYTES}",
            parts={part: stream([(path, a, b)]) for part, (a, b) in bounds.items()},
        )

    return corpus


def _tinystories(config: DataConfig) -> Corpus:
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


SOURCES = {
    "shakespeare": SHAKESPEARE,
    "names": NAMES,
    "names-all": NAMES,
    "names-makemore": NAMES,
    "tinystories": TINYSTORIES,
    "brown": BROWN,
    "wikitext2": WIKITEXT2,
    "peps": PEPS,
}
CORPORA: dict[str, Callable[[DataConfig], Corpus]] = {
    "python": _python,
    "shakespeare": _shakespeare,
    "names": _names,
    "names-all": _names_all,
    "names-makemore": _names_makemore,
    "tinystories": _tinystories,
    "brown": _brown,
    "wikitext2": _one_file("wikitext2", WIKITEXT2),
    "peps": _one_file("peps", PEPS),
}
