"""OpenAI's vocabularies against tiktoken itself, token for token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanogpt.tokenizers import EOT, Tokenizer, make_tokenizer

tiktoken = pytest.importorskip("tiktoken")
NAMES = ["gpt2", "cl100k_base", "o200k_base"]
SIZES = {"gpt2": 50257, "cl100k_base": 100277, "o200k_base": 200019}


def original(name: str, data: Path) -> tiktoken.Encoding:
    """tiktoken's encoding, its rank file read from disk instead of the network."""
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks, load_tiktoken_bpe
    from tiktoken_ext import openai_public

    folder = data / "tokenizers" / name
    files = {"vocab_bpe_file": str(folder / "vocab.bpe"), "encoder_json_file": str(folder / "encoder.json")}

    def ranks(*_: object, **__: object) -> dict[bytes, int]:
        return load_tiktoken_bpe(str(folder / f"{name}.tiktoken"))

    def gpt2(**_: object) -> dict[bytes, int]:
        return data_gym_to_mergeable_bpe_ranks(**files)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        patch.setattr(openai_public, "load_tiktoken_bpe", ranks)
        patch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", gpt2)
        return tiktoken.Encoding(**getattr(openai_public, name)())


@pytest.fixture(scope="module")
def pairs(data_dir: Path) -> dict[str, tuple[Tokenizer, tiktoken.Encoding]]:
    return {name: (make_tokenizer(name, lambda: iter(()), False), original(name, data_dir)) for name in NAMES}


Pairs = dict[str, tuple[Tokenizer, "tiktoken.Encoding"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_the_end_of_text(name: str, pairs: Pairs) -> None:
    ours, theirs = pairs[name]
    assert ours.vocab_size == theirs.n_vocab == SIZES[name]
    assert ours.eot == theirs.eot_token
    assert ours.lossless
    assert ours.encode(EOT).tolist() == theirs.encode_ordinary(EOT)
    assert ours.decode([theirs.eot_token]) == EOT


@pytest.mark.slow
def test_reference_ids(pairs: Pairs, data_dir: Path) -> None:
    references = json.loads((data_dir / "tokenizers" / "reference_ids.json").read_text(encoding="utf-8"))
    found = json.dumps(references)
    text = "hello world!!!? (안녕하세요!) lol123 😉"
    for name in NAMES:
        assert json.dumps(pairs[name][0].encode(text).tolist())[1:-1] in found


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
    for name, wanted in zip(NAMES, ids, strict=True):
        found = pairs[name][0].encode(text).tolist()
        assert (found if isinstance(wanted, list) else len(found)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equal_to_tiktoken_on_every_corpus(name: str, pairs: Pairs, data_dir: Path) -> None:
    ours, theirs = pairs[name]
    for path in sorted((data_dir / "corpora").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        assert ours.encode(text).tolist() == theirs.encode_ordinary(text), path.name


SPACES = st.sampled_from([" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\x85", "\x1c"])
WORDS = [
    "'s",
    "'S",
    "'\u017f",
    "'LL",
    "a",
    "aa",
    "A",
    "1",
    "12345",
    "!",
    "?/",
    "é",
    "e\u0301",
    "ǅ",
    "世",
    "가",
    EOT,
    "\0",
]
ODD = st.sampled_from(WORDS)
ODD_TEXT = st.lists(st.one_of(SPACES, ODD), max_size=60).map("".join)
UNICODE = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=80)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=300, deadline=None)
@given(text=st.one_of(ODD_TEXT, UNICODE))
@example(text="x\n   ")
@example(text="  \n\n  \n")
@example(text="a" * 500)
@example(text=" " * 300 + "x")
def test_equal_to_tiktoken_on_odd_text(name: str, text: str, pairs: Pairs) -> None:
    ours, theirs = pairs[name]
    assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
    assert ours.decode(ours.encode(text)) == text
