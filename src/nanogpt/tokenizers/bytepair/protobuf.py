"""Google's protocol buffers, as far as a SentencePiece model needs them: a message is a list of numbered fields.

Each field begins with number * 8 + kind, written seven bits a byte, the lowest first. Kind 0 is such a number itself,
1 are 8 bytes, 2 a length and so many bytes (a string, or a message inside), 5 are 4 bytes (here: a float).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The number of each field, and its value: int, float or bytes. ValueError where it ends too soon, or is none."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _number(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _number(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {at}: no field has the kind {kind}")
        raw, at = data[at : at + size], at + size
        if at > len(data):
            raise ValueError(f"it ends at byte {len(data)}, inside a field of {size} bytes")
        yield key >> 3, struct.unpack("<f" if kind == 5 else "<d", raw)[0] if kind in (1, 5) else raw


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"byte {at}: a number does not end")
        value |= (data[at] & 127) << shift
        if data[at] < 128:
            return value, at + 1
        at, shift = at + 1, shift + 7
