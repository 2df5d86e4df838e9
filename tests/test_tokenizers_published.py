"""OpenAI's vocabularies against tiktoken itself, token for token: run by the library, and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanogpt.errors import UserError
from nanogpt.tokenizers import EOT, Tokenizer, make_tokenizer
from nanogpt.tokenizers.bytepair import BytePair
from nanogpt.tokenizers.bytepair.base import Specials
from nanogpt.tokenizers.ranks import published
from tests.vocabularies import ANY_TEXT, ODD_TEXT, every_block, original, random_text

tiktoken = pytest.importorskip("tiktoken")
NAMES = ["gpt2", "cl100k_base", "o200k_base"]
SPECIALS = [EOT, "<|fim_prefix|>", "<|endofprompt|>", "<|fim", "<|endoftext"]
ALLOWED = st.one_of(st.just("all"), st.sets(st.sampled_from(SPECIALS[:3])))
DISALLOWED = st.one_of(st.just("all"), st.sets(st.sampled_from(SPECIALS[:3])))
SIZES = {"gpt2": 50257, "cl100k_base": 100277, "o200k_base": 200019}


Pairs = dict[tuple[str, str], tuple[Tokenizer, "tiktoken.Encoding"]]


@pytest.fixture(scope="module")
def pairs(data_dir: Path) -> Pairs:
    found: Pairs = {}
    for name in NAMES:
        theirs = original(name, data_dir)
        found["library", name] = make_tokenizer(name, lambda: iter(()), False), theirs
        found["hand", name] = published(name), theirs
    return found


KEYS = [(by, name) for by in ("library", "hand") for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_sizes_and_the_end_of_text(key: tuple[str, str], pairs: Pairs) -> None:
    ours, theirs = pairs[key]
    assert ours.vocab_size == theirs.n_vocab == SIZES[key[1]]
    assert ours.eot == theirs.eot_token
    assert ours.lossless
    assert ours.encode(EOT).tolist() == theirs.encode_ordinary(EOT)
    assert ours.decode([theirs.eot_token]) == EOT


@pytest.mark.slow
def test_reference_ids(pairs: Pairs, data_dir: Path) -> None:
    references = json.loads((data_dir / "tokenizers" / "reference_ids.json").read_text(encoding="utf-8"))
    text = "hello world!!!? (안녕하세요!) lol123 😉"
    for key, (ours, _) in pairs.items():
        assert ours.encode(text).tolist() == references[key[1]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (
            "    hello world!!!",
            ([220, 220, 220, 23748, 995, 10185], [262, 24748, 1917, 12340], [271, 40617, 2375, 10880]),
        ),
        (" SolidGoldMagikarp", ([43453], 5, 5)),
        (".DefaultCellStyle", (4, 1, 3)),
    ],
)
def test_published_examples(text: str, ids: tuple[list[int] | int, ...], pairs: Pairs) -> None:
    for (_, name), (ours, _) in pairs.items():
        found, wanted = ours.encode(text).tolist(), ids[NAMES.index(name)]
        assert (found if isinstance(wanted, list) else len(found)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_equal_to_tiktoken_on_every_corpus(key: tuple[str, str], pairs: Pairs, data_dir: Path) -> None:
    ours, theirs = pairs[key]
    for path in sorted((data_dir / "corpora").glob("*.txt")):
        text = path.read_text(encoding="utf-8")[:2_000_000]
        assert ours.encode(text).tolist() == theirs.encode_ordinary(text), path.name


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
@example(text="x\n   ")
@example(text="  \n\n  \n")
@example(text="a" * 500)
@example(text=" " * 300 + "x")
def test_equal_to_tiktoken_on_odd_text(key: tuple[str, str], text: str, pairs: Pairs) -> None:
    ours, theirs = pairs[key]
    assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equal_to_tiktoken_on_every_block_and_on_random_characters_and_bytes(name: str, pairs: Pairs) -> None:
    ours, theirs = pairs["hand", name]
    for text in [*every_block(), random_text(seed=4)]:
        assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
    data = np.random.default_rng(4).bytes(1_000_000)
    assert isinstance(ours, BytePair)
    assert ours.decode_bytes(ours.encode_bytes(data)) == data


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.one_of(st.sampled_from(SPECIALS), ODD_TEXT)), allowed=ALLOWED, disallowed=DISALLOWED)
def test_special_tokens_as_tiktoken_has_them(
    name: str, parts: list[str], allowed: Specials, disallowed: Specials, pairs: Pairs
) -> None:
    ours, theirs = pairs["hand", name]
    assert isinstance(ours, BytePair)
    known = {"all": "all"}
    allow = known.get(allowed) if isinstance(allowed, str) else {n for n in allowed if n in ours.specials}
    refuse = known.get(disallowed) if isinstance(disallowed, str) else {n for n in disallowed if n in ours.specials}
    text = "".join(parts)
    try:
        wanted = theirs.encode(text, allowed_special=allow, disallowed_special=refuse)
    except ValueError:
        with pytest.raises(UserError, match="special token"):
            ours.encode_special(text, allow, refuse)
    else:
        assert ours.encode_special(text, allow, refuse).tolist() == wanted


@pytest.mark.slow
def test_the_byte_shuffle(pairs: Pairs) -> None:
    """Ids of the 256 bytes: 0 is 188, ! is 0, a is 64, as in the exercise of minbpe."""
    for name in NAMES:
        ours, theirs = pairs["hand", name]
        assert isinstance(ours, BytePair)
        assert [ours.byte_ids[byte] for byte in (0, 33, 97)] == [188, 0, 64]
        assert list(ours.byte_ids) == [theirs.encode_single_token(bytes([byte])) for byte in range(256)]


@pytest.mark.slow
def test_the_lecture_s_numbers(pairs: Pairs, data_dir: Path) -> None:
    text = (data_dir / "corpora" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    rates = [round(len(text.encode()) / len(pairs["hand", name][0].encode(text)), 3) for name in NAMES]
    assert rates == [3.300, 3.695, 3.748]
    gpt4 = pairs["hand", "cl100k_base"][0]
    assert isinstance(gpt4, BytePair)
    assert gpt4.encode_special(f"{EOT}hello world", allowed="all").tolist() == [100257, 15339, 1917]
    assert sorted(gpt4.specials.values()) == [*range(100257, 100261), 100276]
