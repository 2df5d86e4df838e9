"""What every tokenizer does: text -> ids and back, and itself -> tokenizer.json."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from nanogpt.data.text import cut
from nanogpt.errors import UserError
from nanogpt.files import write_whole

EOT = "<|endoftext|>"
REPLACEMENT = "\ufffd"


class Tokenizer(ABC):
    """Text -> ids and back. `json` is the whole of it, in the format of Hugging Face's tokenizer.json."""

    json: str
    vocab_size: int
    """One more than the largest id."""
    eot: int | None
    """Id of <|endoftext|>, where there is one."""
    bos: int | None = None
    """Id that a text begins with, where that is another one than `eot` (Llama's <s>)."""
    lossless: bool = True
    """decode(encode(text)) == text, for every text that it can encode."""
    note: str = ""
    """Where it is not: why, in one line."""
    in_pieces: bool = True
    """A long text may be encoded in pieces (`nanogpt.data.text.cut`): no token goes over their ends."""

    @abstractmethod
    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text; texts are of limited size and valid Unicode."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are not UTF-8 (a character cut in the middle) become U+FFFD, and so does an id that
        there is not."""

    def encode(self, text: str) -> np.ndarray:
        """int32 ids. What looks like a special token in the text is text."""
        return np.concatenate(self.encode_batch(cut(text) if self.in_pieces else [text]))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `encode`, for many texts at once, on all cores where that helps."""
        for text in texts:
            refuse_surrogates(text)
        return self._encode(list(texts))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of its json: two tokenizers with the same one encode alike."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def check_fits(self, vocab_size: int, where: str) -> None:
        """UserError where a text may have ids that a model of so many tokens has not. Special tokens beyond them, such
        as Gemma 3's for images, come of no text."""
        if self.vocab_size <= vocab_size:
            return
        parts = json.loads(self.json)
        vocab = parts["model"]["vocab"]
        ids = set(range(len(vocab)) if isinstance(vocab, list) else vocab.values())
        for row in parts.get("added_tokens") or ():
            (ids.discard if row["special"] and row["id"] not in (self.eot, self.bos) else ids.add)(row["id"])
        if max(ids) >= vocab_size:
            raise UserError(f"{where} has {max(ids) + 1} tokens, and the model {vocab_size}: it is another model's")

    def save(self, path: Path | str) -> None:
        """Write tokenizer.json."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.json.encode())


def refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of the text is half a surrogate pair (U+{ord(text[error.start]):04X}), "
            "which is not a character; the text was not decoded as UTF-8"
        ) from None
