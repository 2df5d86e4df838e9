"""What the tests of tokenizers compare with: tiktoken's encodings, and text that has a bit of everything."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

SPACES = st.sampled_from([" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\x85", "\x1c", "▁"])
WORDS = ["'s", "'S", "'\u017f", "'LL", "a", "aa", "A", "1", "12345", "!", "?/", "é", "e\u0301", "ǅ", "世", "가", "\0",
         "<|endoftext|>", "<s>", "<0x41>"]  # fmt: skip
ODD_TEXT = st.lists(st.one_of(SPACES, st.sampled_from(WORDS)), max_size=60).map("".join)
UNICODE = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=80)
ANY_TEXT = st.one_of(ODD_TEXT, UNICODE)


def original(name: str, data: Path) -> Any:
    """tiktoken's encoding, its rank file read from disk instead of the network."""
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks, load_tiktoken_bpe
    from tiktoken_ext import openai_public

    folder = data / "tokenizers" / name
    files = {"vocab_bpe_file": str(folder / "vocab.bpe"), "encoder_json_file": str(folder / "encoder.json")}

    def ranks(*_: object, **__: object) -> dict[bytes, int]:
        return load_tiktoken_bpe(str(folder / f"{name}.tiktoken"))

    def gpt2(**_: object) -> dict[bytes, int]:
        return data_gym_to_mergeable_bpe_ranks(**files)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        patch.setattr(openai_public, "load_tiktoken_bpe", ranks)
        patch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", gpt2)
        return tiktoken.Encoding(**getattr(openai_public, name)())


@cache
def assigned() -> tuple[str, ...]:
    """Every character that this Python's Unicode has (14.0 in Python 3.11, 16.0 in 3.14), without private use and
    surrogates. Newer ones are letters to `regex` already, and unassigned to tiktoken 0.14: there the two differ."""
    known = (chr(point) for point in range(sys.maxunicode + 1))
    return tuple(c for c in known if unicodedata.category(c) not in ("Cn", "Co", "Cs"))


def every_block(size: int = 64) -> list[str]:
    """Texts that between them hold every character of every block: alone, twice, after a letter and before a digit."""
    characters = assigned()
    rows = [characters[i : i + size] for i in range(0, len(characters), size)]
    return ["".join(f"{c} {c}{c}a{c}1" for c in row) for row in rows]


def random_text(seed: int, size: int = 1_000_000) -> str:
    """So many bytes of random characters: half of them of any kind, half ASCII and spaces."""
    random = np.random.default_rng(seed)
    odd = random.choice(np.array(assigned()), size // 2)
    plain = np.array([chr(n) for n in range(32, 127)] + list(" \n\t  "))[random.integers(0, 100, size // 2)]
    text = "".join(np.where(random.random(size // 2) < 0.5, odd, plain).tolist())
    return text.encode()[:size].decode(errors="ignore")
