"""Token shards: each split of a corpus as one memory-mapped file of token ids, made once and kept in the cache.

One file a split: a file system holds terabytes in one, and a batch is then one index away; several
would put a search into every batch.

Documents are laid out as  [eot] first [eot] second ... [eot] last [eot]  with `starts` pointing at
each [eot]. So a document's inputs begin at its start, its targets end at the next one's start, and
the same file serves all three ways of batching.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from nanogpt.data.cache import cache_folder, key_of, publish
from nanogpt.data.corpora import Corpus
from nanogpt.data.text import SAFE_END, Piece
from nanogpt.errors import UserError

LAYOUT = 2
"""Part of the cache's key: to be raised when the files change their form."""
AT_ONCE = 1 << 21
"""Characters encoded in one call: enough to keep all cores busy, little beside what is already loaded."""
NEAR = 1024
"""Characters on either side of a cut that decide whether it changes tokens."""


class Encoder(Protocol):
    """What data needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eot(self) -> int | None: ...
    @property
    def fingerprint(self) -> str: ...
    def encode_batch(self, texts: list[str]) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Tokens:
    """One split as tokens."""

    ids: np.ndarray
    """Memory-mapped: uint16 where the vocabulary allows, else uint32."""
    starts: np.ndarray | None
    """Place of the [eot] before each document, and of the last [eot]; None: one stream."""
    n_bytes: int
    """UTF-8 bytes of the text itself, separators not counted: for bits per byte."""
    split: str = ""
    source: str = "the text"

    def __len__(self) -> int:
        return len(self.ids)

    def remapped(self) -> Tokens:
        """The same, mapped anew. Pages that were read count as this process's memory for as long as their mapping
        lives, so a run that kept one would seem to grow to the size of the file."""
        return replace(self, ids=_remapped(self.ids), starts=None if self.starts is None else _remapped(self.starts))

    @property
    def n_documents(self) -> int:
        return 1 if self.starts is None else len(self.starts) - 1


def _remapped(array: np.ndarray) -> np.ndarray:
    file = array.base
    if not isinstance(file, np.memmap) or file.filename is None:
        return array
    return np.asarray(np.memmap(file.filename, file.dtype, "r"))


def prepare(corpus: Corpus, tokenizer: Encoder, batching: str) -> dict[str, Tokens]:
    """The tokens of every split; from the cache when this text was already encoded by this tokenizer.

    Memory stays flat: text is read, encoded and written in pieces.
    """
    if batching != "stream" and not corpus.documents:
        raise UserError(f"data.batching={batching}: {corpus.source} is one stream, without documents; nearest: stream")
    if batching != "stream" and tokenizer.eot is None:
        raise UserError(f"data.batching={batching}: the tokenizer has no <|endoftext|> between texts; nearest: stream")
    key = key_of(LAYOUT, corpus.sha256, corpus.rule, corpus.documents, corpus.splits, tokenizer.fingerprint)
    folder = cache_folder() / "tokens" / f"{corpus.name[:40]}-{key}"

    def fill(temporary: Path) -> None:
        for split in corpus.splits:
            _write(corpus, split, tokenizer, temporary)

    publish(folder, fill, lambda f: all(_complete(f, split) for split in corpus.splits))
    return {split: _open(folder, split, corpus.source) for split in corpus.splits}


def _write(corpus: Corpus, split: str, tokenizer: Encoder, folder: Path) -> None:
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    separated = corpus.documents and tokenizer.eot is not None
    at, n_bytes, documents = 0, 0, 0
    with (folder / f"{split}.ids").open("wb") as ids, (folder / f"{split}.starts").open("wb") as starts:

        def end_document() -> None:
            nonlocal at
            starts.write(np.int64(at).tobytes())
            ids.write(np.array([tokenizer.eot], dtype).tobytes())
            at += 1

        def counted() -> Iterator[Piece]:
            nonlocal n_bytes, documents
            for text, ends in corpus.pieces(split):
                n_bytes += len(text.encode("utf-8"))
                documents += ends
                yield text, ends

        if separated:
            end_document()
        for pieces in _batches(_joined(counted(), tokenizer)):
            for (_, ends), tokens in zip(pieces, tokenizer.encode_batch([t for t, _ in pieces]), strict=True):
                _put(ids, tokens, dtype)
                at += len(tokens)
                if ends and separated:
                    end_document()
    facts: dict[str, Any] = {"tokens": at, "bytes": n_bytes, "documents": documents, "separated": separated}
    facts["dtype"] = np.dtype(dtype).name
    (folder / f"{split}.json").write_text(json.dumps(facts), encoding="utf-8")


def _put(file: IO[bytes], tokens: np.ndarray, dtype: Any) -> None:
    file.write(tokens.astype(dtype).tobytes())


def _joined(pieces: Iterator[Piece], tokenizer: Encoder) -> Iterator[Piece]:
    """The same, without the cuts that would change tokens; only a text longer than AT_ONCE is cut all the same."""
    held = ""
    for text, ends in pieces:
        if held:
            given = _given(held[-NEAR:], text[:NEAR], tokenizer)
            if given is None and len(held) < AT_ONCE:
                text = held + text
            else:
                yield held, False
                text = text[given or 0 :]
        held = "" if ends else text
        if ends:
            yield text, True
    if held:
        yield held, False


def _given(before: str, after: str, tokenizer: Encoder) -> int | None:
    """Where a text can be cut: how many characters of what comes after the tokenizer gives by itself, 0 or 1
    (SentencePiece puts a space before any text: it may be the one that stands there). None: not here."""
    if not SAFE_END.match(before[-1:] + after[:1]):
        return None
    for given in range(1 + after.startswith(" ")):
        whole, *parts = tokenizer.encode_batch([before + after, before, after[given:]])
        if np.array_equal(whole, np.concatenate(parts)):
            return given
    return None


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0]) + 64  # a text of one character has its cost too
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _facts(folder: Path, split: str) -> dict[str, Any] | None:
    try:
        facts = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def _complete(folder: Path, split: str) -> bool:
    facts = _facts(folder, split)
    if facts is None:
        return False
    starts = 8 * (facts["documents"] + 1) if facts["separated"] else 0
    try:
        sizes = [(folder / f"{split}.{kind}").stat().st_size for kind in ("ids", "starts")]
    except OSError:
        return False
    return sizes == [facts["tokens"] * np.dtype(facts["dtype"]).itemsize, starts]


def _open(folder: Path, split: str, source: str) -> Tokens:
    facts = _facts(folder, split)
    assert facts is not None
    if not (facts["bytes"] and facts["tokens"]):
        raise UserError(f"{source}: the {split} split has no text; a corpus needs some in each split")
    ids = np.asarray(np.memmap(folder / f"{split}.ids", facts["dtype"], "r"))
    starts = np.asarray(np.memmap(folder / f"{split}.starts", np.int64, "r")) if facts["separated"] else None
    return Tokens(ids, starts, facts["bytes"], split, source)
