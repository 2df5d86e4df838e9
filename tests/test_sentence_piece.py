"""SentencePiece's model files, read by hand: the ids of SentencePiece itself, whatever the model was trained with."""

from __future__ import annotations

import io
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from tokenizers import Tokenizer as Engine

from nanogpt.errors import UserError
from nanogpt.tokenizers.bytepair.model_file import read_model
from nanogpt.tokenizers.bytepair.protobuf import fields
from nanogpt.tokenizers.bytepair.sentence_piece import SentencePiece
from nanogpt.tokenizers.bytepair.tokenizer_json import read
from tests.vocabularies import ANY_TEXT, every_block, random_text

library = pytest.importorskip("sentencepiece")
TEXT = (
    "def f(x):\n    return x + 1200  # naïve \ufb01ne \uff21\uff22\uff23 世界 \uff11\uff12\n\nclass Café: the cat sat\n"
    * 20
)
CHOICES: dict[str, list[Any]] = {
    "byte_fallback": [True, False],
    "normalization_rule_name": ["identity", "nmt_nfkc", "nmt_nfkc_cf"],
    "remove_extra_whitespaces": [True, False],
    "add_dummy_prefix": [True, False],
}
MODELS = [dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values())] + [
    {"byte_fallback": True, "split_digits": True, "user_defined_symbols": ["cat", "<sep>", "sat on"]},
    {"byte_fallback": True, "split_by_whitespace": False, "normalization_rule_name": "identity"},
    {"byte_fallback": False, "allow_whitespace_only_pieces": True, "remove_extra_whitespaces": False},
]
OWN = next(n for n, options in enumerate(MODELS) if "user_defined_symbols" in options)


def trained(folder: Path, number: int, **options: Any) -> Path:
    """A small model of SentencePiece's own making."""
    path = folder / f"{number}.model"
    if not path.exists():
        writer = io.BytesIO()
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT.split("\n")), model_writer=writer, model_type="bpe", minloglevel=9,
            vocab_size=400, hard_vocab_limit=False, **options
        )  # fmt: skip
        path.write_bytes(writer.getvalue())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("number", range(len(MODELS)), ids=lambda n: " ".join(map(str, MODELS[n].values())))
@settings(max_examples=40, deadline=None)
@given(text=ANY_TEXT)
@example(text="  two  spaces \ufb01 \uff11\uff12 ")
@example(text="the cat sat on<sep>the cat  ")
@example(text=" ")
@example(text="\uff21\uff22\uff23\u3000e\u0301\u0327 日本\u200b語")
@example(text=TEXT[:300])
def test_equal_to_sentencepiece_however_it_was_trained(number: int, text: str, folder: Path) -> None:
    path = trained(folder, number, **MODELS[number])
    theirs = library.SentencePieceProcessor(str(path))
    assert read_model(path).encode(text).tolist() == theirs.encode(text)


@pytest.mark.parametrize(
    "number", [n for n in range(len(MODELS)) if n != OWN], ids=lambda n: " ".join(map(str, MODELS[n].values()))
)
@settings(max_examples=20, deadline=None)
@given(text=ANY_TEXT)
@example(text="  two  spaces \ufb01 \uff11\uff12 ")
def test_the_saved_file_gives_the_same_ids_to_the_library_and_to_us(number: int, text: str, folder: Path) -> None:
    ours = read_model(trained(folder, number, **MODELS[number]))
    engine = Engine.from_str(ours.json)
    engine.encode_special_tokens = True
    again = read(json.loads(ours.json))
    assert isinstance(again, SentencePiece)
    ids = ours.encode(text).tolist()
    assert again.encode(text).tolist() == ids
    assert again.json == ours.json
    if not ours.normalizer.charsmap or (text.isascii() and text.isprintable()):
        # The library rewrites by grapheme, SentencePiece by character: "\r\n" is one and two.
        assert engine.encode(text, add_special_tokens=False).ids == ids


def test_what_a_tokenizer_json_cannot_say_is_not_saved(folder: Path) -> None:
    with pytest.raises(UserError, match="the user-defined piece '<sep>' cannot be said exactly"):
        assert read_model(trained(folder, OWN, **MODELS[OWN])).json


Pair = tuple[SentencePiece, Any]


@pytest.fixture(scope="module")
def llama(data_dir: Path) -> Pair:
    path = data_dir / "tokenizers" / "llama2" / "tokenizer.model"
    return read_model(path), library.SentencePieceProcessor(str(path))


@pytest.mark.slow
def test_llama_on_every_corpus(llama: Pair, data_dir: Path) -> None:
    for path in sorted((data_dir / "corpora").glob("*.txt")):
        text = path.read_text(encoding="utf-8")[:1_500_000]
        ids = llama[0].encode(text)
        assert ids.tolist() == llama[1].encode(text), path.name
        assert llama[0].decode(ids) == text


@pytest.mark.slow
def test_llama_on_every_block_and_on_random_characters(llama: Pair) -> None:
    for text in [*every_block(), random_text(seed=5)]:
        assert llama[0].encode(text).tolist() == llama[1].encode(text)


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
def test_llama_on_odd_text(text: str, llama: Pair) -> None:
    ids = llama[0].encode(text)
    assert ids.tolist() == llama[1].encode(text)
    assert llama[0].decode(ids) == text.replace("▁", " ")


def test_llama_is_what_it_is_said_to_be(llama: Pair, data_dir: Path) -> None:
    ours = llama[0]
    assert (ours.vocab_size, ours.bos, ours.eot, len(ours.bytes)) == (32000, 1, 2, 256)
    references = json.loads((data_dir / "tokenizers" / "reference_ids.json").read_text(encoding="utf-8"))
    assert ours.encode("hello world!!!? (안녕하세요!) lol123 😉").tolist() == references["llama2"]
    digits = [piece.text for piece in ours.pieces if any(c in "0123456789" for c in piece.text) and piece.kind == 1]
    assert digits and all(len(text) == 1 for text in digits)


# ---- what is refused


def field(number: int, kind: int, value: bytes) -> bytes:
    return bytes([number << 3 | kind]) + (bytes([len(value)]) if kind == 2 else b"") + value


def test_the_reader_knows_every_kind_of_field() -> None:
    data = field(1, 0, b"\xac\x02") + field(2, 2, b"abc") + field(3, 5, b"\0\0\xc0\x3f") + field(4, 1, bytes(8))
    assert list(fields(data)) == [(1, 300), (2, b"abc"), (3, 1.5), (4, 0.0)]


UNKNOWN = field(1, 2, field(1, 2, b"<unk>") + field(3, 0, b"\x02"))
BPE = field(2, 2, field(3, 0, b"\x02"))
REFUSED = {
    "": "it has no pieces",
    "hello": "not a SentencePiece model, or a damaged one",
    field(1, 2, b"abc")[:-1]: "it ends at byte 4, inside a field of 3 bytes",
    b"\x80": "a number does not end",
    b"\x0b": "no field has the kind 3",
    field(1, 0, b"\x05"): "damaged",
    field(1, 2, field(1, 2, b"\xff")): "damaged",
    UNKNOWN: "the kind 'unigram'",
    UNKNOWN + field(2, 2, field(3, 0, b"\x04")): "the kind 'char'",
    UNKNOWN + BPE + field(1, 2, field(1, 2, b"<0x41>") + field(3, 0, b"\x06")): "only 1 of the 256 bytes",
    BPE + field(1, 2, field(1, 2, b"a")): "neither bytes nor an unknown piece",
    UNKNOWN + BPE + field(1, 2, field(1, 2, b"a") + field(3, 0, b"\x05")): "not to be used",
    UNKNOWN + BPE + field(1, 2, field(1, 2, b"A") + field(3, 0, b"\x06")): "written as one, <0x00> to <0xFF>",
    UNKNOWN + BPE + field(3, 2, field(2, 2, b"\xff\0\0\0")): "precompiled_charsmap",
}


@pytest.mark.parametrize("content", REFUSED, ids=list(REFUSED.values()))
def test_a_damaged_or_foreign_file_is_refused_in_one_line(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "x.model"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=REFUSED[content]) as caught:
        read_model(path).encode("a")
    assert "x.model" in str(caught.value)


def test_a_cut_model_is_refused_wherever_it_is_cut(folder: Path) -> None:
    whole = trained(folder, 0, **MODELS[0]).read_bytes()
    path = folder / "cut.model"
    for end in range(1, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:end])
        try:
            read_model(path).encode("the cat")  # a cut between two fields leaves a smaller model, and maybe a whole one
        except UserError as error:
            assert "cut.model" in str(error)
