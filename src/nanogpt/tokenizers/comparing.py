"""Vocabularies side by side: how many tokens they need, for which languages and kinds of text, and use of."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from nanogpt.tokenizers.base import Tokenizer

REFERENCE = "English"
"""What the other languages, which say the same, are compared with."""
SPACELESS = ("Chinese", "Japanese")
"""Languages written without spaces, which therefore have no words to count."""


def samples() -> dict[str, dict[str, str]]:
    """Texts that come with nanogpt: one sentence in many languages, and many kinds of text."""
    text = files("nanogpt.tokenizers").joinpath("samples.toml").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = tomllib.loads(text)
    return found


def compare(tokenizers: Mapping[str, Tokenizer], texts: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Plain values: {"texts": {group: {text: {tokenizer: numbers}}}, "vocabulary": {tokenizer: numbers}}.

    bytes_per_token: of UTF-8, None for an empty text. fertility: tokens a word (Rust et al. 2021), None where words
    have no spaces between. used: different tokens. premium, for languages only: tokens beside those of the same text
    in English (Petrov et al. 2023).
    vocabulary: its size, and how many different tokens all these texts use.
    """
    used: dict[str, set[int]] = {name: set() for name in tokenizers}
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for group, members in texts.items():
        rows[group] = {}
        for title, text in members.items():
            ids = {name: tokenizer.encode(text) for name, tokenizer in tokenizers.items()}
            for name, found in ids.items():
                used[name].update(np.unique(found).tolist())
            rows[group][title] = {
                name: _numbers(found, text, title) | {"used": len(np.unique(found))} for name, found in ids.items()
            }
        if REFERENCE in rows[group]:
            for row in rows[group].values():
                for name, numbers in row.items():
                    numbers["premium"] = numbers["tokens"] / rows[group][REFERENCE][name]["tokens"]
    vocabulary = {
        name: {"size": t.vocab_size, "used": len(used[name]), "share": len(used[name]) / t.vocab_size}
        for name, t in tokenizers.items()
    }
    return {"texts": rows, "vocabulary": vocabulary}


def _numbers(ids: np.ndarray, text: str, title: str) -> dict[str, Any]:
    words = 0 if title in SPACELESS else len(text.split())
    return {
        "tokens": len(ids),
        "bytes_per_token": len(text.encode()) / len(ids) if len(ids) else None,
        "fertility": len(ids) / words if words else None,
    }
