"""A SentencePiece .model file: a protocol buffer with the pieces, how they were learned, and what is done to a text."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from nanogpt.errors import UserError
from nanogpt.files import one_line
from nanogpt.tokenizers.bytepair.protobuf import fields
from nanogpt.tokenizers.bytepair.sentence_piece import NORMAL, Normalizer, Piece, SentencePiece

PIECE, TRAINER, NORMALIZER = 1, 2, 3
"""Fields of the whole (sentencepiece_model.proto, in SentencePiece's sources)."""
TEXT, SCORE, KIND = 1, 2, 3
"""Fields of a piece."""
MODEL_TYPE, SUFFIX = 3, 24
"""Of the trainer: what kind of model, and whether spaces stand after words."""
CHARSMAP, DUMMY_PREFIX, REMOVE_SPACES, ESCAPE = 2, 3, 4, 5
"""Of the normaliser."""
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


def read_model(path: Path) -> SentencePiece:
    """The tokenizer that a model file holds. UserError where it is damaged, or of another kind than byte pairs."""
    with one_line(f"read {path}"):
        data = path.read_bytes()
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in fields(data):
            if number == PIECE:
                pieces.append(_piece(dict(fields(value))))
            elif number == TRAINER:
                trainer = dict(fields(value))
            elif number == NORMALIZER:
                normalizer = dict(fields(value))
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise UserError(f"{path}: not a SentencePiece model, or a damaged one ({error})") from None
    if not pieces:
        raise UserError(f"{path}: not a SentencePiece model: it has no pieces")
    kind = trainer.get(MODEL_TYPE, 1)
    if kind != 2 or trainer.get(SUFFIX) or not normalizer.get(ESCAPE, 1):
        what = (
            f"a model of the kind '{MODEL_TYPES.get(kind, kind)}'" if kind != 2 else "spaces are not written as usual"
        )
        raise UserError(f"{path}: {what}; here byte pairs (model_type=bpe) with ▁ before words are read")
    try:
        return SentencePiece(pieces, _normalizer(normalizer))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _piece(found: dict[int, Any]) -> Piece:
    return Piece(found[TEXT].decode(), found.get(SCORE, 0.0), found.get(KIND, NORMAL))


def _normalizer(found: dict[int, Any]) -> Normalizer:
    return Normalizer(
        bool(found.get(DUMMY_PREFIX, 1)), bool(found.get(REMOVE_SPACES, 1)), bytes(found.get(CHARSMAP, b""))
    )
