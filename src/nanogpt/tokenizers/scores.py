"""SentencePiece vocabularies, tokens with scores, as a tokenizer.json: what llama2.c and GGUF store.

SentencePiece's byte-pair form merges the neighbours whose union has the best score (Kudo & Richardson 2018). As a list
of merges: each way to split a token into two others, in the order of the token's score.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def merges_of(tokens: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """Pairs in the order in which they are merged."""
    known = set(tokens)
    ids = {token: n for n, token in enumerate(tokens)}
    found = []
    for token, score in zip(tokens, scores, strict=True):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in known and right in known:
                found.append((-score, ids[token], ids[left], ids[right], left, right))
    return [[left, right] for *_, left, right in sorted(found)]


def tokenizer_json(tokens: Sequence[str], scores: Sequence[float], specials: int = 3) -> str:
    """The text of a tokenizer.json. The first `specials` tokens stand for no text; `<0x41>` stands for a byte."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    plain = [(t, s) for n, (t, s) in enumerate(zip(tokens, scores, strict=True)) if n >= specials and not is_byte(t)]
    model: dict[str, Any] = {
        "type": "BPE", "dropout": None, "unk_token": tokens[0], "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
        "vocab": {token: n for n, token in enumerate(tokens)},
        "merges": merges_of([t for t, _ in plain], [s for _, s in plain]),
    }  # fmt: skip
    parts: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": n, "content": tokens[n], **flags} for n in range(specials)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": None, "post_processor": _begin(tokens[1]),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": model,
    }  # fmt: skip
    return json.dumps(parts, ensure_ascii=False)


def _begin(token: str) -> dict[str, Any]:
    """Where special tokens are asked for, a text begins with this one, number 1."""
    begin, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {token: {"id": token, "ids": [1], "tokens": [token]}}
    both = [begin, text, {"Sequence": {"id": "B", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": [begin, text], "pair": both, "special_tokens": special}


def is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
