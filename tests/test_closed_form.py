"""Models that are fitted at once: the one step, and all that one does with a run afterwards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt.api import Loaded, load
from nanogpt.cli.training import evaluate
from nanogpt.config import compose
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import Tokens
from nanogpt.errors import UserError
from nanogpt.training import loop
from nanogpt.training.fitting import beginning
from nanogpt.training.trainer import Summary

TEXT = "".join(f"{a} and {b} went to the {c}.\n" for a in ["anna", "bert", "carl"] for b in ["dora", "emil"]
               for c in ["sea", "hills", "market", "forest", "town"]) * 4  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "walks.txt"
    path.write_text(TEXT)
    return path


def counted(folder: Path, text: Path, *overrides: str, name: str = "counted") -> Summary:
    config = compose("ngram", [f"data.corpus={text}", "model.context=64", *overrides])
    return loop.train(config, out=folder, name=name, quiet=True, sampler=lambda model, tokenizer, documents: "text")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    return counted(tmp_path_factory.mktemp("runs"), text, "model.embed=ngram(order=4, smoothing=kneser_ney)").run.path


def test_one_step_is_the_whole_training(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1]
    assert 0 < rows[0]["train/loss"] < rows[0]["val/loss"] + 0.1 < math.log(20)
    assert rows[0]["tokens"] > 0.7 * len(TEXT)
    assert "lr" not in rows[0]
    assert (run / "checkpoints").exists()
    assert json.loads((run / "samples.jsonl").read_text())["text"] == "text"


def test_loaded_it_says_what_it_said(run: Path) -> None:
    """Buffers whose sizes only the fit told come back from the checkpoint."""
    loaded = load(run)
    assert loaded.evaluate("val")["loss"] == json.loads((run / "metrics.jsonl").read_text())["val/loss"]
    assert "went to the" in loaded.sample("anna and dora ", tokens=12, temperature=0)


def test_resuming_has_nothing_to_do(run: Path) -> None:
    said: list[str] = []
    ended = loop.resume(run, quiet=True, on_event=lambda event, facts: said.append(str(facts.get("text"))))
    assert ended.ending == "finished"
    assert any("nothing to go on with" in text for text in said)


def test_more_than_one_step_is_refused(tmp_path: Path, text: Path) -> None:
    with pytest.raises(UserError, match=r"nearest: train\.steps=1"):
        counted(tmp_path, text, "train.steps=20")
    assert not list(tmp_path.iterdir())


def test_documents_are_counted_apart_where_they_are_rows(tmp_path: Path, text: Path) -> None:
    """A line's first character has <|endoftext|> for its context, and only that."""
    ended = counted(tmp_path, text, "data.batching=pad", "model.embed=ngram(3, add(k=0))")
    loaded = load(ended.run)
    eot = loaded.tokenizer.eot
    assert eot is not None
    after = loaded.model(torch.tensor([[5, eot]]), documents_BT=torch.tensor([[0, 1]]))[0, -1].exp()
    first = {loaded.tokenizer.decode([int(i)]) for i in (after > 1e-6).nonzero()[:, 0]}
    assert first <= {"a", "b", "c"}


def network(folder: Path, text: Path, *overrides: str) -> Loaded:
    small = ["model.dim=8", "model.n_layers=1", "model.context=64", "model.mixer=attention(heads=2)", "train.steps=3"]
    config = compose("gpt", ["tokenizer=char", f"data.corpus={text}", *small, "train.batch=2", *overrides])
    return load(loop.train(config, out=folder, name="network", quiet=True).run)


def test_a_mixture_is_that_of_probabilities(run: Path, tmp_path: Path, text: Path) -> None:
    one, other = load(run), network(tmp_path, text)
    ids = torch.from_numpy(one.tokenizer.encode("".join(open_split(one, "val"))).astype("int64"))
    total, scored = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 64):
            window = ids[None, start : start + 65]
            p = 0.7 * one.model(window[:, :-1]).softmax(-1) + 0.3 * other.model(window[:, :-1]).softmax(-1)
            total -= float(p[0].gather(1, window[0, 1:, None]).log().sum())
            scored += window.shape[1] - 1
    found = one.evaluate("val", mix=other, share=0.3)
    assert found["tokens"] == scored
    assert found["loss"] == pytest.approx(total / scored, rel=1e-5)
    turned = other.evaluate("val", mix=one, share=0.7)
    assert turned["loss"] == pytest.approx(found["loss"], rel=1e-5)


def open_split(loaded: Loaded, split: str) -> list[str]:
    return list(open_corpus(loaded.config.data).split(split))


def test_mixing_refuses_another_vocabulary_and_another_text(run: Path, tmp_path: Path, text: Path) -> None:
    one = load(run)
    with pytest.raises(UserError, match="different tokenizers"):
        one.evaluate(mix=network(tmp_path / "a", text, "tokenizer=byte"))
    turned = tmp_path / "turned.txt"
    turned.write_text("".join(reversed(TEXT.splitlines(True))))
    with pytest.raises(UserError, match="another text"):
        one.evaluate(mix=load(counted(tmp_path / "b", turned).run))
    with pytest.raises(UserError, match="between 0 and 1"):
        one.evaluate(mix=one, share=1.0)


def test_eval_on_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def scored(**options: Any) -> dict[str, Any]:
        evaluate(run, json=True, **options)
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    plain, short, same = scored(), scored(context=1), scored(mix=f"{run}=0.25")
    assert short["context"] == 1
    assert short["loss"] > plain["loss"] + 0.1  # a 4-gram that sees one character is a bigram
    assert short["tokens"] == plain["tokens"]
    assert same["mix"] == {"run": str(run), "share": 0.25}
    assert same["loss"] == pytest.approx(plain["loss"], rel=1e-6)


def test_windows_beyond_the_positions_are_refused(tmp_path: Path, text: Path) -> None:
    with pytest.raises(UserError, match="64 positions"):
        network(tmp_path, text).evaluate(context=128)


def test_the_beginning_of_a_split() -> None:
    tokens = Tokens(np.arange(10), np.array([0, 4, 7, 9]), 10)
    assert beginning(tokens, 10) is tokens
    some = beginning(tokens, 8)
    assert some.ids.tolist() == list(range(8))
    assert some.starts is not None
    assert some.starts.tolist() == [0, 4, 7]
    assert len(beginning(tokens, 1)) == 5  # one document at least
    assert len(beginning(Tokens(np.arange(10), None, 10), 6)) == 6
