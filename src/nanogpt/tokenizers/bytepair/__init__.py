"""Byte-pair encoding from nothing, in steps that can be read in this order.

    words          a text becomes words
    learn          which pairs of neighbours are merged
    merge          merging one word
    base           a tokenizer of merges: words that are remembered, special tokens, decoding
    byte_level     GPT-2's kind: words are bytes
    rank_file      tiktoken's files, and the merges behind them
    sentence_piece, model_file, protobuf, charsmap    Llama's kind: words are characters
    tokenizer_json Hugging Face's files

`docs/tokenizer.md` is the chapter to it. Nothing of the libraries `tokenizers`, `tiktoken` and `sentencepiece` is used;
the tests hold it to them, id for id.
"""

from nanogpt.tokenizers.bytepair.base import Merging
from nanogpt.tokenizers.bytepair.byte_level import BytePair
from nanogpt.tokenizers.bytepair.learn import Merge, learn
from nanogpt.tokenizers.bytepair.merge import merge_word
from nanogpt.tokenizers.bytepair.model_file import read_model
from nanogpt.tokenizers.bytepair.rank_file import read_ranks, recover_merges, write_ranks
from nanogpt.tokenizers.bytepair.sentence_piece import SentencePiece
from nanogpt.tokenizers.bytepair.words import count_words, splitter

__all__ = [
    "BytePair",
    "Merge",
    "Merging",
    "SentencePiece",
    "count_words",
    "learn",
    "merge_word",
    "read_model",
    "read_ranks",
    "recover_merges",
    "splitter",
    "write_ranks",
]
