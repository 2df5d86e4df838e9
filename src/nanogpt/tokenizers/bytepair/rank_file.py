"""Rank files, tiktoken's form of a vocabulary: a line for each token, its bytes in base64 and its rank.

The rank is the id, and the order in which tokens were learned. Which pair made a token is not said, but found again:
merge its bytes with the merges before it, and what is left are the two halves. The 256 bytes are tokens too, in an
order of their own: GPT-2's, which begins with the printable ones (! is 0, a is 64, and byte 0 is 188).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from nanogpt.errors import UserError
from nanogpt.files import one_line, write_whole
from nanogpt.tokenizers.bytepair.learn import Merge
from nanogpt.tokenizers.bytepair.merge import merge_word


def read_ranks(path: Path) -> dict[int, bytes]:
    """The tokens of a rank file, by rank. UserError with the line where it is none: no base64, no number, a rank twice,
    one left out, a byte that is no token."""
    with one_line(f"read {path}"):
        lines = path.read_bytes().splitlines()
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        try:
            written, digits = fields
            if not digits.isdigit():
                raise ValueError
            token, rank = base64.b64decode(written, validate=True), int(digits)
        except ValueError:  # binascii.Error is one
            raise UserError(
                f"{path}, line {number}: not a rank file; a line is a token in base64 and its rank"
            ) from None
        if rank in tokens:
            raise UserError(f"{path}, line {number}: rank {rank} is there twice")
        tokens[rank] = token
    gap = next((rank for rank in range(len(tokens)) if rank not in tokens), None)
    if gap is not None:
        raise UserError(f"{path}: a gap: no token has rank {gap}, of {len(tokens)} up to {max(tokens)}")
    missing = {bytes([byte]) for byte in range(256)} - set(tokens.values())
    if missing:
        raise UserError(f"{path}: {len(tokens)} tokens, but {len(missing)} of the 256 bytes are none of them")
    if len(set(tokens.values())) < len(tokens):
        raise UserError(f"{path}: a token is there twice")
    return dict(sorted(tokens.items()))


def write_ranks(path: Path, tokens: Mapping[int, bytes]) -> None:
    """Write a rank file; pattern and special tokens have no place in it."""
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in sorted(tokens.items())]
    with one_line(f"write {path}"):
        write_whole(path, b"".join(lines))


def recover_merges(tokens: Mapping[int, bytes]) -> list[Merge]:
    """The merges behind tokens, which are in the order in which they were learned. One that no merges make has none."""
    byte_ids = {token[0]: rank for rank, token in tokens.items() if len(token) == 1}
    ranks: dict[tuple[int, int], int] = {}
    merges: list[Merge] = []
    made: dict[tuple[int, int], int] = {}
    for rank, token in tokens.items():
        if len(token) == 1:
            continue
        halves = merge_word([byte_ids[byte] for byte in token], ranks, made)
        if len(halves) == 2:
            left, right = halves
            ranks[left, right] = made[left, right] = rank
            merges.append(Merge(left, right, rank))
    return merges
