"""Byte pairs by hand: what is learned and encoded is what the definition, and Hugging Face's library, say."""

from __future__ import annotations

import base64
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from nanogpt.data.text import PIECE
from nanogpt.errors import UserError
from nanogpt.tokenizers.bytepair import BytePair, count_words, learn, merge_word, read_ranks, splitter, write_ranks
from nanogpt.tokenizers.bytepair.learn import Tie
from nanogpt.tokenizers.bytepair.tokenizer_json import read
from nanogpt.tokenizers.patterns import PATTERNS
from nanogpt.tokenizers.tables import byte_symbols
from tests.vocabularies import ANY_TEXT

SYMBOLS = byte_symbols()
TEXT = "def f(x):\n    return x + 1  # naïve 世界\n\nclass Café:\n\tpass\naaaa aaaaaaa banana\n" * 30
WORDS = st.lists(st.text(st.sampled_from("abä "), min_size=1, max_size=12), min_size=1, max_size=30).map(
    lambda words: dict(Counter(word.encode() for word in words))
)


def by_definition(words: dict[bytes, int], size: int, tie: Tie) -> list[bytes]:
    """Count every pair anew after each merge, as the lecture does; the tokens, in order."""
    parts = {word: [bytes([byte]) for byte in word] for word in words}
    order = {bytes([byte]): ord(SYMBOLS[byte]) for byte in range(256)}
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < size:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, now in parts.items():
            for pair in pairwise(now):
                counts[pair] += words[word]
        if not counts:
            break
        most = [pair for pair, n in counts.items() if n == max(counts.values())]
        a, b = max(most) if tie == "greatest" else min(most, key=lambda pair: (order[pair[0]], order[pair[1]]))
        if a + b not in order:
            order[a + b] = 1000 + len(tokens)
            tokens.append(a + b)
        for word, now in parts.items():
            merged, i = [], 0
            while i < len(now):
                both = now[i : i + 2] == [a, b]
                merged.append(a + b if both else now[i])
                i += 1 + both
            parts[word] = merged
    return tokens


@settings(max_examples=200, deadline=None)
@given(words=WORDS, merges=st.integers(0, 40), tie=st.sampled_from(["lowest", "greatest"]))
@example(words={b"aaabdaaabac": 1}, merges=3, tie="lowest")
@example(words={b"a" * 19: 2, b"a" * 8: 1}, merges=9, tie="lowest")
def test_learning_is_what_the_definition_says(words: dict[bytes, int], merges: int, tie: Tie) -> None:
    tokens, found = learn(words, 256 + merges, tie)
    assert tokens == by_definition(words, 256 + merges, tie)
    assert all(tokens[m.made] == tokens[m.left] + tokens[m.right] for m in found)


def library(text: str, size: int, pattern: str) -> list[list[str]]:
    """The merges that Hugging Face's library learns."""
    engine = Engine(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
    engine.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = sorted(SYMBOLS)
    engine.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    merges: list[list[str]] = json.loads(engine.to_str())["model"]["merges"]
    return merges


def written(tokenizer: BytePair) -> list[list[str]]:
    return [
        ["".join(SYMBOLS[byte] for byte in tokenizer.tokens[i]) for i in (m.left, m.right)] for m in tokenizer.merges
    ]


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(ANY_TEXT, min_size=1), pattern=st.sampled_from(sorted(PATTERNS)), merges=st.integers(1, 200))
def test_learning_is_what_the_library_does(texts: list[str], pattern: str, merges: int) -> None:
    text = " ".join(texts * 2)
    assert written(BytePair.train([text], 256 + merges, pattern)) == library(text, 256 + merges, pattern)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_learning_from_real_text_is_what_the_library_does(pattern: str, data_dir: Path) -> None:
    text = (data_dir / "corpora" / "wikitext2_valid.txt").read_text(encoding="utf-8")[:400_000]
    assert written(BytePair.train([text], 1500, pattern)) == library(text, 1500, pattern)


def test_the_published_fixture(data_dir: Path) -> None:
    """stanford-cs336/assignment1-basics: 500 tokens, of which one is <|endoftext|>, ties to the greatest pair."""
    folder = data_dir / "tokenizers" / "bpe_training_fixture"
    text = (folder / "corpus.en").read_text(encoding="utf-8")
    lines = (folder / "train-bpe-reference-merges.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = BytePair.train([text], 500, "gpt2", "greatest", ["<|endoftext|>"])
    assert len(lines) == 243
    assert written(tokenizer) == [line.split(" ") for line in lines]
    assert written(BytePair.train([text], 500, "gpt2", "lowest", ["<|endoftext|>"])) != written(tokenizer)
    vocab = set(json.loads((folder / "train-bpe-reference-vocab.json").read_text(encoding="utf-8")))
    assert {"".join(SYMBOLS[byte] for byte in tokenizer.tokens[i]) for i in range(499)} | {"<|endoftext|>"} == vocab


def test_ids_of_the_lecture() -> None:
    tokenizer = BytePair.train(["aaabdaaabac"], 259, "")
    assert tokenizer.encode("aaabdaaabac").tolist() == [258, 100, 258, 97, 99]
    assert tokenizer.steps("aaab") == [[97, 97, 97, 98], [256, 97, 98], [256, 257], [258]]


@settings(max_examples=100, deadline=None)
@given(words=WORDS, word=st.text(st.sampled_from("abä ")), merges=st.integers(0, 40))
def test_a_word_is_merged_as_rank_by_rank_over_the_whole_of_it(words: dict[bytes, int], word: str, merges: int) -> None:
    _, learned = learn(words, 256 + merges)
    symbols = list(word.encode())
    for a, b, made in learned:
        i = 0
        while i < len(symbols) - 1:
            if symbols[i : i + 2] == [a, b]:
                symbols[i : i + 2] = [made]
            i += 1
    ranks = {(m.left, m.right): n for n, m in enumerate(learned)}
    made_by = {(m.left, m.right): m.made for m in learned}
    assert merge_word(list(word.encode()), ranks, made_by) == symbols


TRAINED = {pattern: BytePair.train([TEXT], 420, pattern, specials=["<|endoftext|>", "<|end"]) for pattern in PATTERNS}


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@settings(max_examples=60, deadline=None)
@given(text=ANY_TEXT)
@example(text=TEXT)
def test_the_saved_file_gives_the_same_ids_to_the_library_and_to_us(pattern: str, text: str) -> None:
    ours = TRAINED[pattern]
    engine, again = Engine.from_str(ours.json), read(json.loads(ours.json))
    assert again is not None
    engine.encode_special_tokens = True
    ids = ours.encode(text).tolist()
    assert engine.encode(text).ids == again.encode(text).tolist() == ids
    assert ours.decode(ids) == again.decode(ids) == engine.decode(ids, skip_special_tokens=False) == text
    assert again.json == ours.json
    assert [tokens for word in ours.words(text) for tokens in ours.steps(word)[-1]] == ids


def test_a_megabyte_of_random_bytes_comes_back() -> None:
    data = np.random.default_rng(3).bytes(1_000_000)
    for tokenizer in TRAINED.values():
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@given(data=st.binary())
def test_any_bytes_come_back(data: bytes) -> None:
    tokenizer = TRAINED["cl100k"]
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    if data.decode("utf-8", errors="replace").encode() == data:
        assert ids.tolist() == tokenizer.encode(data.decode()).tolist()


def test_words_joined_are_the_text_whatever_the_pattern() -> None:
    for pattern in ("", "gpt2", r"\w+", "(a)|b", "x"):
        assert "".join(splitter(pattern)(TEXT)) == TEXT
        assert "" not in splitter(pattern)(TEXT)
    assert splitter("(a)|b")("cabac") == ["c", "a", "b", "a", "c"]
    assert splitter("^a|b$|.")("ab\nab") == ["a", "b", "\n", "a", "b"]  # lines, as Oniguruma has it
    assert splitter("a$|.")("ba\nb") == ["b", "a", "\n", "b"]
    assert splitter("gpt2")("") == splitter("")("") == []


def test_a_long_text_is_not_cut_where_its_pattern_does_not_allow_it() -> None:
    pattern = r"[^.]+|\."
    tokenizer = BytePair.train(["one word and another. " * 9], 300, pattern)
    text = "one word and another one word. " * 30_000
    assert len(text) > 2 * PIECE
    words = [tokenizer.encode(word) for word in splitter(pattern)(text)]
    assert tokenizer.encode(text).tolist() == np.concatenate(words).tolist()
    word = "one" * (PIECE * 2 // 3 + 5)
    assert tokenizer.encode(word).tolist() == merge_word(list(word.encode()), tokenizer.ranks, tokenizer.made)


def test_specials_are_not_learned_from_and_the_longer_one_is_found() -> None:
    counts = count_words(["a<|end><|endoftext|>b"], "gpt2", ["<|end", "<|endoftext|>"])
    assert counts == Counter({"a": 1, ">": 1, "b": 1})


def test_counting_forgets_the_rarest_when_there_are_too_many() -> None:
    common = "the cat sat " * 50
    texts = (f"{common} {''.join(chr(97 + n // 26**k % 26) for k in range(3))} zz{n}" for n in range(3000))
    counts = count_words(texts, "gpt2", most=1000)
    assert sum(len(word) + 1 for word in counts) <= 1000
    assert counts[" cat"] == 150_000


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.text("ab世", min_size=1, max_size=9), min_size=1, max_size=80), most=st.integers(8, 300))
def test_what_is_forgotten_is_the_rarest_and_never_all(words: list[str], most: int) -> None:
    counts, true = count_words(words, "", most=most), Counter(words)
    size = sum(len(word.encode()) + 1 for word in true)
    if size <= most:
        assert counts == true
    else:
        assert sum(len(word.encode()) + 1 for word in counts) <= most
        assert all(n <= true[word] for word, n in counts.items())
        assert counts or max(len(word.encode()) + 1 for word in true) > most // 2


def test_a_text_of_pieces_teaches_the_same(tmp_path: Path) -> None:
    from nanogpt.data.text import in_pieces

    long = TEXT * 100
    assert count_words(in_pieces([long]), "cl100k") == count_words([long], "cl100k")


def test_added_tokens_that_are_always_found_are_left_to_the_library() -> None:
    parts = json.loads(TRAINED["gpt2"].json)
    assert read(parts) is not None
    parts["added_tokens"][0]["special"] = False
    assert read(parts) is None


def test_fewer_tokens_where_no_pair_is_left() -> None:
    assert BytePair.train(["abc"], 1000).vocab_size == 258
    assert BytePair.train([], 256).encode("abc").tolist() == [97, 98, 99]


# ---- special tokens, as tiktoken has them


def test_special_tokens_are_refused_allowed_or_read_as_text() -> None:
    tokenizer, text = TRAINED["gpt2"], "def<|endoftext|>pass"
    eot = tokenizer.specials["<|endoftext|>"]
    assert eot == tokenizer.vocab_size - 2 == tokenizer.eot
    with pytest.raises(UserError, match=r"holds the special token '<\|endoftext\|>', at character 3"):
        tokenizer.encode_special(text)
    one = tokenizer.encode_special(text, allowed={"<|endoftext|>"}, disallowed=()).tolist()
    assert one == [*tokenizer.encode("def"), eot, *tokenizer.encode("pass")]
    assert tokenizer.encode_special(text, allowed="all").tolist() == one
    assert tokenizer.encode_special(text, disallowed=()).tolist() == tokenizer.encode(text).tolist()
    with pytest.raises(UserError, match=r"no special token '<\|endof'"):
        tokenizer.encode_special(text, allowed={"<|endof"})
    assert tokenizer.decode(one) == text


# ---- rank files


def test_a_rank_file_comes_back_with_its_merges(tmp_path: Path) -> None:
    from nanogpt.tokenizers.bytepair import recover_merges

    tokenizer = BytePair.train([TEXT], 420, "gpt2")
    write_ranks(tmp_path / "x.tiktoken", tokenizer.tokens)
    tokens = read_ranks(tmp_path / "x.tiktoken")
    assert tokens == tokenizer.tokens
    assert recover_merges(tokens) == tokenizer.merges


GOOD = [f"{base64.b64encode(bytes([n])).decode()} {n}" for n in range(256)]
BROKEN = {
    "a gap: no token has rank 256, of 257 up to 301": [*GOOD, "YWFh 301"],
    "a gap: no token has rank 0, of 256 up to 256": [line.split()[0] + f" {n + 1}" for n, line in enumerate(GOOD)],
    "line 257: not a rank file": [*GOOD, "YWE= 2_56"],
    "line 257: rank 3 is there twice": [*GOOD, "YWE= 3"],
    "line 3: not a rank file": [*GOOD[:2], "!!! 2"],
    "line 2: not a rank file": [GOOD[0], "YWE="],
    "line 1: not a rank file": ["YWE= 1 2"],
    "255 tokens, but 1 of the 256 bytes": GOOD[:255],
    "0 tokens, but 256": [],
    "a token is there twice": [*GOOD, "YQ== 256"],
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_rank_file_is_refused_in_one_line(message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tiktoken"
    path.write_text("\n".join(BROKEN[message]) + "\n")
    with pytest.raises(UserError, match=message) as caught:
        read_ranks(path)
    assert "x.tiktoken" in str(caught.value)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="the 256 bytes alone are more; nearest: 256"):
        learn({b"ab": 1}, 255)
    with pytest.raises(UserError, match="vocab_size=256: the 256 bytes and 1 special token are more; nearest: 257"):
        BytePair.train(["ab"], 256, specials=["<a>", "<a>"])
    assert BytePair.train(["ab"], 258, specials=["<a>", "<a>"]).specials == {"<a>": 257}
    with pytest.raises(UserError, match="nested too deeply"):
        splitter("(" * 9999 + ")" * 9999)
    with pytest.raises(UserError, match="'<x>' and '<y>' have the same id, 300"):
        BytePair({n: bytes([n]) for n in range(256)}, [], "gpt2", {"<x>": 300, "<y>": 300})
    with pytest.raises(UserError, match="3 of the 256 bytes are tokens, 0x00 is none"):
        BytePair({97: b"a", 98: b"b", 99: b"c"}, [], "gpt2")
    with pytest.raises(UserError, match="hexadecimal digit to Oniguruma"):
        splitter(r"\h+")
    with pytest.raises(UserError, match="a special token is empty"):
        BytePair.train(["ab"], 300, specials=[""])
    with pytest.raises(UserError, match="'a' is written as a token of text is"):
        assert BytePair.train(["ab"], 300, specials=["ab", "a", "a"]).json
    with pytest.raises(UserError, match="'<x>' has the id 97, which is b'a'"):
        BytePair({n: bytes([n]) for n in range(256)}, [], "gpt2", {"<x>": 97})
    with pytest.raises(UserError, match="not one of gpt2, cl100k, o200k, nor a regular expression"):
        splitter("(")
    with pytest.raises(UserError, match="half a surrogate pair"):
        TRAINED["gpt2"].encode("a\ud800")
    with pytest.raises(UserError, match="half a surrogate pair"):
        TRAINED["gpt2"].encode_special("a\ud800")
    with pytest.raises(UserError, match="half a surrogate pair"):
        BytePair.train(["a\ud800"], 300)
