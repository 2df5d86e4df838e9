"""Tokenizers: what they encode comes back, what they save Hugging Face's library reads, what they refuse they name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine

from nanogpt.data.text import PIECE
from nanogpt.errors import UserError
from nanogpt.tokenizers import (
    EOT,
    Tokenizer,
    check_tokenizer,
    load_tokenizer,
    make_tokenizer,
    read_tokenizer,
    resolve_tokenizer,
)
from nanogpt.tokenizers.bytepair import BytePair, Merge
from nanogpt.tokenizers.opening import open_tokenizer

TEXT = "def f(x):\n    return x + 1  # naïve 世界\n\nclass Café:\n\tpass\n" * 50
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
SPECIALS = st.sampled_from(
    [EOT, "\0", "e\u0301", "\r\n", "  \n\n  x", "\ufeff", "\U0001f469\u200d\U0001f680", "1234567", "'S"]
)
ANY_TEXT = st.lists(st.one_of(UNICODE, SPECIALS)).map("".join)
SPECS = ["byte", "bpe(vocab_size=300)", "bpe(vocab_size=280, split=gpt2)", "bpe(vocab_size=290, split=o200k)"]


def made(spec: str, documents: bool = True, text: str = TEXT) -> Tokenizer:
    return make_tokenizer(spec, lambda: iter([text]), documents)


def load(text: str) -> Tokenizer:
    return read_tokenizer(text, "a test")


BYTE_LEVEL = {(spec, documents): made(spec, documents) for spec in SPECS for documents in (False, True)}


@pytest.mark.parametrize("key", BYTE_LEVEL, ids=str)
@given(ANY_TEXT)
@example(EOT)
@example("")
@example("\r\n\r\n a\u0301\0")
def test_every_text_comes_back_from_bytes(key: tuple[str, bool], text: str) -> None:
    tokenizer = BYTE_LEVEL[key]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.lossless
    assert not tokenizer.note
    assert tokenizer.eot is None or tokenizer.eot not in ids  # a special token in the text is text
    assert ids.max(initial=-1) < tokenizer.vocab_size


@given(ANY_TEXT.filter(bool), st.booleans())
def test_every_text_comes_back_from_its_own_alphabet(text: str, documents: bool) -> None:
    tokenizer = made("char", documents, text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == len(set(text)) + documents
    assert ids.tolist() == [sorted(set(text)).index(c) + documents for c in text]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.data())
def test_a_saved_tokenizer_is_read_by_the_library_and_encodes_alike(text: str, data: st.DataObject) -> None:
    spec = data.draw(st.sampled_from(["char", *SPECS[:2]]))
    tokenizer = made(spec, data.draw(st.booleans()), text) if spec == "char" else BYTE_LEVEL[spec, True]
    engine = Engine.from_str(tokenizer.json)
    engine.encode_special_tokens = True
    ids = tokenizer.encode(text).tolist()
    assert engine.encode(text).ids == ids
    assert engine.decode(ids) == text
    assert engine.token_to_id(EOT) == tokenizer.eot


@pytest.mark.parametrize("spec", ["char", *SPECS])
@pytest.mark.parametrize("documents", [True, False])
def test_saving_and_loading_gives_the_same_kind_back(spec: str, documents: bool, tmp_path: Path) -> None:
    tokenizer = made(spec, documents)
    tokenizer.save(tmp_path / "deep" / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "deep" / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert (loaded.eot, loaded.vocab_size, loaded.fingerprint) == (
        tokenizer.eot,
        tokenizer.vocab_size,
        tokenizer.fingerprint,
    )
    assert loaded.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert Engine.from_file(str(tmp_path / "deep" / "tokenizer.json")).get_vocab_size() == tokenizer.vocab_size


def test_published_sizes_and_ids() -> None:
    assert made("char", True, "abcdefghijklmnopqrstuvwxyz").vocab_size == 27
    assert made("byte", False).encode("Aé").tolist() == [65, 0xC3, 0xA9]
    assert (made("byte", False).vocab_size, made("byte", True).vocab_size, made("byte", True).eot) == (256, 257, 256)
    assert made("bpe(vocab_size=300)", True).eot == 0
    assert made("bpe(vocab_size=300)", False).eot is None


def test_shakespeare_ids_of_the_lecture(data_dir: Path) -> None:
    text = (data_dir / "corpora" / "tinyshakespeare.txt").read_text()
    tokenizer = made("char", False, text)
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode("hii there").tolist() == [46, 47, 47, 1, 58, 46, 43, 56, 43]


def test_an_alphabet_covers_the_held_out_text_and_merges_do_not_see_it() -> None:
    char = make_tokenizer("char", lambda: iter(["abc"]), False, lambda: iter(["xyz"]))
    assert char.decode(char.encode("axz")) == "axz"
    alone = make_tokenizer("bpe(vocab_size=260)", lambda: iter(["ab " * 9]), False)
    beside = make_tokenizer("bpe(vocab_size=260)", lambda: iter(["ab " * 9]), False, lambda: iter(["xyz " * 99]))
    assert alone.fingerprint == beside.fingerprint


@pytest.mark.parametrize("place", [0, 5, 70_000])
def test_a_character_outside_the_alphabet_is_named_with_its_place(place: int) -> None:
    with pytest.raises(UserError, match=rf"'€' \(U\+20AC\), number {place + 1} of the text") as caught:
        made("char", False, "ab").encode("a" * place + "€" + "b" * 9)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["char", *SPECS[:2]])
def test_half_a_surrogate_pair_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match=r"character 2 of the text is half a surrogate pair \(U\+D800\)"):
        made(spec).encode("de\ud800f")


@given(st.lists(st.integers(0, 300)))
def test_decoding_never_raises(ids: list[int]) -> None:
    for tokenizer in (*BYTE_LEVEL.values(), made("char")):
        assert isinstance(tokenizer.decode(ids), str)


def test_half_a_character_is_a_replacement_character() -> None:
    assert made("byte").decode([0x61, 0xE4, 0xB8]) == "a\ufffd"
    assert made("bpe(vocab_size=257)").decode(made("bpe(vocab_size=257)").encode("世")[:2]) == "\ufffd"


def test_a_long_text_is_encoded_in_pieces_like_as_a_whole() -> None:
    tokenizer = made("bpe(vocab_size=500)")
    text = (TEXT + "\n\n   x\r\n\r\n") * 200
    assert len(text) > 2 * PIECE
    engine = Engine.from_str(tokenizer.json)
    assert tokenizer.encode(text).tolist() == engine.encode(text).ids


def test_a_text_that_its_pattern_or_its_tokens_forbid_to_cut_is_encoded_as_a_whole() -> None:
    odd = BytePair.train(["one word and another. " * 9], 300, r"[^.]+|\.")
    one_word = BytePair.train(["one word and another. " * 9], 300, "")
    parts = json.loads(made("bpe(vocab_size=300)").json)
    parts["added_tokens"].append({**parts["added_tokens"][0], "content": "d and", "id": 300, "special": False})
    text = "one word and another one word. " * (3 * PIECE // 31)
    for source in (odd.json, one_word.json, json.dumps(parts)):
        tokenizer, engine = load(source), Engine.from_str(source)
        engine.encode_special_tokens = True
        assert tokenizer.encode(text).tolist() == engine.encode(text).ids
    word = "one" * PIECE  # no place to cut it
    ids = made("bpe(vocab_size=300)").encode(word).tolist()
    assert ids == Engine.from_str(made("bpe(vocab_size=300)").json).encode(word).ids


def test_an_id_that_there_is_not_is_a_replacement_character_by_hand_and_by_the_library(tmp_path: Path) -> None:
    hand = BytePair.train([TEXT], 290, specials=[EOT])
    tokens = {i if i < 280 else i + 5: token for i, token in hand.ordinary.items()}  # a hole: 280 to 284
    merges = [Merge(*(i if i < 280 else i + 5 for i in merge)) for merge in hand.merges]
    holed = BytePair(tokens, merges, "gpt2", {EOT: 400})
    library = load(holed.json)
    ids = [-1, *holed.encode(TEXT).tolist(), 282, 399, 400, 401, 2**40]
    wanted = "\ufffd" + TEXT + "\ufffd\ufffd" + EOT + "\ufffd\ufffd"
    assert holed.decode(ids) == library.decode(ids) == wanted
    assert made("byte").decode([97, 999]) == made("char").decode([made("char").vocab_size]).rjust(2, "a") == "a\ufffd"
    words = make_tokenizer("words", lambda: iter(["a b"]), False)
    assert words.decode([1, 99, 2]) == "a \ufffd b"


def test_training_is_the_same_in_every_process() -> None:
    code = (
        "from nanogpt.tokenizers import make_tokenizer\n"
        f"print(make_tokenizer('bpe(vocab_size=400)', lambda: iter([{TEXT!r}]), True).fingerprint)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert {run.stdout.strip() for run in runs} == {made("bpe(vocab_size=400)").fingerprint}


def test_merges_are_those_of_the_textbook() -> None:
    """'aaabdaaabac' of the tokenizer lecture: aa, then aaa or ab; each merge shortens the text as there: 11 -> 5."""
    tokenizer = made("bpe(vocab_size=259)", False, "aaabdaaabac")
    assert len(tokenizer.encode("aaabdaaabac")) == 5


def test_words_are_cut_by_the_chosen_pattern() -> None:
    digits = "1234567 " * 99
    three = made("bpe(vocab_size=600)", text=digits)
    assert max(len(three.decode([i])) for i in three.encode("1234567")) == 3
    assert len(made("bpe(vocab_size=300, split=gpt2)", text=digits).encode(" 1234567")) == 1


def test_names_and_knobs_are_checked_without_data(tmp_path: Path) -> None:
    cases = {
        "bppe": "no tokenizer 'bppe'; did you mean 'bpe'?",
        "bpe(size=3)": "bpe: no knob 'size'",
        "bpe(vocab_size=100)": "bpe: vocab_size=100 must be at least 257.*nearest: 257",
        "bpe(vocab_size=300.5)": "whole number; nearest: 300",
        "bpe(split=gpt4)": "gpt4 is not one of its words",
        "char(x=1)": "char: no knob 'x'",
        "nowhere/tokenizer.json": "nowhere/tokenizer.json: no such file",
    }
    for spec, message in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            check_tokenizer(spec)
        assert "\n" not in str(caught.value)
    for spec in ("char", "byte", "bpe", "gpt2", "cl100k_base", "o200k_base", "bpe(300)"):
        check_tokenizer(spec)
    assert resolve_tokenizer("bpe") == "bpe(vocab_size=2048, split=cl100k)"


def test_any_tokenizer_json_by_its_path(tmp_path: Path) -> None:
    made("bpe(vocab_size=290)").save(tmp_path / "mine.json")
    tokenizer = made(f"'{tmp_path / 'mine.json'}'")
    assert (tokenizer.vocab_size, tokenizer.lossless) == (290, True)


def test_one_that_normalises_says_so(tmp_path: Path) -> None:
    parts = json.loads(made("bpe(vocab_size=300)").json)
    changes: dict[str, dict[str, object]] = {
        "NFC": {"normalizer": {"type": "NFC"}},
        "space before": {
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        },
        "not byte-level": {"pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None},
    }
    for words, change in changes.items():
        (tmp_path / "t.json").write_text(json.dumps(parts | change))
        tokenizer = load_tokenizer(tmp_path / "t.json")
        assert not tokenizer.lossless
        assert words in tokenizer.note
    (tmp_path / "t.json").write_text(json.dumps(parts | {"normalizer": {"type": "NFC"}}))
    assert load_tokenizer(tmp_path / "t.json").decode(load_tokenizer(tmp_path / "t.json").encode("e\u0301")) == "é"


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"model": {}}', '{"model": {"type": "BPE"}}', "\ud7ff{", '{"a": 1}']
)
def test_what_is_no_tokenizer_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"t\.json: not a tokenizer\.json") as caught:
        load_tokenizer(tmp_path / "t.json")
    assert "\n" not in str(caught.value)


def other_id(old: dict[str, Any], token: str, i: object) -> str:
    """The file with another id for a token of its vocabulary."""
    return json.dumps(old | {"model": old["model"] | {"vocab": old["model"]["vocab"] | {token: i}}})


@pytest.mark.parametrize("spec", ["char", "byte", "bpe(vocab_size=300)"])
@pytest.mark.parametrize("i", [1.5, -4, 2**31, 2**40, True, "7", None, 3])
def test_an_id_that_is_none_is_refused_in_one_line(spec: str, i: object, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(other_id(json.loads(made(spec).json), "d", i), encoding="utf-8")
    wrong = r"'d' has the id .*; ids are whole numbers" if i != 3 else "'d' have the same id, 3"
    for read in (load_tokenizer, open_tokenizer, lambda name: open_tokenizer(name, "library")):
        with pytest.raises(UserError, match=wrong) as caught:
            read(str(path))
        assert str(caught.value).startswith(f"{path}: ")


def test_a_token_of_two_ids_and_a_file_nested_too_deeply(tmp_path: Path) -> None:
    parts, path = json.loads(made("bpe(vocab_size=300)").json), tmp_path / "t.json"
    again = parts["added_tokens"] + [{**parts["added_tokens"][0], "id": 300}]
    cases = {
        rf"'{re.escape(EOT)}' has two ids, 0 and 300": json.dumps(parts | {"added_tokens": again}),
        "not a tokenizer.json: nested too deeply": "[" * 100_000,
        "nor a regular expression .*nested too deeply": BytePair.train(["a"], 256, "a").json.replace(
            '"Regex": "a"', f'"Regex": "{"(" * 9999 + ")" * 9999}"'
        ),
    }
    for message, text in cases.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message) as caught:
            open_tokenizer(str(path))
        assert len(str(caught.value)) < 3000
    for text in list(cases.values())[:2]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"t\.json: "):
            load_tokenizer(path)


def test_what_the_library_panics_at_or_cannot_encode_is_said_in_one_line() -> None:
    parts = json.loads(made("bpe(vocab_size=300)").json)
    odd = [{"type": "Precompiled"}, {"type": "Lowercase"}]  # without its table
    with pytest.raises(UserError, match=r"not a tokenizer\.json: "):
        load(json.dumps(parts | {"normalizer": {"type": "Sequence", "normalizers": odd}}))
    words = json.loads(make_tokenizer("words", lambda: iter(["a b"]), False).json)
    words["model"]["unk_token"] = "nowhere"
    with pytest.raises(UserError, match=r"cannot encode this text: .*UNK"):
        load(json.dumps(words)).encode("c")


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UserError, match="it is not text"):
        load_tokenizer(tmp_path / "t.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path / "none.json")
