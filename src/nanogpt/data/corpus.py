"""What a corpus is: a text that is read in pieces, its splits, and what identifies it.

Nothing here holds a whole text: a split is a recipe for reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt.config import DataConfig
from nanogpt.data.text import Piece, between, in_pieces, read, whole
from nanogpt.errors import UserError, nearest
from nanogpt.runs import is_run

HELD_OUT_BYTES = 250_000
"""Most bytes in val, and in test: an evaluation covers the whole split, so this bounds what each one costs."""

Pieces = Callable[[], Iterator[Piece]]
Segment = tuple[Path, int, int]
"""The bytes [start, end) of a file."""


@dataclass(frozen=True)
class Corpus:
    """A text, its splits, and what identifies it."""

    name: str
    source: str
    """Where it lies, for messages."""
    sha256: str
    documents: bool
    """Separate texts; False: one long stream."""
    batching: str
    """stream, pad or pack: what was asked for, or what suits the corpus."""
    rule: str
    """The split rule, in words that change when the rule does."""
    parts: Mapping[str, Pieces]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def pieces(self, split: str) -> Iterator[Piece]:
        """The split's text in pieces of limited size, and where each document ends."""
        if split not in self.parts:
            raise UserError(f"{self.name}: no split '{split}'{nearest(split, self.parts)}")
        return self.parts[split]()

    def split(self, name: str) -> Iterator[str]:
        """The split's text: documents (a very long one in pieces), or pieces of the stream."""
        return (text for text, _ in self.pieces(name))

    def held_out(self) -> Iterator[str]:
        """The text outside the training split."""
        return (text for name in self.parts if name != "train" for text in self.split(name))


def batching_of(config: DataConfig, usual: str) -> str:
    return usual if config.batching == "auto" else config.batching


def held_out_bytes(share: float, total: int) -> int:
    return max(1, min(int(share * total), HELD_OUT_BYTES))


def by_position(
    total: int, config: DataConfig, place: Callable[[int, int], int | None]
) -> dict[str, tuple[int, int]] | None:
    """train | test | val as ranges; None where the text cannot be cut so.

    `place(target, limit)` is the place nearest to the target where the text may be cut, above 0 and below the limit.
    """
    val = place(max(0, total - held_out_bytes(config.val, total)), total)
    test = None if val is None else place(max(0, val - held_out_bytes(config.test, total)), val)
    if val is None or test is None:
        return None
    return {"train": (0, test), "val": (val, total), "test": (test, val)}


def walk(root: Path, without: set[str]) -> list[Path]:
    """Files below a folder, ordered by path, without hidden ones and without runs: those change as they train."""
    found, folders = [], [root]
    while folders:
        for path in folders.pop().iterdir():
            if path.name.startswith(".") or path.name in without:
                continue
            if path.is_dir() and not path.is_symlink():  # a link may lead back to where it lies
                folders += [] if is_run(path) else [path]
            elif path.is_file():
                found.append(path)
    return sorted(found)


def stream(segments: Sequence[Segment]) -> Pieces:
    return lambda: ((text, False) for text in in_pieces(chunk for s in segments for chunk in read(*s)))


def files(segments: Sequence[Segment]) -> Pieces:
    return lambda: (piece for segment in segments for piece in whole(read(*segment)))


def separated(path: Path, start: int, end: int, separator: str) -> Pieces:
    return lambda: between(read(path, start, end), separator)
