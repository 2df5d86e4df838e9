"""OpenAI's vocabularies: gpt2, cl100k_base, o200k_base, made from their published files into a tokenizer.json.

A rank file lists tokens in the order in which they were learned. The pair that made a token is
found again by merging its bytes with the earlier tokens only: what is left are the two halves.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from nanogpt.data.sources import Source, find
from nanogpt.tokenizers.base import EOT
from nanogpt.tokenizers.patterns import CL100K, DECODER, GPT2, O200K, byte_level
from nanogpt.tokenizers.tables import BPE, byte_symbols, file_json

ADDRESS = "https://openaipublic.blob.core.windows.net"


@dataclass(frozen=True)
class Published:
    """A vocabulary: its files, its pattern, its special tokens."""

    files: tuple[Source, ...]
    pattern: str
    specials: dict[str, int] = field(default_factory=dict)


PUBLISHED = {
    "gpt2": Published(
        (
            Source(
                "vocab.bpe",
                "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
                f"{ADDRESS}/gpt-2/encodings/main/vocab.bpe",
            ),
            Source(
                "encoder.json",
                "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
                f"{ADDRESS}/gpt-2/encodings/main/encoder.json",
            ),
        ),
        GPT2,
        {EOT: 50256},
    ),
    "cl100k_base": Published(
        (
            Source(
                "cl100k_base.tiktoken",
                "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
                f"{ADDRESS}/encodings/cl100k_base.tiktoken",
            ),
        ),
        CL100K,
        {
            EOT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": Published(
        (
            Source(
                "o200k_base.tiktoken",
                "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
                f"{ADDRESS}/encodings/o200k_base.tiktoken",
            ),
        ),
        O200K,
        {EOT: 199999, "<|endofprompt|>": 200018},
    ),
}


def published_json(name: str) -> str:
    """The tokenizer.json of a published vocabulary."""
    published = PUBLISHED[name]
    paths = [find(source) for source in published.files]
    vocab, merges = _read_gpt2(*paths) if len(paths) == 2 else _read_ranks(paths[0])
    # ignore_merges: a word that is a token is that token, whether or not merges lead to it: as tiktoken does.
    model = {**BPE, "ignore_merges": True, "vocab": vocab | published.specials, "merges": merges}
    return file_json(model, published.specials, byte_level(published.pattern), DECODER)


def _read_gpt2(merges: Path, vocab: Path) -> tuple[dict[str, int], list[list[str]]]:
    lines = merges.read_text(encoding="utf-8").splitlines()[1:]
    return json.loads(vocab.read_text(encoding="utf-8")), [line.split(" ") for line in lines if line]


def _read_ranks(path: Path) -> tuple[dict[str, int], list[list[str]]]:
    lines = path.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    symbols = byte_symbols()
    written = {token: "".join(symbols[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = _halves(ranks, token, rank)
        if len(parts) == 2:
            merges.append([written[part] for part in parts])
    return {written[token]: rank for token, rank in ranks.items()}, merges


def _halves(ranks: dict[bytes, int], token: bytes, rank: int) -> list[bytes]:
    """The token's bytes, merged with the tokens that came before it."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        found = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(pairwise(parts))]
        lowest, i = min(found)
        if lowest >= rank:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
