"""What there is to know about a corpus as a tokenizer sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanogpt.data.corpora import Corpus
from nanogpt.data.shards import Encoder, Tokens

SAMPLE = 300
"""Characters of the training text that are shown."""


def summary(corpus: Corpus, tokenizer: Encoder, tokens: Mapping[str, Tokens]) -> dict[str, Any]:
    """Plain values, as `nanogpt data` prints them."""
    n_tokens, n_bytes = sum(len(t) for t in tokens.values()), sum(t.n_bytes for t in tokens.values())
    return {
        "name": corpus.name,
        "source": corpus.source,
        "sha256": corpus.sha256,
        "batching": corpus.batching,
        "split_rule": corpus.rule,
        "vocab_size": tokenizer.vocab_size,
        "bytes": n_bytes,
        "tokens": n_tokens,
        "bytes_per_token": round(n_bytes / n_tokens, 4),
        "splits": {
            name: {"bytes": t.n_bytes, "tokens": len(t), "documents": t.n_documents if corpus.documents else None}
            for name, t in tokens.items()
        },
        "sample": _sample(corpus),
    }


def _sample(corpus: Corpus) -> str:
    text = ""
    for piece, ends in corpus.pieces("train"):
        text += piece + ("\n" if ends else "")
        if len(text) >= SAMPLE:
            break
    return text[:SAMPLE]
