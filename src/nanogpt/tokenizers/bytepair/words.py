"""Step 1: text becomes words. No pair is ever merged across two of them, so each different word is looked at once.

What a word is, a regular expression says: GPT-2's keeps a space with the word that follows, cl100k's cuts numbers into
three digits, o200k's knows upper and lower case (`nanogpt.tokenizers.patterns`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import compress, islice

import numpy as np
import regex

from nanogpt.errors import UserError
from nanogpt.tokenizers.base import refuse_surrogates
from nanogpt.tokenizers.patterns import PATTERNS

MOST = 8_000_000
"""Bytes of all different words that are counted, with one more for each. Beyond it the rarest are forgotten: so memory
has a bound, whatever the text."""

Split = Callable[[str], list[str]]


@cache
def splitter(pattern: str) -> Split:
    """The function that cuts a text into words; joined, they are the text again.

    pattern: gpt2, cl100k, o200k, or a regular expression as the package `regex` and Oniguruma read it; what it does
    not match is a word too. An empty one leaves the text whole.
    """
    if not pattern:
        return lambda text: [text] if text else []
    if r"\h" in pattern.lower():
        raise UserError(f"split={pattern}: \\h is a hexadecimal digit to Oniguruma and a space to others; write it out")
    try:  # Oniguruma's end of the text, \z, is Python's \Z; and its ^ and $ are those of each line
        compiled = regex.compile(PATTERNS.get(pattern, pattern).replace(r"\z", r"\Z"), regex.MULTILINE)
    except (regex.error, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(
            f"split={pattern}: not one of {', '.join(PATTERNS)}, nor a regular expression ({reason})"
        ) from None

    def split(text: str) -> list[str]:
        words: list[str] = [] if compiled.groups else compiled.findall(text)
        return words if sum(map(len, words)) == len(text) else _with_gaps(compiled, text)

    return split


def _with_gaps(compiled: regex.Pattern[str], text: str) -> list[str]:
    """As above where a pattern leaves something between its matches."""
    words, end = [], 0
    for match in compiled.finditer(text):
        words += [text[end : match.start()], match.group()]
        end = match.end()
    return [word for word in [*words, text[end:]] if word]


def around_specials(specials: Iterable[str]) -> Split:
    """Cuts a text before and after each special token; of two that begin alike the longer is found."""
    longest_first = sorted(specials, key=len, reverse=True)
    if "" in longest_first:
        raise UserError("a special token is empty; it must have letters")
    if not longest_first:
        return lambda text: [text]
    between = regex.compile("(" + "|".join(map(regex.escape, longest_first)) + ")")
    return lambda text: between.split(text)


def count_words(texts: Iterable[str], pattern: str, specials: Sequence[str] = (), most: int = MOST) -> Counter[str]:
    """How often each word stands in the texts, which may come in pieces (`nanogpt.data.text`): memory stays flat.

    specials: the text is cut there, and they are not counted. most: where the different words have more bytes than
    these, the rarest half is forgotten and counting goes on (as in lossy counting, Manku and Motwani 2002): a word
    that is rare everywhere may be counted too low then, or not at all.
    """
    split, cut, special = splitter(pattern), around_specials(specials), set(specials)
    counts: Counter[str] = Counter()
    size = 0
    for text in texts:
        refuse_surrogates(text)
        before = len(counts)
        for part in cut(text):
            if part not in special:
                counts.update(split(part))
        size += _size(islice(reversed(counts), len(counts) - before))  # a dict's newest keys are its last
        if size > most:
            counts = _most_frequent(counts, most // 2)
            size = _size(counts)
    return counts


def _size(words: Iterable[str]) -> int:
    return len("".join(f"{word}\n" for word in words).encode())


def _most_frequent(counts: Counter[str], size: int) -> Counter[str]:
    """The words seen most, as many as have so many bytes. Where all are equally rare, the oldest."""
    times = np.fromiter(counts.values(), np.int64, len(counts))
    sizes = np.fromiter((len(word.encode()) + 1 for word in counts), np.int64, len(counts))
    order = np.argsort(-times, kind="stable")
    fit = np.cumsum(sizes[order]) <= size
    kept = np.zeros(len(counts), bool)
    kept[order[fit]] = True
    return Counter(dict(compress(counts.items(), kept)))
