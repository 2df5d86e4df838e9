"""Reading text in pieces, so that memory stays flat however large a file is.

A piece ends where a letter or a digit is followed by a space or a line end. Every published
pre-tokenisation pattern (GPT-2, cl100k, o200k) ends a match there, whatever follows, and none looks
back: so the pieces' tokens, one after the other, are the whole text's tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from nanogpt.errors import UserError

PIECE = 1 << 18
"""Characters in a piece, about."""
SAFE_END = re.compile(r"[^\W_](?=[ \t\r\n])")

Piece: TypeAlias = tuple[str, bool]
"""A text, and whether a document ends with it."""


def read(path: Path, start: int = 0, end: int | None = None) -> Iterator[str]:
    """The bytes [start, end) of a file as text. Raises UserError with the file and the offset where it is not text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            file.seek(start)
            at = start
            while block := file.read(PIECE if end is None else min(PIECE, end - at)):
                if (zero := block.find(b"\0")) >= 0:
                    raise _binary(path, at + zero, "a NUL byte")
                pending = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(block)
                except UnicodeDecodeError as error:
                    raise _binary(path, at - pending + error.start, "no UTF-8") from None
                at += len(block)
                yield text
            pending = len(decoder.getstate()[0])
            if pending:
                raise _binary(path, at - pending, "the text stops inside a character")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _binary(path: Path, offset: int, what: str) -> UserError:
    return UserError(f"{path}: not a text file: {what} at byte {offset:,}; a corpus is UTF-8 text")


def looks_like_text(path: Path) -> bool:
    """Whether a file begins as UTF-8 text: for folders, where pictures and programs lie between the texts."""
    try:
        with path.open("rb") as file:
            head = file.read(8192)
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except (OSError, UnicodeDecodeError):
        return False
    return b"\0" not in head


def safe_end(text: str, start: int = 0) -> int:
    """The last place in text[start:] where it can be cut without changing its tokens; len(text) if there is none."""
    for begin in (max(start, len(text) - 4096), start):
        ends = [match.end() for match in SAFE_END.finditer(text, begin)]
        if ends:
            return ends[-1]
    return len(text)


def in_pieces(chunks: Iterable[str]) -> Iterator[str]:
    """The same text, cut at safe places only (inside a word where a whole piece has none)."""
    rest = ""
    for chunk in chunks:
        rest += chunk
        if len(rest) >= PIECE:
            end = safe_end(rest)
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def cut(text: str) -> list[str]:
    """One long text in pieces, at safe places only; a piece is longer where it has none."""
    pieces, start = [], 0
    while found := SAFE_END.search(text, start + PIECE):
        pieces.append(text[start : found.end()])
        start = found.end()
    return [*pieces, text[start:]]


def whole(chunks: Iterable[str]) -> Iterator[Piece]:
    """One document: its pieces, the last one marked. An empty one gives nothing."""
    before = None
    for text in in_pieces(chunks):
        if before is not None:
            yield before, False
        before = text
    if before is not None:
        yield before, True


def between(chunks: Iterable[str], separator: str) -> Iterator[Piece]:
    """The documents between separators, without line ends around them and without the empty ones."""
    rest, begun = "", False
    for chunk in chunks:
        *done, rest = (rest + chunk).split(separator)
        for text in done:
            yield from _document(text, begun)
            begun = False
        if len(rest) >= 2 * PIECE:  # a document longer than a piece: pass on what cannot hold a separator's beginning
            end = safe_end(rest[: -len(separator)])
            yield (rest[:end] if begun else rest[:end].lstrip("\r\n")), False
            rest, begun = rest[end:], True
    yield from _document(rest, begun)


def _document(text: str, begun: bool) -> Iterator[Piece]:
    text = text.rstrip("\r\n") if begun else text.strip("\r\n")
    if text or begun:
        yield text, True


def line_end(path: Path, target: int, size: int) -> int | None:
    """The byte position after the line end nearest to `target`, inside the file; None where there is none.

    Reads around the target only: a file of any size is split without reading it.
    """
    forward = _next_line_end(path, target, size)
    backward = _previous_line_end(path, target)
    places = [p for p in (forward, backward) if p is not None and 0 < p < size]
    return min(places, key=lambda p: abs(p - target)) if places else None


def _next_line_end(path: Path, at: int, size: int) -> int | None:
    with path.open("rb") as file:
        file.seek(at)
        while block := file.read(min(PIECE, size - at)):
            found = block.find(b"\n")
            if found >= 0:
                return at + found + 1
            at += len(block)
    return None


def _previous_line_end(path: Path, at: int) -> int | None:
    with path.open("rb") as file:
        while at > 0:
            begin = max(0, at - PIECE)
            file.seek(begin)
            found = file.read(at - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            at = begin
    return None
