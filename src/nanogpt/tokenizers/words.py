"""Words: one id for each word of the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import ClassVar

from nanogpt.parts import at_least
from nanogpt.tokenizers.base import EOT, Tokenizer
from nanogpt.tokenizers.bpe import JsonTokenizer
from nanogpt.tokenizers.tables import file_json

UNKNOWN = "<unk>"


class Words:
    """One id for each word, which is what stands between white space (line ends are white space too).

    min_count: words that are seen fewer times in the whole corpus, all splits together, become <unk>: 4 is the protocol
    of Bengio et al. 2003, where rare words of 3 or fewer are one. <unk> is 0, the most frequent word 1, and so on;
    <|endoftext|>, where texts are documents, is the last. What is decoded has one space between words.
    """

    learns: ClassVar = True

    def __init__(self, *, min_count: int = 1) -> None:
        at_least(1, min_count=min_count)
        self.min_count = min_count

    def size(self) -> tuple[int, bool]:
        return 17_905, False  # the Brown corpus's, with min_count=4

    def make(
        self, texts: Callable[[], Iterator[str]], held_out: Callable[[], Iterator[str]], documents: bool
    ) -> Tokenizer:
        seen: Counter[str] = Counter()
        for source in (texts, held_out):
            for text in source():
                seen.update(text.split())
        del seen[UNKNOWN], seen[EOT]
        kept = sorted((word for word, n in seen.items() if n >= self.min_count), key=lambda word: (-seen[word], word))
        vocab = {word: i for i, word in enumerate([UNKNOWN, *kept])}
        model = {"type": "WordLevel", "vocab": vocab, "unk_token": UNKNOWN}
        # Outside the model's vocabulary, so that the word "<|endoftext|>" of a text is no end, but unknown.
        specials = {EOT: len(vocab)} if documents else {}
        return JsonTokenizer(file_json(model, specials, {"type": "WhitespaceSplit"}, None))
