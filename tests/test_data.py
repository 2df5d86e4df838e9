"""Corpora and token files: published counts, splits that cover the text once, errors of one line."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nanogpt.config import DataConfig
from nanogpt.data import Corpus, Tokens, open_corpus, prepare, summary
from nanogpt.data import corpus as corpus_module
from nanogpt.data.text import PIECE, between, cut, in_pieces, whole
from nanogpt.errors import UserError
from nanogpt.tokenizers import Tokenizer, make_tokenizer, tokenizer_for
from nanogpt.tokenizers.bpe import JsonTokenizer
from nanogpt.tokenizers.bytepair import BytePair
from nanogpt.tokenizers.opening import open_tokenizer
from nanogpt.tokenizers.tables import ByteTokenizer
from tests.vocabularies import ANY_TEXT


def opened(corpus: Any, **fields: Any) -> Corpus:
    return open_corpus(DataConfig(corpus=str(corpus) if isinstance(corpus, Path) else corpus, **fields))


def text_of(corpus: Corpus, split: str) -> str:
    return "".join(corpus.split(split))


def prepared(corpus: Corpus, spec: str) -> tuple[Tokenizer, dict[str, Tokens]]:
    tokenizer = tokenizer_for(spec, corpus)
    return tokenizer, prepare(corpus, tokenizer, corpus.batching)


# --- named corpora -----------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "train", "val"), [("char", 1_003_854, 111_540), ("gpt2", 301_966, 36_059)])
def test_shakespeare_has_the_published_counts(spec: str, train: int, val: int, data_dir: Path) -> None:
    corpus = opened("shakespeare")
    tokenizer, tokens = prepared(corpus, spec)
    assert {k: len(v) for k, v in tokens.items()} == {"train": train, "val": val}
    assert {k: v.n_bytes for k, v in tokens.items()} == {"train": 1_003_854, "val": 111_540}
    text = (data_dir / "corpora" / "tinyshakespeare.txt").read_text()
    assert text_of(corpus, "train") + text_of(corpus, "val") == text
    assert tokenizer.decode(tokens["val"].ids) == text[1_003_854:]
    assert tokens["train"].ids.dtype == np.uint16


def test_shakespeares_test_split_is_never_in_train(data_dir: Path) -> None:
    with pytest.raises(UserError, match="no split 'test'"):
        text_of(opened("shakespeare"), "test")
    carved = open_corpus(DataConfig(corpus="shakespeare", carve="test"))
    text = (data_dir / "corpora" / "tinyshakespeare.txt").read_text()
    assert text_of(carved, "train") + text_of(carved, "test") + text_of(carved, "val") == text
    assert text_of(carved, "val") == text[1_003_854:]
    assert 0.04 < len(text_of(carved, "test")) / 1_003_854 < 0.06
    plain = prepare(opened("shakespeare"), make_tokenizer("byte", lambda: iter(()), False), "stream")
    cut_ = prepare(carved, make_tokenizer("byte", lambda: iter(()), False), "stream")
    assert len(cut_["train"]) < len(plain["train"])  # not one cache entry for both


def test_names_are_makemores(data_dir: Path) -> None:
    corpus = opened("names")
    assert corpus.batching == "pad"
    tokenizer, tokens = prepared(corpus, "char")
    assert tokenizer.vocab_size == 27
    assert tokenizer.eot == 0
    # an example for each character and one for the end: what block_size=3 gives in the lecture
    assert [len(tokens[s]) - 1 for s in ("train", "val", "test")] == [182_625, 22_655, 22_866]
    words = (data_dir / "corpora" / "names.txt").read_text().splitlines()
    random.seed(42)
    random.shuffle(words)
    assert list(corpus.split("val")) == words[25_626:28_829]
    assert tokens["train"].n_documents == 25_626


def test_tinystories_are_whole_stories(data_dir: Path) -> None:
    corpus = opened("tinystories")
    text = (data_dir / "corpora" / "tinystories_train_2M.txt").read_text()
    stories = [story.strip("\n") for story in text.split("<|endoftext|>")]
    assert [*corpus.split("train"), *corpus.split("test"), *corpus.split("val")] == [s for s in stories if s]
    assert 0.04 < len(text_of(corpus, "val")) / len(text) < 0.06
    tokenizer, tokens = prepared(corpus, "char")
    assert "<" not in tokenizer.json.split('"vocab"')[1].replace("<|endoftext|>", "")
    assert tokens["val"].ids[tokens["val"].starts].tolist() == [tokenizer.eot] * (tokens["val"].n_documents + 1)


def test_python_is_the_standard_library_and_no_file_is_in_two_splits() -> None:
    corpus = opened("python")
    splits = {name: list(corpus.pieces(name)) for name in corpus.splits}
    total = sum(len(text) for pieces in splits.values() for text, _ in pieces)
    for name in ("val", "test"):
        size = sum(len(text.encode()) for text, _ in splits[name])
        assert 0.7 * min(0.05 * total, 250_000) < size <= 250_000
    import heapq

    source = Path(heapq.__file__).read_text(encoding="utf-8")
    assert sum(source == text for pieces in splits.values() for text, _ in pieces) == 1
    documents = [text for pieces in splits.values() for text, _ in pieces if len(text) > 200]
    assert len(documents) == len(set(documents))
    assert opened("python").sha256 == corpus.sha256
    assert corpus.batching == "stream"


def test_a_changed_copy_of_a_named_corpus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "names.txt").write_text("emma\nolivia\n")
    monkeypatch.setenv("NANOGPT_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"deep/names\.txt: sha256 .* but names\.txt has 0a30b5557f19") as caught:
        opened("names")
    assert "\n" not in str(caught.value)


# --- files of your own -------------------------------------------------------------------------

LINES = st.lists(st.text("ab é世\r", max_size=8), min_size=40, max_size=80).map(
    lambda lines: "x\n" * 9 + "\n".join(lines)
)


@given(text=LINES, val=st.floats(0.01, 0.4), test=st.floats(0.01, 0.3))
def test_a_files_splits_are_the_file_cut_at_line_ends(
    text: str, val: float, test: float, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("own") / "mine.txt"
    path.write_bytes(text.encode())
    corpus = opened(path, val=val, test=test)
    parts = [text_of(corpus, split) for split in ("train", "test", "val")]
    assert "".join(parts) == text
    assert all(parts)
    assert parts[0].endswith("\n")
    assert parts[1].endswith("\n")
    longest = max(len(line.encode()) + 1 for line in text.split("\n"))
    assert abs(len(parts[2].encode()) - val * len(text.encode())) <= longest + 1
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_held_out_splits_are_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "HELD_OUT_BYTES", 1000)
    (tmp_path / "t.txt").write_text("a line of text\n" * 10_000)
    corpus = opened(tmp_path / "t.txt")
    assert 985 <= len(text_of(corpus, "val")) <= 1015
    assert 985 <= len(text_of(corpus, "test")) <= 1015


def test_a_folder_is_documents_and_skips_what_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / ".git").mkdir()
    files = {"a/1.md": "one\n" * 30, "a/2.md": "two\n" * 30, "b.txt": "three\n" * 30}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".git" / "config").write_text("hidden\n")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    for corpus in (opened(tmp_path), opened(f"{tmp_path}/**/*.[mt]*"), opened([f"{tmp_path}/a", f"{tmp_path}/b.txt"])):
        assert corpus.documents
        assert "".join(text_of(corpus, s) for s in ("train", "test", "val")) == "".join(files.values())
        tokenizer, tokens = prepared(corpus, "char")
        assert "hidden" not in tokenizer.decode(tokens["train"].ids)
        assert tokens["train"].n_documents == 3
        assert tokenizer.decode(tokens["train"].ids[:16]) == "<|endoftext|>one\none\none\none"[: 15 + 13]


def test_named_corpora_and_files_can_be_joined(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "t.txt").write_text("zebra\n" * 50)
    corpus = opened(["names", str(tmp_path / "t.txt")])
    names = (data_dir / "corpora" / "names.txt").read_text()
    assert "".join(text_of(corpus, s) for s in ("train", "test", "val")) == names + "zebra\n" * 50


def test_lines_as_documents(tmp_path: Path) -> None:
    lines = [f"line {i}" for i in range(100)]
    (tmp_path / "t.txt").write_text("\n".join(lines) + "\n\n\n")
    corpus = opened(tmp_path / "t.txt", batching="pad")
    assert [*corpus.split("train"), *corpus.split("test"), *corpus.split("val")] == lines
    tokenizer, tokens = prepared(corpus, "char")
    ids, starts = tokens["train"].ids, tokens["train"].starts
    assert starts is not None
    assert [tokenizer.decode(ids[a + 1 : b]) for a, b in itertools.pairwise(starts)] == list(corpus.split("train"))
    assert tokens["train"].n_bytes == sum(map(len, corpus.split("train")))
    # the same text read as one stream is another entry of the cache
    assert prepared(opened(tmp_path / "t.txt"), "byte")[1]["train"].starts is None
    assert prepared(corpus, "byte")[1]["train"].starts is not None


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"x\.txt: the file is empty"),
    "one line": (b"just this", r"x\.txt: 9 bytes in too few lines.*needs more lines"),
    "one long line": (b"word " * 100_000, "too few lines"),
    "two lines": (b"a\nb\n", "too few lines"),
    "nul": (b"text\n" * 10 + b"\0" + b"text\n" * 10, r"x\.txt: not a text file: a NUL byte at byte 50;"),
    "latin-1": (b"text\n" * 10 + b"caf\xe9\n" + b"text\n" * 10, r"not a text file: no UTF-8 at byte 53;"),
    "cut": (b"text\n" * 10 + "é".encode()[:1], r"the text stops inside a character at byte 50;"),
    "late": (b"text\n" * PIECE + b"\xff" + b"text\n" * 10, rf"no UTF-8 at byte {5 * PIECE:,};"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("spec", ["char", "byte", "bpe"])
def test_what_is_no_corpus_is_refused_in_one_line(case: str, spec: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        prepared(opened(tmp_path / "x.txt"), spec)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    cases: dict[str, Any] = {
        "did you mean 'shakespeare'": "shakespear",
        "no file matches": f"{tmp_path}/*.txt",
        "no text files in this folder": tmp_path,
        "an empty list": [],
    }
    for message, corpus in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            opened(corpus)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="shakespeare is one stream, without documents; nearest: stream"):
        opened("shakespeare", batching="pad")


def test_blank_lines_are_not_a_corpus_of_documents(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n" * 50 + "a\n" * 50)
    corpus = opened(tmp_path / "x.txt", batching="pad", val=0.2, test=0.2)
    assert len(list(corpus.split("train"))) > 1
    (tmp_path / "x.txt").write_text("a\n" * 50 + "\n" * 50)
    with pytest.raises(UserError, match="the val split has no text"):
        prepared(opened(tmp_path / "x.txt", batching="pad", val=0.2, test=0.2), "byte")


def test_documents_need_a_tokenizer_with_an_end(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a line\n" * 50)
    corpus = opened(tmp_path / "x.txt", batching="pack")
    with pytest.raises(UserError, match=r"no <\|endoftext\|> between texts; nearest: stream"):
        prepare(corpus, make_tokenizer("byte", lambda: iter(()), False), "pack")


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "x.txt").write_text("a line of text\n" * 50)
    tokenizer, tokens = prepared(opened(tmp_path / "x.txt"), "cl100k_base")
    assert tokens["train"].ids.dtype == np.uint32
    assert tokenizer.decode(tokens["train"].ids) == text_of(opened(tmp_path / "x.txt"), "train")


def test_summary_says_what_there_is(data_dir: Path) -> None:
    corpus = opened("shakespeare")
    tokenizer, tokens = prepared(corpus, "gpt2")
    found = summary(corpus, tokenizer, tokens)
    assert found["bytes"] == 1_115_394
    assert found["bytes_per_token"] == pytest.approx(3.300, abs=5e-4)
    assert found["splits"]["val"] == {"bytes": 111_540, "tokens": 36_059, "documents": None}
    assert found["sample"].startswith("First Citizen:")
    assert found["sha256"] == hashlib.sha256((data_dir / "corpora" / "tinyshakespeare.txt").read_bytes()).hexdigest()


# --- pieces ------------------------------------------------------------------------------------


def chunked(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


@given(st.text("ab1.\n \r", max_size=300), st.integers(1, 50), st.integers(1, 50))
def test_pieces_are_the_text_and_end_at_safe_places(text: str, chunk: int, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpt.data.text.PIECE", piece)
        pieces = list(in_pieces(chunked(text, chunk)))
        assert "".join(pieces) == text
        assert all(pieces)
        for before, after in itertools.pairwise(pieces):
            safe = before[-1].isalnum() and after[0].isspace()
            assert safe or not any(a.isalnum() and b.isspace() for a, b in itertools.pairwise(before))
        documents = list(whole(chunked(text, chunk)))
        assert "".join(t for t, _ in documents) == text
        assert [ends for _, ends in documents] == [False] * (len(documents) - 1) + [True] * bool(text)


@given(st.text("ab\n#", max_size=200), st.integers(1, 20), st.integers(1, 10), st.sampled_from(["\n", "##", "#\n#"]))
def test_documents_between_separators(text: str, chunk: int, piece: int, separator: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpt.data.text.PIECE", piece)
        found, current = [], ""
        for part, ends in between(chunked(text, chunk), separator):
            current += part
            if ends:
                found.append(current)
                current = ""
    assert not current
    wanted = [d.strip("\r\n") for d in text.split(separator)]
    assert [d.strip("\r\n") for d in found if d.strip("\r\n")] == [d for d in wanted if d]


LONG_TEXT = st.lists(ANY_TEXT, min_size=4, max_size=12).map("".join)


@pytest.fixture(scope="module")
def tokenizers(data_dir: Path) -> dict[str, Tokenizer]:
    """Kinds that mind where a text is cut: a space before each text, a pattern of one's own, composed characters."""
    words = ["one word, and another; cafe\u0301 1200 "] * 9
    composing = json.loads(BytePair.train(words, 300, "gpt2").json) | {"normalizer": {"type": "NFC"}}
    found = {
        "llama2": open_tokenizer(str(data_dir / "tokenizers/llama2/tokenizer.model"), by="library"),
        "sentences": JsonTokenizer(BytePair.train(words, 300, r"[^.]+|\.").json),
        "composing": JsonTokenizer(json.dumps(composing)),
        "words": make_tokenizer("words(min_count=2)", lambda: iter(words), False),
    }
    return {**found, "by hand": open_tokenizer(str(data_dir / "tokenizers/llama2/tokenizer.model"))}


@pytest.mark.parametrize("name", ["llama2", "sentences", "composing", "words", "by hand"])
@settings(max_examples=60, deadline=None)
@given(text=LONG_TEXT, piece=st.integers(40, 200), documents=st.booleans())
@example(
    text="First Citizen:\nBefore we  proceed, hear me speak.\n\nAll:\nSpeak, speak. " * 9, piece=40, documents=False
)
def test_a_text_in_pieces_has_the_tokens_of_the_whole(
    name: str, text: str, piece: int, documents: bool, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers[name]
    expected = tokenizer.encode(text).tolist()
    assume(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpt.data.text.PIECE", piece)
        pieces = [(part, ends and documents) for part, ends in whole(chunked(text, piece))]
        patch.setattr("nanogpt.data.shards.NEAR", 32)
        sha256 = hashlib.sha256(repr((pieces, name)).encode()).hexdigest()
        corpus = Corpus("drawn", "drawn", sha256, documents, "stream", "all", {"train": lambda: iter(pieces)})
        tokens = prepare(corpus, tokenizer, "stream")["train"]
    ends = [tokenizer.eot] if documents and tokenizer.eot is not None else []
    assert tokens.ids.tolist() == [*ends, *expected, *ends]
    assert tokens.n_bytes == len(text.encode())


def test_a_text_of_which_a_tokenizer_keeps_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blank.txt"
    path.write_text(" \n" * 1000)
    words = make_tokenizer("words(min_count=1)", lambda: iter(["one"]), False)
    with pytest.raises(UserError, match=r"blank\.txt: the \w+ split has no text"):
        prepare(opened(path), words, "stream")


def test_a_text_that_can_be_cut_nowhere_is_held_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0

    class Whole(ByteTokenizer):
        """Says how long a text is, so that no cut leaves it as it was."""

        def _encode(self, texts: list[str]) -> list[np.ndarray]:
            nonlocal longest
            longest = max(longest, *map(len, texts))
            return [np.array([len(text) % 251, *text.encode()]) for text in texts]

    monkeypatch.setattr("nanogpt.data.text.PIECE", 100)
    monkeypatch.setattr("nanogpt.data.shards.AT_ONCE", 1000)
    parts = {"train": lambda: ((text, False) for text in in_pieces(chunked("word " * 2000, 10)))}
    corpus = Corpus("long", "long", "0" * 64, False, "stream", "all", parts)
    tokens = prepare(corpus, Whole(documents=False), "stream")["train"]
    assert tokens.n_bytes == 10_000 and len(tokens) < 10_011 and longest <= 2 * 1024


def test_a_stream_without_a_safe_place_is_cut_somewhere_and_a_text_is_not() -> None:
    text = "世" * (3 * PIECE)
    pieces = list(in_pieces(chunked(text, 1000)))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 2 * PIECE
    assert cut(text) == [text]


@given(st.text("ab1.\n \r", max_size=300), st.integers(1, 50))
def test_a_text_is_cut_at_safe_places_only(text: str, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpt.data.text.PIECE", piece)
        pieces = cut(text)
    assert "".join(pieces) == text
    assert all(a[-1].isalnum() and b[0].isspace() and len(a) > piece for a, b in itertools.pairwise(pieces))
    assert not any(a.isalnum() and b.isspace() for a, b in itertools.pairwise(pieces[-1][piece:]))
