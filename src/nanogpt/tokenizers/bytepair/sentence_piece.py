"""SentencePiece's kind of byte-pair encoding, Llama's: on characters, not on bytes (Kudo and Richardson 2018).

The text is one string whose spaces are written as ▁, one more put before it (the dummy prefix), so that a word is the
same piece wherever it stands. A word begins as its characters; one that is not in the vocabulary becomes its bytes
(byte fallback). The neighbours whose union has the highest score are merged first. Nothing in the file says that digits
stay alone: that was done to the text from which it was learned, so no piece of Llama's has two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from nanogpt.errors import UserError
from nanogpt.tokenizers.bytepair.base import Merging
from nanogpt.tokenizers.bytepair.charsmap import charsmap
from nanogpt.tokenizers.bytepair.learn import Merge
from nanogpt.tokenizers.bytepair.words import around_specials, splitter
from nanogpt.tokenizers.scores import is_byte, merges_of

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of pieces, by SentencePiece's numbers."""


class Piece(NamedTuple):
    text: str
    score: float
    kind: int


class Normalizer(NamedTuple):
    """What is done to a text first."""

    dummy_prefix: bool = True
    """A space is put before it."""
    remove_spaces: bool = False
    """Those at both ends, and all but one in a row."""
    charsmap: bytes = b""
    """Characters that are written as others (NFKC); empty: none, as in Llama's."""

    def __call__(self, text: str, begins: bool) -> str:
        prefix = SPACE * bool(self.dummy_prefix and begins and text)
        if self.charsmap:
            text = charsmap(self.charsmap)(text)
        if not self.remove_spaces:
            return prefix + text.replace(" ", SPACE)
        return (prefix + re.sub(" +", SPACE, text.lstrip(" "))).rstrip(SPACE)


class SentencePiece(Merging):
    """Text is normalised; a word begins as its characters."""

    lossless = False
    note = "it writes a space before the text and ▁ for spaces, so a text that holds a ▁ comes back with a space"

    def __init__(self, pieces: Sequence[Piece], normalizer: Normalizer, merges: Sequence[Merge] | None = None) -> None:
        """pieces: by id. merges: where they are known, in order; else scores say which go first."""
        kinds = {k: {p.text: i for i, p in enumerate(pieces) if p.kind == k} for k in range(NORMAL, BYTE + 1)}
        if kinds[UNUSED]:
            raise UserError(f"pieces that are not to be used (as {next(iter(kinds[UNUSED]))!r}) are not read here")
        self.bytes = {_byte(text): i for text, i in kinds[BYTE].items()}
        if self.bytes and len(self.bytes) < 256:
            raise UserError(f"only {len(self.bytes)} of the 256 bytes are pieces; all must be, or none")
        if not kinds[BYTE] and not kinds[UNKNOWN]:
            raise UserError("it has neither bytes nor an unknown piece, so most characters have no id")
        if normalizer.charsmap:
            charsmap(normalizer.charsmap)  # a damaged one is refused now
        self.pieces, self.normalizer = list(pieces), normalizer
        self.characters = {text: i for text, i in kinds[NORMAL].items() if len(text) == 1}
        self.unknown = next(iter(kinds[UNKNOWN].values()), None)
        self.own = kinds[USER_DEFINED]
        ranks = None
        if merges is None:
            merges, ranks = _by_score(pieces, kinds[NORMAL])
        tokens = {i: _bytes(piece) for i, piece in enumerate(pieces) if piece.kind in (NORMAL, USER_DEFINED, BYTE)}
        super().__init__(tokens, merges, kinds[CONTROL] | kinds[UNKNOWN], ranks)
        self.eot, self.bos = self.specials.get("</s>"), self.specials.get("<s>")
        self.split, self.cut = splitter(_pattern(kinds[NORMAL])), around_specials(self.own)

    def words(self, text: str, begins: bool = True) -> list[str]:
        return [word for part in self.cut(self.normalizer(text, begins)) for word in self._words(part)]

    def _words(self, part: str) -> list[str]:
        return [part] if part in self.own else self.split(part)

    def symbols(self, word: str) -> list[int]:
        if word in self.own:
            return [self.own[word]]
        return [i for character in word for i in self._of(character)]

    def _of(self, character: str) -> list[int]:
        if character in self.characters:
            return [self.characters[character]]
        if self.bytes:
            return [self.bytes[byte] for byte in character.encode()]
        assert self.unknown is not None
        return [self.unknown]

    def _ids(self, words: Sequence[str]) -> np.ndarray:
        ids = super()._ids(words)
        if self.bytes or self.unknown is None:
            return ids
        again = (ids[1:] == self.unknown) & (ids[:-1] == self.unknown)  # unknowns in a row are one
        return ids[np.append(True, ~again)[: len(ids)]]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        text = super().decode_bytes(ids)
        return text.removeprefix(b" ") if self.normalizer.dummy_prefix else text


def _by_score(pieces: Sequence[Piece], normal: Mapping[str, int]) -> tuple[list[Merge], list[int]]:
    """Each way to make a piece of two others, the highest score first, and its rank: equal scores have the same."""
    pairs = merges_of(list(normal), [pieces[i].score for i in normal.values()])
    merges = [Merge(normal[left], normal[right], normal[left + right]) for left, right in pairs]
    same = groupby(merges, key=lambda merge: pieces[merge.made].score)
    return merges, [rank for rank, (_, group) in enumerate(same) for _ in group]


def _pattern(normal: Mapping[str, int]) -> str:
    """Where a text can be cut without changing its pieces: before a ▁, and at a line end, where no piece goes on."""
    long = [text for text in normal if len(text) > 1]
    if any(SPACE in text.lstrip(SPACE) for text in long):
        return ""
    line = "" if any("\n" in text for text in long) else "\n"
    return f"{SPACE}*[^{SPACE}{line}]+|{SPACE}+|\n"


def _byte(text: str) -> int:
    """65 of <0x41>."""
    try:
        if is_byte(text):
            return int(text[3:5], 16)
    except ValueError:
        pass
    raise UserError(f"the piece {text!r} is said to be a byte and is not written as one, <0x00> to <0xFF>")


def _bytes(piece: Piece) -> bytes:
    return bytes([_byte(piece.text)]) if piece.kind == BYTE else piece.text.replace(SPACE, " ").encode()
