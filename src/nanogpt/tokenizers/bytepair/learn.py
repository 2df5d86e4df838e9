"""Step 2: which pairs are merged. The most frequent pair of neighbours becomes a symbol of its own; repeat.

Philip Gage's compression (1994), made a vocabulary by Sennrich et al. (2016), on bytes by Radford et al. (2019).
Counting all pairs again after each merge, as the definition has it, takes minutes. But a merge changes only what
stands beside it, so here the counts are kept up to date: all different words lie one after the other in one array, and
numpy merges every place of a pair at once. A heap knows the most frequent pair; its entries may be out of date, which
is noticed when they come up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from nanogpt.errors import UserError
from nanogpt.tokenizers.tables import byte_symbols

Tie: TypeAlias = Literal["lowest", "greatest"]
Place: TypeAlias = int | str
BYTES = 256
END, GONE = -1, -2
"""Between two words; and where a symbol was that is part of another now."""


class Merge(NamedTuple):
    """Two neighbours, and the id that takes their place."""

    left: int
    right: int
    made: int


def learn(words: Mapping[bytes, int], size: int, tie: Tie = "lowest") -> tuple[list[bytes], list[Merge]]:
    """The tokens (ids 0 to 255 are the bytes) and the merges that make the others, in order.

    words: how often each occurs. size: tokens altogether; fewer come out when no pair is left.
    tie: of equally frequent pairs, the `lowest` (made of the older symbols, as Hugging Face's library takes it: bytes
    count by the code points of their printable stand-ins), or the `greatest` (the bytes of its left, then its right).
    Two merges may make the same bytes: then they make the same token.
    """
    if size < BYTES:
        raise UserError(f"vocab_size={size}: the 256 bytes alone are more; nearest: {BYTES}")
    text = Text(words)
    tokens = [bytes([byte]) for byte in range(BYTES)]
    ids = {token: i for i, token in enumerate(tokens)}
    places = [_place(i, token, tie) for i, token in enumerate(tokens)]
    counts = text.pairs()
    heap = [(-n, places[a], places[b], a, b) for (a, b), n in counts.items()]
    heapq.heapify(heap)
    merges: list[Merge] = []
    while heap and len(tokens) < size:
        n, _, _, a, b = heapq.heappop(heap)
        now = counts.get((a, b), 0)
        if now != -n:  # out of date: it comes up again in its place
            if now:
                heapq.heappush(heap, (-now, places[a], places[b], a, b))
            continue
        token = tokens[a] + tokens[b]
        made = ids.setdefault(token, len(tokens))
        if made == len(tokens):
            tokens.append(token)
            places.append(_place(made, token, tie))
        merges.append(Merge(a, b, made))
        for pair in text.merge(merges[-1], counts):
            heapq.heappush(heap, (-counts[pair], places[pair[0]], places[pair[1]], *pair))
    return tokens, merges


def _place(i: int, token: bytes, tie: Tie) -> Place:
    """What a token counts where the smaller one wins."""
    if tie == "lowest":
        return ord(SYMBOLS[i]) if i < BYTES else i + BYTES
    return "".join(chr(BYTES - byte) for byte in token) + chr(
        BYTES + 1
    )  # reversed; a prefix comes after what it begins


SYMBOLS = byte_symbols()


class Text:
    """All different words in one array, and for each symbol its neighbours and how often its word occurs."""

    def __init__(self, words: Mapping[bytes, int]) -> None:
        lengths = np.fromiter(map(len, words), np.int32, len(words))
        word = np.repeat(np.arange(len(words), dtype=np.int32), lengths)
        at = np.arange(len(word), dtype=np.int32) + word + 1  # one END before each word
        self.ids = np.full(len(word) + len(words) + 1, END, np.int32)
        self.ids[at] = np.frombuffer(b"".join(words), np.uint8)
        self.times = np.zeros(len(self.ids))
        self.times[at] = np.fromiter(words.values(), np.float64, len(words))[word]
        here = np.arange(len(self.ids), dtype=np.int32)
        self.left, self.right = here - 1, here + 1
        order = np.argsort(self.ids.astype(np.int16), kind="stable").astype(np.int32)  # of 16 bits it is a radix sort
        self.where = dict(enumerate(np.split(order, np.searchsorted(self.ids[order], range(BYTES + 1)))[1:-1]))

    def pairs(self) -> dict[tuple[int, int], int]:
        """How often each pair of neighbours occurs."""
        a, b = self.ids[:-1], self.ids[1:]
        inside = (a != END) & (b != END)
        keys = a[inside] * BYTES + b[inside]
        return {divmod(key, BYTES): n for key, n in _sums(keys, self.times[:-1][inside])}

    def merge(self, merge: Merge, counts: dict[tuple[int, int], int]) -> list[tuple[int, int]]:
        """Merge a pair wherever it stands, bring the counts up to date; the pairs that there are more of now."""
        a, b, made = merge
        at = self._find(a, b)
        times, before, second = self.times[at], self.left[at], self.right[at]
        after = self.right[second]
        followed = self.ids[after]
        self.ids[at], self.ids[second] = made, GONE
        self.right[at], self.left[after] = after, at
        self.where[made] = np.sort(np.append(self.where[made], at)) if made in self.where else at

        more = []
        for x, n in _sums(
            self.ids[before], times
        ):  # where the pair before was merged too, it is GONE: not counted twice
            counts[x, a] -= n
            counts[x, made] = counts.get((x, made), 0) + n
            more.append((x, made))
        for y, n in _sums(followed, times):
            counts[b, y] -= n
        for y, n in _sums(self.ids[after], times):
            counts[made, y] = counts.get((made, y), 0) + n
            more.append((made, y))
        del counts[a, b]
        return more

    def _find(self, a: int, b: int) -> np.ndarray:
        """Places of a where b follows, found through the rarer of the two."""
        rarer = a if len(self.where[a]) <= len(self.where[b]) else b
        at = self.where[rarer]
        at = self.where[rarer] = at[self.ids[at] == rarer]  # some have been merged since
        if rarer == a:
            at = at[self.ids[self.right[at]] == b]
        else:
            at = self.left[at]
            at = at[self.ids[at] == a]
        return self._every_second(at) if a == b else at

    def _every_second(self, at: np.ndarray) -> np.ndarray:
        """In a run aaaaa, the places 0 and 2: pairs do not overlap."""
        number = np.arange(len(at))
        begins = np.append(True, self.left[at[1:]] != at[:-1])
        return at[(number - np.maximum.accumulate(number * begins)) % 2 == 0]


def _sums(symbols: np.ndarray, times: np.ndarray) -> Iterator[tuple[int, int]]:
    """How often each symbol occurs; END and GONE are none."""
    real = symbols >= 0
    sums = np.bincount(symbols[real], times[real])
    found = np.flatnonzero(sums)
    return zip(found.tolist(), sums[found].astype(np.int64).tolist(), strict=True)
