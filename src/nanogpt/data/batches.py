"""Batches: rows of inputs and their targets, one token further.

A training batch is a pure function of (seed, step): the sampler has no state, so a resumed run sees
exactly the batches that it would have seen. Shapes never change, so nothing is compiled twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from nanogpt.data.shards import Tokens
from nanogpt.errors import UserError

NOT_SCORED = -1


class Batch(NamedTuple):
    """B rows of T tokens (context)."""

    tokens_BT: np.ndarray
    """int64."""
    targets_BT: np.ndarray
    """int64; -1 where nothing is to be predicted."""
    mask_BT: np.ndarray | None = None
    """True where there is a token, False where there is padding (on the right); None: no padding."""
    documents_BT: np.ndarray | None = None
    """int64: number of the document within its row; None: a row is one document."""


class Sampler:
    """Training batches.

    stream: windows that begin anywhere, drawn independently, as nanoGPT does.
    pad:    a row is a document, drawn likewise; a longer one is cut to the context.
    pack:   a row is the documents that follow a drawn one, the last one cut; after the last document
            of the split comes its first.
    """

    def __init__(self, tokens: Tokens, batch: int, context: int, batching: str, seed: int) -> None:
        self.tokens, self.batch_size, self.context, self.batching, self.seed = tokens, batch, context, batching, seed
        _check(tokens, batching)
        if batching == "stream" and len(tokens) <= context:
            raise UserError(
                f"{tokens.source}: the {tokens.split or 'training'} split has {len(tokens):,} tokens; "
                f"model.context={context} needs at least {context + 1:,}; "
                f"nearest: {f'model.context={len(tokens) - 1}, or ' if len(tokens) > 1 else ''}a longer text"
            )

    def batch(self, step: int) -> Batch:
        """The batch of this step."""
        rng = np.random.default_rng((self.seed, step))
        tokens = self.tokens.remapped()
        if self.batching == "stream":
            starts_B = rng.integers(0, len(tokens) - self.context, self.batch_size)
            window_BT = tokens.ids[starts_B[:, None] + np.arange(self.context + 1)].astype(np.int64)
            return Batch(window_BT[:, :-1], window_BT[:, 1:])
        drawn_B = rng.integers(0, tokens.n_documents, self.batch_size)
        return self._pad(tokens, drawn_B) if self.batching == "pad" else self._pack(tokens, drawn_B)

    def _pad(self, tokens: Tokens, drawn_B: np.ndarray) -> Batch:
        assert tokens.starts is not None
        starts_B = tokens.starts[drawn_B]
        lengths_B = np.minimum(tokens.starts[drawn_B + 1] - starts_B, self.context)
        return _rows(tokens, starts_B, lengths_B, self.context)

    def _pack(self, tokens: Tokens, drawn_B: np.ndarray) -> Batch:
        ids, starts = tokens.ids, tokens.starts
        assert starts is not None
        # The split as a ring: its last [eot] is its first, so going round needs no seam.
        places_BT = starts[drawn_B][:, None] + np.arange(self.context + 1)
        laps_BT, places_BT = np.divmod(places_BT, len(ids) - 1)
        window_BT = ids[places_BT].astype(np.int64)
        documents_BT = np.searchsorted(starts[:-1], places_BT, side="right") + laps_BT * tokens.n_documents
        return Batch(window_BT[:, :-1], window_BT[:, 1:], None, (documents_BT - documents_BT[:, :1])[:, :-1])


def windows(tokens: Tokens, batch: int, context: int, batching: str) -> Iterator[Batch]:
    """The whole split in fixed windows: every token is a target exactly once (not the very first: it has no past).

    pad and pack score the same targets from the same past: each document from its own beginning, a
    longer one in consecutive windows. What fills up the last row and the last batch is masked and not scored.
    """
    _check(tokens, batching)
    if len(tokens) < 2:
        raise UserError(
            f"{tokens.source}: the {tokens.split} split has {len(tokens)} token, at least 2 are needed; "
            f"a larger data.{tokens.split} or a longer text would do"
        )
    rows = _stream_rows(len(tokens), context) if batching == "stream" else _document_rows(tokens, context)
    packed = _packed(rows, context) if batching == "pack" else ([row] for row in rows)
    while chunk := list(islice(packed, batch)):
        chunk += [[(0, 0)]] * (batch - len(chunk))
        starts_B = np.array([row[0][0] for row in chunk])
        lengths_B = np.array([row[-1][0] + row[-1][1] - row[0][0] for row in chunk])
        filled = _rows(tokens.remapped(), starts_B, lengths_B, context)
        if batching == "stream" and lengths_B.min() == context:
            filled = filled._replace(mask_BT=None)
        if batching == "pack":
            filled = filled._replace(documents_BT=_numbered(chunk, context))
        yield filled


def _check(tokens: Tokens, batching: str) -> None:
    if batching not in ("stream", "pad", "pack"):
        raise UserError(f"data.batching={batching}: not one of its words (there is: pack, pad, stream)")
    if batching != "stream" and not tokens.n_documents:
        raise UserError(f"{tokens.source}: the {tokens.split} split has no documents")
    if batching != "stream" and tokens.starts is None:
        raise UserError(f"data.batching={batching}: {tokens.source} has no documents; nearest: stream")


def _stream_rows(n_tokens: int, context: int) -> Iterator[tuple[int, int]]:
    """(first input, inputs) of each window. The last token is a target only."""
    return ((start, min(context, n_tokens - 1 - start)) for start in range(0, n_tokens - 1, context))


def _document_rows(tokens: Tokens, context: int) -> Iterator[tuple[int, int]]:
    assert tokens.starts is not None
    for document in range(tokens.n_documents):
        begin, end = int(tokens.starts[document]), int(tokens.starts[document + 1])
        for start in range(begin, end, context):
            yield start, min(context, end - start)


def _packed(rows: Iterator[tuple[int, int]], context: int) -> Iterator[list[tuple[int, int]]]:
    """As many consecutive ones as a row holds whole: neighbours in the row are neighbours on disk."""
    row: list[tuple[int, int]] = []
    for start, length in rows:
        if row and start + length - row[0][0] > context:
            yield row
            row = []
        row.append((start, length))
    if row:
        yield row


def _rows(tokens: Tokens, starts_B: np.ndarray, lengths_B: np.ndarray, context: int) -> Batch:
    """Rows of `lengths_B` inputs from `starts_B`, padded on the right."""
    mask_BT = np.arange(context) < lengths_B[:, None]
    places_BT = np.where(mask_BT, starts_B[:, None] + np.arange(context), 0)
    inputs_BT = np.where(mask_BT, tokens.ids[places_BT], 0).astype(np.int64)
    targets_BT = tokens.ids[np.where(mask_BT, places_BT + 1, 0)].astype(np.int64)
    return Batch(inputs_BT, np.where(mask_BT, targets_BT, NOT_SCORED), mask_BT)


def _numbered(chunk: list[list[tuple[int, int]]], context: int) -> np.ndarray:
    """The document's number at each place; padding gets a number of its own."""
    documents_BT = np.zeros((len(chunk), context), np.int64)
    for b, row in enumerate(chunk):
        for start, length in row:
            documents_BT[b, start - row[0][0] + length :] += 1
    return documents_BT
