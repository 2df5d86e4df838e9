"""Words: one id a word, rare ones <unk>, as Hugging Face's library reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Engine

from nanogpt.config import DataConfig
from nanogpt.data.corpora import open_corpus
from nanogpt.errors import UserError
from nanogpt.tokenizers import load_tokenizer, make_tokenizer, tokenizer_for

TEXT = "the cat saw the dog\nthe dog\tsaw  a cat ."


def test_a_word_is_what_stands_between_white_space() -> None:
    words = make_tokenizer("words", lambda: iter([TEXT]), documents=False)
    assert words.vocab_size == 1 + len(set(TEXT.split()))
    ids = words.encode("the dog\n saw the  .")
    assert words.decode(ids.tolist()) == "the dog saw the ."
    assert words.encode("the")[0] == 1  # the most frequent
    assert words.decode(words.encode("the bird").tolist()) == "the <unk>"
    assert not words.lossless
    assert "<unk>" in words.note


def test_rare_words_are_counted_in_all_splits_together() -> None:
    texts, held_out = (lambda: iter([TEXT])), (lambda: iter(["dog . rare"]))
    words = make_tokenizer("words(min_count=3)", texts, documents=False, held_out=held_out)
    assert words.decode(words.encode("the dog saw rare .").tolist()) == "the dog <unk> <unk> <unk>"
    assert words.vocab_size == 3


def test_the_end_of_a_text_is_no_word_of_it() -> None:
    words = make_tokenizer("words", lambda: iter([TEXT, "<|endoftext|> cat"]), documents=True)
    assert words.eot == words.vocab_size - 1
    assert words.eot not in words.encode("the <|endoftext|> cat")
    assert words.decode([words.eot]) == "<|endoftext|>"


def test_saved_and_read_again(tmp_path: Path) -> None:
    for documents in (False, True):
        words = make_tokenizer("words(min_count=2)", lambda: iter([TEXT]), documents=documents)
        words.save(tmp_path / "tokenizer.json")
        again, theirs = load_tokenizer(tmp_path / "tokenizer.json"), Engine.from_file(str(tmp_path / "tokenizer.json"))
        text = "a cat  saw the\nzebra"
        assert again.fingerprint == words.fingerprint
        assert (again.vocab_size, again.eot) == (words.vocab_size, words.eot)
        assert again.encode(text).tolist() == words.encode(text).tolist() == theirs.encode(text).ids


def test_min_count_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="nearest: 1"):
        make_tokenizer("words(min_count=0)", lambda: iter([TEXT]), documents=False)


def test_brown_has_the_vocabulary_of_the_protocol(data_dir: Path) -> None:
    corpus = open_corpus(DataConfig.model_validate({"corpus": "brown"}))
    words = tokenizer_for("words(min_count=4)", corpus)
    assert words.vocab_size == 17_905
    sizes = {split: sum(len(text.split()) for text in corpus.split(split)) for split in corpus.splits}
    assert sizes == {"train": 800_000, "val": 200_000, "test": 161_192}
