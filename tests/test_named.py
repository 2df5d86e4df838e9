"""The corpora of the classic models: their splits, and what their files are made from."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
import torch

from nanogpt.config import DataConfig
from nanogpt.data import named
from nanogpt.data.corpora import open_corpus
from nanogpt.data.corpus import Corpus
from nanogpt.data.sources import Source, find
from nanogpt.errors import RunError, UserError


def corpus(name: str, **fields: str) -> Corpus:
    return open_corpus(DataConfig.model_validate({"corpus": name, **fields}))


def test_names_all_is_everything_twice(data_dir: Path) -> None:
    names = corpus("names-all")
    words = (data_dir / "corpora/names.txt").read_text().splitlines()
    assert list(names.split("train")) == list(names.split("val")) == words
    assert names.splits == ("train", "val")


def test_names_makemore_is_makemores_own_split(data_dir: Path) -> None:
    """As its `create_datasets` does with torch's global generator, seeded with 3407."""
    words = (data_dir / "corpora/names.txt").read_text().splitlines()
    with torch.random.fork_rng():
        torch.manual_seed(3407)
        order = torch.randperm(len(words)).tolist()
    names = corpus("names-makemore")
    assert list(names.split("train")) == [words[i] for i in order[:-1000]]
    assert list(names.split("val")) == [words[i] for i in order[-1000:]]


def test_brown_is_nltks_without_its_tags() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("brown/cb01", "\n\tLate/jj words/nns 1/2/cd ./.\n\n")
        archive.writestr("brown/ca02", "\n\tA/at jury/nn\n\n\n\tsaid/vbd ``/`` no/rb ''/''\n")
        archive.writestr("brown/README", "not/a word/of it")
    made = named.BROWN.convert
    assert made is not None
    assert made(buffer.getvalue()).decode() == "A jury\nsaid `` no ''\nLate words 1/2 .\n"


def test_brown_is_one_stream(data_dir: Path) -> None:
    brown = corpus("brown")
    text = "".join("".join(brown.split(split)) for split in ("train", "val", "test"))
    assert text == (data_dir / "corpora/brown_words.txt").read_text()
    with pytest.raises(UserError, match="nearest: stream"):
        corpus("brown", batching="pad")


@pytest.mark.parametrize("name", ["wikitext2", "peps"])
def test_a_file_without_a_split_of_its_own_is_cut_by_position(data_dir: Path, name: str) -> None:
    found = corpus(name)
    whole = Path(found.source).read_text(encoding="utf-8")
    assert "".join("".join(found.split(split)) for split in ("train", "test", "val")) == whole
    assert all("".join(found.split(split)).endswith("\n") for split in ("train", "test"))


def test_a_file_without_an_address_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOGPT_DATA", raising=False)
    with pytest.raises(RunError, match=r"peps\.txt .* NANOGPT_DATA"):
        find(named.PEPS)


def test_what_is_converted_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOGPT_DATA", raising=False)
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "raw").write_bytes(b"abc")
    address, good = (tmp_path / "raw").as_uri(), hashlib.sha256(b"cba").hexdigest()
    with pytest.raises(RunError, match="expected 000"):
        find(Source("turned.txt", "0" * 64, address, convert=lambda raw: raw[::-1]))
    with pytest.raises(RunError, match=r"not what turned\.txt is made from"):
        find(Source("turned.txt", good, address, convert=lambda raw: zipfile.ZipFile(io.BytesIO(raw)).read("x")))
    assert find(Source("turned.txt", good, address, convert=lambda raw: raw[::-1])).read_bytes() == b"cba"
