"""Tokenizers: one id a character, one a byte, byte-level BPE, OpenAI's vocabularies, any tokenizer.json."""

from nanogpt.tokenizers.base import EOT, Tokenizer
from nanogpt.tokenizers.recipes import (
    TOKENIZERS,
    check_tokenizer,
    expected_size,
    load_tokenizer,
    make_tokenizer,
    read_tokenizer,
    resolve_tokenizer,
    tokenizer_for,
)

__all__ = [
    "EOT",
    "TOKENIZERS",
    "Tokenizer",
    "check_tokenizer",
    "expected_size",
    "load_tokenizer",
    "make_tokenizer",
    "read_tokenizer",
    "resolve_tokenizer",
    "tokenizer_for",
]
