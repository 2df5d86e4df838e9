"""OpenAI's vocabularies: gpt2, cl100k_base, o200k_base, made from their published files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from nanogpt.data.sources import Source, find
from nanogpt.tokenizers.base import EOT
from nanogpt.tokenizers.bytepair.byte_level import BytePair
from nanogpt.tokenizers.bytepair.learn import Merge
from nanogpt.tokenizers.bytepair.rank_file import read_ranks, recover_merges
from nanogpt.tokenizers.patterns import CL100K, GPT2, O200K
from nanogpt.tokenizers.tables import byte_symbols

Parts: TypeAlias = tuple[dict[int, bytes], list[Merge]]
"""Tokens and merges."""
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


def published(name: str) -> BytePair:
    """The tokenizer of a published vocabulary."""
    known = PUBLISHED[name]
    paths = [find(source) for source in known.files]
    tokens, merges = _read_gpt2(*paths) if len(paths) == 2 else _read_ranks(paths[0])
    # whole: a word that is a token is that token, whether or not merges lead to it: as tiktoken does.
    return BytePair(tokens, merges, known.pattern, known.specials, whole=True)


def _read_gpt2(merges: Path, vocab: Path) -> Parts:
    ids = json.loads(vocab.read_text(encoding="utf-8"))
    del ids[EOT]
    pairs = [line.split(" ") for line in merges.read_text(encoding="utf-8").splitlines()[1:] if line]
    byte = {symbol: n for n, symbol in enumerate(byte_symbols())}
    tokens = {i: bytes([byte[symbol] for symbol in written]) for written, i in ids.items()}
    return tokens, [Merge(ids[left], ids[right], ids[left + right]) for left, right in pairs]


def _read_ranks(path: Path) -> Parts:
    tokens = read_ranks(path)
    return tokens, recover_merges(tokens)
