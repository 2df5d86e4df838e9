"""Text -> tokens -> batches, in four calls:

corpus = open_corpus(config.data)                             which text, how it is split
tokens = prepare(corpus, tokenizer, corpus.batching)          token ids on disk, by split
Sampler(tokens["train"], batch, context, ...).batch(step)     training batches
windows(tokens["val"], batch, context, ...)                   the whole split, for evaluation
"""

from nanogpt.data.batches import Batch, Sampler, windows
from nanogpt.data.cache import cache_folder
from nanogpt.data.corpora import CORPORA, Corpus, open_corpus
from nanogpt.data.shards import Tokens, prepare
from nanogpt.data.summary import summary

__all__ = [
    "CORPORA",
    "Batch",
    "Corpus",
    "Sampler",
    "Tokens",
    "cache_folder",
    "open_corpus",
    "prepare",
    "summary",
    "windows",
]
