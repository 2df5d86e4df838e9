"""Step 4: a tokenizer of merges. Words that were met before are remembered, as most words of a text are common ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Literal

import numpy as np

from nanogpt.errors import UserError, nearest
from nanogpt.tokenizers.base import REPLACEMENT, Tokenizer, refuse_surrogates
from nanogpt.tokenizers.bytepair.learn import Merge
from nanogpt.tokenizers.bytepair.merge import merge_word
from nanogpt.tokenizers.bytepair.words import around_specials
from nanogpt.tokenizers.parsing import check_ids

REMEMBERED, LONG = 500_000, 64
"""Words that are remembered, and the characters above which one is not."""
Specials = Literal["all"] | Collection[str]


class Remembered(dict[str, list[int]]):
    """The ids of each word that was met."""

    def __init__(self, tokenizer: Merging) -> None:
        self.tokenizer = tokenizer

    def __missing__(self, word: str) -> list[int]:
        ids = self.tokenizer.encode_word(word)
        if len(word) <= LONG:
            if len(self) >= REMEMBERED:
                self.clear()
            self[word] = ids
        return ids


class Merging(Tokenizer):
    """What tokenizers of merges have in common. A subclass says what words are, and what symbols a word begins as."""

    in_pieces = False  # not every pattern allows it, and here it would gain nothing

    def __init__(
        self,
        tokens: Mapping[int, bytes],
        merges: Sequence[Merge],
        specials: Mapping[str, int],
        ranks: Sequence[int] | None = None,
    ) -> None:
        """tokens: the bytes of each id, without the specials. merges: in order. ranks: of the merges, where some are
        equal; else each has its own."""
        check_ids(specials.items())
        if taken := next((name for name, i in specials.items() if i in tokens), None):
            raise UserError(
                f"the special token {taken!r} has the id {specials[taken]}, which is {tokens[specials[taken]]!r}"
            )
        self.merges, self.specials = merges, dict(specials)
        self.ordinary = dict(tokens)
        self.tokens = {**tokens, **{i: token.encode() for token, i in specials.items()}}
        self.vocab_size = max(self.tokens) + 1
        self.ranks = {(m.left, m.right): rank for m, rank in zip(merges, ranks or range(len(merges)), strict=True)}
        self.made = {(m.left, m.right): m.made for m in merges}
        self.remembered = Remembered(self)

    @abstractmethod
    def words(self, text: str, begins: bool = True) -> list[str]:
        """The words of a text; begins: it is the beginning of the whole one."""

    @abstractmethod
    def symbols(self, word: str) -> list[int]:
        """What a word is before anything is merged."""

    @cached_property
    def json(self) -> str:  # type: ignore[override]
        from nanogpt.tokenizers.bytepair.tokenizer_json import write

        return write(self)

    def encode_word(self, word: str) -> list[int]:
        return merge_word(self.symbols(word), self.ranks, self.made)

    def steps(self, word: str) -> list[list[int]]:
        """A word after each merge, from its first symbols to its tokens."""
        found = [symbols := self.symbols(word)]
        while pairs := [(self.ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in self.ranks]:
            _, i = min(pairs)
            symbols = [*symbols[:i], self.made[symbols[i], symbols[i + 1]], *symbols[i + 2 :]]
            found.append(symbols)
        return found

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        return [self._ids(self.words(text)) for text in texts]

    def _ids(self, words: Sequence[str]) -> np.ndarray:
        return np.fromiter(chain.from_iterable(map(self.remembered.__getitem__, words)), np.int32)

    def encode_special(self, text: str, allowed: Specials = (), disallowed: Specials = "all") -> np.ndarray:
        """int32 ids, with special tokens, as tiktoken's `encode`.

        allowed: special tokens that become their own id, or "all". disallowed: those that must not stand in the text;
        "all" are all that are not allowed. The others are read as text. So by default nobody who only supplies a text
        can end it for the model. UserError where the text holds a disallowed one, or for a name that is none.
        """
        refuse_surrogates(text)
        allow = set(self.specials) if allowed == "all" else set(allowed)
        refuse = set(self.specials) - allow if disallowed == "all" else set(disallowed)
        for name in allow - set(self.specials):
            there = nearest(name, self.specials) if self.specials else "; it has none"
            raise UserError(f"no special token {name!r}{there}")
        for part in around_specials(refuse)(text)[1::2]:
            raise UserError(
                f"the text holds the special token {part!r}, at character {text.index(part)}: allow it, which makes "
                "it one id, or disallow none, which reads it as text"
            )
        parts = around_specials(allow)(text)
        ids = [
            [self.specials[part]] if number % 2 else self._ids(self.words(part, begins=number == 0))
            for number, part in enumerate(parts)
        ]
        return np.concatenate(ids).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes themselves, UTF-8 or not. An id that there is not becomes U+FFFD."""
        return b"".join([self.tokens.get(int(i), REPLACEMENT.encode()) for i in ids])
