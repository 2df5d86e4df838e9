"""tokenizer.json, Hugging Face's form of a tokenizer: written so that their library gives the same ids, and read."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from nanogpt.errors import UserError
from nanogpt.tokenizers.bytepair.base import Merging
from nanogpt.tokenizers.bytepair.byte_level import BytePair
from nanogpt.tokenizers.bytepair.learn import Merge
from nanogpt.tokenizers.bytepair.sentence_piece import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    Normalizer,
    Piece,
    SentencePiece,
)
from nanogpt.tokenizers.patterns import DECODER, PATTERNS, byte_level, pattern_of
from nanogpt.tokenizers.scores import is_byte
from nanogpt.tokenizers.tables import BPE, byte_symbols, file_json

SYMBOLS = byte_symbols()
BYTES = {symbol: byte for byte, symbol in enumerate(SYMBOLS)}
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
STRIP_LEFT = {"type": "Replace", "pattern": {"Regex": r"\A +"}, "content": ""}
ONE_SPACE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
STRIP_RIGHT = {"type": "Replace", "pattern": {"Regex": rf"{SPACE}+\z"}, "content": ""}
SPACES = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def write(tokenizer: Merging) -> str:
    """The text of the file."""
    return _write_pieces(tokenizer) if isinstance(tokenizer, SentencePiece) else _write_bytes(tokenizer)


def read(parts: Mapping[str, Any]) -> Merging | None:
    """The tokenizer of such a file, parsed; None where it is of another kind than byte pairs of these two forms."""
    model = parts["model"]
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    if model.get("type") != "BPE" or any(model.get(key) for key in odd):
        return None
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    vocab = model["vocab"]
    merges = [Merge(vocab[left], vocab[right], vocab[left + right]) for left, right in pairs]
    return _read_bytes(parts, merges) or _read_pieces(parts, merges)


# -- on bytes: each is written as a printable character -------------------------------------------------------------


def _write_bytes(tokenizer: Merging) -> str:
    assert isinstance(tokenizer, BytePair)
    special = set(tokenizer.specials.values())
    names = {
        i: "".join([SYMBOLS[byte] for byte in token])
        for i, token in sorted(tokenizer.tokens.items())
        if i not in special
    }
    if clash := tokenizer.specials.keys() & set(names.values()):
        raise UserError(f"the special token {min(clash)!r} is written as a token of text is; choose another")
    merges = [[names[merge.left], names[merge.right]] for merge in tokenizer.merges]
    vocab = {name: i for i, name in names.items()} | tokenizer.specials
    model = {**BPE, "ignore_merges": bool(tokenizer.whole), "vocab": vocab, "merges": merges}
    pattern = PATTERNS.get(tokenizer.pattern, tokenizer.pattern)
    return file_json(model, tokenizer.specials, byte_level(pattern) if pattern else LEVEL, DECODER)


def _read_bytes(parts: Mapping[str, Any], merges: list[Merge]) -> BytePair | None:
    pattern, added = pattern_of(parts.get("pre_tokenizer") or {}), _added(parts)
    if pattern is None or parts.get("normalizer") or added is None:
        return None
    model = parts["model"]
    vocab = {name: i for name, i in model["vocab"].items() if name not in added}
    tokens = {i: bytes([BYTES[symbol] for symbol in name]) for name, i in vocab.items()}
    return BytePair(tokens, merges, pattern, added, whole=bool(model.get("ignore_merges")))


def _added(parts: Mapping[str, Any]) -> dict[str, int] | None:
    """The special tokens; None where some swallow spaces, are whole words only, or found whether allowed or not."""
    added = parts.get("added_tokens") or []
    if any(token.get(key) for token in added for key in ("single_word", "lstrip", "rstrip")):
        return None
    if not all(token["special"] for token in added):
        return None
    return {token["content"]: token["id"] for token in added}


# -- on characters: spaces are ▁ ------------------------------------------------------------------------------------


def _write_pieces(tokenizer: SentencePiece) -> str:
    if tokenizer.own:  # the library looks for them before a text is normalised, SentencePiece after
        raise UserError(f"the user-defined piece {min(tokenizer.own)!r} cannot be said exactly in a tokenizer.json")
    pieces, how = tokenizer.pieces, tokenizer.normalizer
    merges = [[pieces[merge.left].text, pieces[merge.right].text] for merge in tokenizer.merges]
    model = {
        **BPE, "unk_token": None if tokenizer.unknown is None else pieces[tokenizer.unknown].text, "fuse_unk": True,
        "byte_fallback": bool(tokenizer.bytes), "ignore_merges": False,
        "vocab": {piece.text: i for i, piece in enumerate(pieces)}, "merges": merges,
    }  # fmt: skip
    decoders = [*SPACES, *[STRIP] * how.dummy_prefix]
    parts = json.loads(file_json(model, tokenizer.specials, None, {"type": "Sequence", "decoders": decoders}))
    parts["normalizer"] = {"type": "Sequence", "normalizers": _steps(how)}
    return json.dumps(parts, ensure_ascii=False)


def _read_pieces(parts: Mapping[str, Any], merges: list[Merge]) -> SentencePiece | None:
    how, added = _normalizer(parts.get("normalizer") or {}), parts.get("added_tokens") or []
    if how is None or parts.get("pre_tokenizer") or _added(parts) is None:
        return None
    model = parts["model"]
    kinds = {token["content"]: CONTROL for token in added}
    kinds |= {model["unk_token"]: UNKNOWN} if model.get("unk_token") else {}
    names = {i: name for name, i in (model["vocab"] | {token["content"]: token["id"] for token in added}).items()}
    if sorted(names) != list(range(len(names))):
        return None
    byte = BYTE if model.get("byte_fallback") else NORMAL
    pieces = [
        Piece(names[i], 0.0, kinds.get(names[i], byte if is_byte(names[i]) else NORMAL)) for i in range(len(names))
    ]
    return SentencePiece(pieces, how, merges)


def _steps(how: Normalizer) -> list[dict[str, Any]]:
    """A normaliser as the library's."""
    table = [{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(how.charsmap).decode()}]
    table, prefix = table * bool(how.charsmap), [PREPEND] * how.dummy_prefix
    if not how.remove_spaces:
        return [*prefix, *table, REPLACE]
    return [*table, STRIP_LEFT, ONE_SPACE, *prefix, REPLACE, STRIP_RIGHT]


def _normalizer(normalizer: Mapping[str, Any]) -> Normalizer | None:
    """The normaliser that is written so; None where there is none."""
    steps = normalizer.get("normalizers", [normalizer])
    table = next((base64.b64decode(s["precompiled_charsmap"]) for s in steps if s.get("type") == "Precompiled"), b"")
    ways = (Normalizer(prefix, remove, table) for prefix in (True, False) for remove in (False, True))
    return next((how for how in ways if _steps(how) == steps), None)
