"""Tokenizers that are a table: one id for each character, or for each byte.

They encode with numpy, and save as a byte-pair tokenizer without pairs, which Hugging Face's library reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nanogpt.errors import UserError
from nanogpt.tokenizers.base import EOT, REPLACEMENT, Tokenizer, refuse_surrogates

UNICODE = 0x110000
BPE: dict[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
}
"""The fields of a byte-pair model that are always the same here."""


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies, since GPT-2.

    Printable Latin-1 characters stand for themselves, the others get the characters from U+0100 on.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def table_json(vocab: dict[str, int], pre_tokenizer: Any, decoder: Any) -> str:
    """A tokenizer.json without merges."""
    model = {**BPE, "ignore_merges": False, "vocab": vocab, "merges": []}
    return file_json(model, {EOT: vocab[EOT]} if EOT in vocab else {}, pre_tokenizer, decoder)


def file_json(model: dict[str, Any], specials: Mapping[str, int], pre_tokenizer: Any, decoder: Any) -> str:
    """The text of a tokenizer.json. Special tokens that are in the model's vocabulary too may have any id; others come
    after it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": token, **flags} for token, i in specials.items()]
    parts: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    parts |= {"normalizer": None, "pre_tokenizer": pre_tokenizer, "post_processor": None}
    return json.dumps(parts | {"decoder": decoder, "model": model}, ensure_ascii=False)


def _points(text: str) -> np.ndarray:
    """The code point of each character."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


class CharTokenizer(Tokenizer):
    """One id for each character of an alphabet."""

    def __init__(self, vocab: dict[str, int]) -> None:
        self.eot = vocab.get(EOT)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        self.json = table_json(vocab, None, {"type": "Fuse"})
        self.symbols = [REPLACEMENT] * self.vocab_size
        self.ids_of = np.full(UNICODE, -1, np.int32)
        for symbol, token in vocab.items():
            self.symbols[token] = symbol
            if symbol != EOT:
                self.ids_of[ord(symbol)] = token

    @classmethod
    def of(cls, texts: Iterable[str], documents: bool) -> CharTokenizer:
        """The alphabet of these texts, in code point order; with <|endoftext|> at 0 where they are documents."""
        seen = np.zeros(UNICODE, bool)
        for text in texts:
            refuse_surrogates(text)
            seen[_points(text)] = True
        symbols = [EOT] * documents + [chr(point) for point in np.flatnonzero(seen)]
        if not seen.any():
            raise UserError("tokenizer=char: the text is empty, so it has no alphabet; give a corpus with text")
        return cls({symbol: i for i, symbol in enumerate(symbols)})

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        ids = self.ids_of[_points("".join(texts))]
        if len(ids) and ids.min() < 0:
            raise self._unknown(texts)
        return np.split(ids, np.cumsum([len(text) for text in texts])[:-1])

    def _unknown(self, texts: list[str]) -> UserError:
        text, place = next((t, i) for t in texts for i, c in enumerate(t) if self.ids_of[ord(c)] < 0)
        known = self.vocab_size - (self.eot is not None)
        around = text[max(0, place - 10) : place + 10]
        return UserError(
            f"character {text[place]!r} (U+{ord(text[place]):04X}), number {place + 1} of the text, near {around!r}, "
            f"is not among the {known} of the vocabulary; leave it out, or train with tokenizer=byte or bpe, "
            "which know every character"
        )

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.symbols[i] if 0 <= i < self.vocab_size else REPLACEMENT for i in ids)


class ByteTokenizer(Tokenizer):
    """One id for each byte of UTF-8: the byte itself. <|endoftext|>, where texts are documents, is 256."""

    def __init__(self, documents: bool) -> None:
        vocab = {symbol: byte for byte, symbol in enumerate(byte_symbols())} | ({EOT: 256} if documents else {})
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        self.json = table_json(vocab, level, level)
        self.vocab_size = len(vocab)
        self.eot = vocab.get(EOT)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self._bytes(ids)).decode("utf-8", errors="replace")

    def _bytes(self, ids: Iterable[int]) -> Iterator[bytes]:
        for i in ids:
            if 0 <= i < 256:
                yield bytes((i,))
            else:
                yield EOT.encode() if i == self.eot else REPLACEMENT.encode()


def read_table(parts: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of a tokenizer.json, where it is such a table."""
    model, vocab = parts["model"], parts["model"].get("vocab")
    plain = not any(parts.get(k) for k in ("normalizer", "post_processor", "truncation", "padding"))
    if model.get("type") != "BPE" or model.get("merges") or model.get("unk_token") or not plain:
        return None
    symbols = {symbol: i for symbol, i in vocab.items() if symbol != EOT}
    if [token["content"] for token in parts.get("added_tokens", ())] != [EOT] * (EOT in vocab):
        return None
    if symbols == {symbol: byte for byte, symbol in enumerate(byte_symbols())} and parts.get("pre_tokenizer"):
        same = ByteTokenizer(EOT in vocab)
        return same if json.loads(same.json) == parts else None
    if not parts.get("pre_tokenizer") and all(len(symbol) == 1 for symbol in symbols):
        return CharTokenizer(vocab)
    return None
