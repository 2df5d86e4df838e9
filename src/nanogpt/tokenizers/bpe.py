"""Whatever Hugging Face's library runs: any tokenizer.json, and byte-level BPE trained on the spot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from nanogpt.errors import UserError
from nanogpt.tokenizers.base import EOT, REPLACEMENT, Tokenizer
from nanogpt.tokenizers.patterns import DECODER, PATTERNS, byte_level, pattern_of
from nanogpt.tokenizers.tables import byte_symbols

ENDS = (EOT, "<|end_of_text|>", "</s>", "<eos>")
"""What the end of a text is called in the families whose files one meets."""
STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<BOS_TOKEN>", "<|bos|>")
"""And its beginning, where that is not the end of the text before."""
TRAINING_TEXT = 32_000_000
"""Characters that merges are learned from, the first of the training split: more takes minutes and changes few."""


class JsonTokenizer(Tokenizer):
    """Any tokenizer.json."""

    def __init__(self, text: str, parts: dict[str, Any] | None = None) -> None:
        from tokenizers import Tokenizer as Engine

        parts = parts or json.loads(text)
        self.json = text
        try:
            self.engine = Engine.from_str(text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises plain Exception, and none at all where it panics
            raise UserError(f"not a tokenizer.json: {error}") from None
        self.engine.encode_special_tokens = True  # "<|endoftext|>" in a text is text
        self.engine.no_truncation()
        self.engine.no_padding()
        vocab = self.engine.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values()) + 1
        self.eot = next((vocab[name] for name in ENDS if name in vocab), None)
        self.bos = next((vocab[name] for name in STARTS if name in vocab), None)
        self.note = _loss(parts)
        self.lossless = not self.note
        known = pattern_of(parts.get("pre_tokenizer") or {}) in PATTERNS.values()
        self.in_pieces = self.lossless and known and all(token["special"] for token in parts.get("added_tokens") or ())

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        try:
            encodings = self.engine.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # as where a word is unknown, and there is no token for those
            raise UserError(f"the tokenizer cannot encode this text: {error}") from None
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        tokens = [self.engine.id_to_token(int(i)) if 0 <= i < self.vocab_size else None for i in ids]
        known = [REPLACEMENT if token is None else token for token in tokens]
        return str(self.engine.decoder.decode(known)) if self.engine.decoder else " ".join(known)


def _loss(parts: dict[str, Any]) -> str:
    """Why the text that comes back may not be the text that went in; empty where it always is."""
    if parts.get("normalizer"):
        return f"it normalises text first ({parts['normalizer'].get('type')}), so the decoded text may differ"
    if parts["model"].get("type") == "WordLevel":
        return "it knows whole words only: others become <unk>, and white space between words becomes one space"
    before = parts.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    kinds = {step.get("type"): step for step in steps}
    if "ByteLevel" not in kinds or (parts.get("decoder") or {}).get("type") != "ByteLevel":
        return "it is not byte-level, so characters outside its vocabulary may be lost"
    if kinds["ByteLevel"].get("add_prefix_space"):
        return "it puts a space before the text"
    if any(step.get("behavior") == "Removed" or str(step.get("type")).startswith("Whitespace") for step in steps):
        return "it drops what lies between words"
    vocab = parts["model"]["vocab"]  # in a Unigram model: a list of [token, score]
    if set(byte_symbols()) - {token if isinstance(token, str) else token[0] for token in vocab}:
        return "its vocabulary lacks some bytes"
    if any(token.get("lstrip") or token.get("rstrip") for token in parts.get("added_tokens", ())):
        return "its added tokens swallow the spaces around them"
    return ""


def train_bpe(texts: Iterable[str], vocab_size: int, pattern: str, documents: bool) -> str:
    """Learn merges from the texts; the tokenizer.json. <|endoftext|>, where texts are documents, is 0."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Engine

    engine = Engine(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    engine.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOT] if documents else [],
        initial_alphabet=sorted(byte_symbols()),
        show_progress=False,
    )
    engine.train_from_iterator(_first(texts, TRAINING_TEXT), trainer)
    parts = json.loads(engine.to_str())
    parts |= {"pre_tokenizer": byte_level(PATTERNS.get(pattern, pattern)), "decoder": DECODER}
    return json.dumps(parts, ensure_ascii=False)


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return
