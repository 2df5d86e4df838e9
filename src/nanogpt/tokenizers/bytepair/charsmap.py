"""The characters that a SentencePiece model writes as others, NFKC for one: a table packed into a double-array trie.

A trie on the bytes of UTF-8, as the library Darts-clone stores it: each node is 32 bits, which say the byte that
leads to it, where its children are (its own place XOR an offset, XOR the byte), and whether a key ends there. A key's
value is where its replacement begins in the text that follows. The longest key that fits is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from nanogpt.errors import UserError

DAMAGED = "its table of characters (precompiled_charsmap) is damaged"


@cache
def charsmap(packed: bytes) -> Callable[[str], str]:
    """The function that rewrites a text. UserError where the table is cut short."""
    size = int.from_bytes(packed[:4], "little")
    if not 0 < size <= len(packed) - 4 or size % 4:
        raise UserError(DAMAGED)
    units = np.frombuffer(packed, "<u4", size // 4, offset=4).tolist()
    replacements = packed[4 + size :]

    def children(at: int) -> int:
        unit = units[at]
        return at ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6))

    def longest(text: bytes, start: int) -> tuple[int, int]:
        """Where the longest key from here ends, and its value; (0, 0): there is none."""
        found, base = (0, 0), children(0)
        for end in range(start, len(text)):
            at = base ^ text[end]
            if at >= len(units) or units[at] & 0x800000FF != text[end]:
                break
            base = children(at)
            if units[at] >> 8 & 1:
                found = end + 1, units[base] & 0x7FFFFFFF
        return found

    def rewrite(text: str) -> str:
        try:
            return whole(text)
        except (ValueError, IndexError):
            raise UserError(DAMAGED) from None

    def whole(text: str) -> str:
        data, at, made = text.encode(), 0, bytearray()
        while at < len(data):
            end, value = longest(data, at)
            if end:
                made += replacements[value : replacements.index(b"\0", value)]
            else:
                end = at + 1
                while end < len(data) and data[end] & 0xC0 == 0x80:
                    end += 1  # the rest of the character
                made += data[at:end]
            at = end
        return made.decode()

    return rewrite
