"""Step 3: merging one word, lowest rank first, as training would have done it."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import pairwise

GONE = -1


def merge_word(
    ids: Sequence[int], ranks: Mapping[tuple[int, int], int], made: Mapping[tuple[int, int], int]
) -> list[int]:
    """The word's symbols after all merges. ranks: of each pair that is merged; made: the id that takes its place.

    Of equal ranks the leftmost goes first. A heap holds the pairs, so a word of a million letters takes seconds, not
    days; an entry whose pair has changed since is passed over.
    """
    symbols = [*ids, GONE]
    left, right = list(range(-1, len(symbols) - 1)), list(range(1, len(symbols) + 1))
    heap = [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        second = right[i]
        pair = symbols[i], symbols[second]
        if ranks.get(pair) != rank:
            continue
        symbols[i], symbols[second] = made[pair], GONE
        after = right[i] = right[second]
        left[after] = i
        before = left[i]
        for at, pair in ((before, (symbols[before], symbols[i])), (i, (symbols[i], symbols[after]))):
            if pair in ranks:
                heapq.heappush(heap, (ranks[pair], at))
    return [symbol for symbol in symbols if symbol != GONE]
