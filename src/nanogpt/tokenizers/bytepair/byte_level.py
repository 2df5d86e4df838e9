"""Byte-pair encoding on bytes: GPT-2's kind. Every text, and every string of bytes, comes back from its ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nanogpt.errors import UserError
from nanogpt.tokenizers.base import EOT
from nanogpt.tokenizers.bytepair.base import Merging
from nanogpt.tokenizers.bytepair.learn import BYTES, Merge, Tie, learn
from nanogpt.tokenizers.bytepair.words import count_words, splitter


class BytePair(Merging):
    """Words are cut by a pattern; a word begins as its bytes."""

    def __init__(
        self,
        tokens: Mapping[int, bytes],
        merges: Sequence[Merge],
        pattern: str,
        specials: Mapping[str, int] | None = None,
        whole: bool = False,
    ) -> None:
        """pattern: gpt2, cl100k, o200k, a regular expression, or empty: the text is one word. whole: a word that is a
        token is that token, whether or not merges lead to it, as in tiktoken."""
        super().__init__(tokens, merges, specials or {})
        ids = {token: i for i, token in tokens.items()}
        if missing := [byte for byte in range(256) if bytes([byte]) not in ids]:
            raise UserError(
                f"{256 - len(missing)} of the 256 bytes are tokens, {missing[0]:#04x} is none: every byte must be one"
            )
        self.byte_ids = tuple(ids[bytes([byte])] for byte in range(256))
        self.pattern, self.split, self.whole = pattern, splitter(pattern), ids if whole else {}
        self.eot = self.specials.get(EOT)

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int, pattern: str = "gpt2", tie: Tie = "lowest", specials: Sequence[str] = ()
    ) -> BytePair:
        """Learn from texts. size: tokens altogether: 256 bytes, merges, specials, which come last."""
        names = list(dict.fromkeys(specials))
        if names and size < BYTES + len(names):
            many = f"the {BYTES} bytes and {len(names)} special token{'s' * (len(names) > 1)}"
            raise UserError(f"vocab_size={size}: {many} are more; nearest: {BYTES + len(names)}")
        words = {word.encode(): n for word, n in count_words(texts, pattern, names).items()}
        tokens, merges = learn(words, size - len(names), tie)
        return cls(dict(enumerate(tokens)), merges, pattern, {name: len(tokens) + i for i, name in enumerate(names)})

    def words(self, text: str, begins: bool = True) -> list[str]:
        return self.split(text)

    def symbols(self, word: str) -> list[int]:
        return [self.byte_ids[byte] for byte in _raw(word)]

    def encode_word(self, word: str) -> list[int]:
        token = self.whole.get(_raw(word)) if self.whole else None
        return super().encode_word(word) if token is None else [token]

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """int32 ids of bytes that need not be UTF-8; `decode_bytes` gives them back. What is no character is read as
        half a surrogate pair, which patterns take for punctuation."""
        return self._ids(self.split(data.decode("utf-8", errors="surrogateescape")))


def _raw(word: str) -> bytes:
    return word.encode("utf-8", errors="surrogateescape")
