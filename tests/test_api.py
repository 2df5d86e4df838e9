"""The Python face: build, train, load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, pre_tokenizers

import nanogpt as ng
from nanogpt.api import first_ids
from nanogpt.errors import RunError, UserError
from nanogpt.runs import Run
from nanogpt.tokenizers import make_tokenizer

SMALL = ["model.dim=32", "model.n_layers=1", "model.context=16", "train.batch=4", "train.steps=4", "train.eval_every=2"]


def trained(folder: Path, *more: str, text: str = "the quick brown fox jumps over the lazy dog\n" * 300) -> Run:
    (folder / "my.txt").write_text(text)
    overrides = [f"data.corpus={folder / 'my.txt'}", "tokenizer=char", *SMALL, *more]
    return ng.train("modern", *overrides, out=folder / "runs", quiet=True)


def test_the_functions_stay_functions_once_their_modules_are_imported() -> None:
    code = "import nanogpt as ng\nng.build; import nanogpt.api\nprint(callable(ng.train), callable(ng.build))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_build_takes_keys_of_the_model() -> None:
    model = ng.build("llama", dim=64, n_layers=2, vocab_size=99)
    assert model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 99)
    assert sum(p.numel() for p in ng.build("gpt").parameters()) == 10_788_929


def test_two_models_of_one_seed_agree_and_of_two_do_not() -> None:
    def weights(seed: int) -> torch.Tensor:
        return ng.build("gpt2", n_layers=1, dim=32, vocab_size=50, **{"mixer.heads": 2}, seed=seed).embed.weight

    assert torch.equal(weights(5), weights(5)) and not torch.equal(weights(5), weights(6))


def test_load_is_what_was_trained(tmp_path: Path) -> None:
    run = trained(tmp_path)
    loaded = ng.load(run, "last")
    assert loaded.evaluate("val")["loss"] == pytest.approx(run.metrics()[-1]["val/loss"], abs=1e-6)
    assert loaded.sample("the ", tokens=20, temperature=0) == loaded.sample(["the ", "q"], tokens=20, temperature=0)[0]
    again, other = loaded.sample(["the ", "the "], tokens=30)
    assert again != other  # two samples of one prompt are two
    with pytest.raises(UserError, match=r"--split tset: .*train, val"):
        loaded.evaluate("tset")


def test_a_run_of_another_machine_is_scored_on_this_one(tmp_path: Path) -> None:
    run = trained(tmp_path)
    before = ng.load(run, "last").evaluate()
    text = (run.path / "config.json").read_text()
    (run.path / "config.json").write_text(text.replace('"device": "cpu"', '"device": "cuda:7"'))
    assert ng.load(run, "last").evaluate() == before


def test_a_tokenizer_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path)
    text = run.tokenizer_path.read_text()
    run.tokenizer_path.write_text(text.replace('"q"', '"Q"'))
    with pytest.raises(RunError, match=r"tokenizer.json"):
        ng.load(run)


def test_a_model_of_a_stream_is_not_shown_a_token_it_never_saw(tmp_path: Path) -> None:
    byte = make_tokenizer("byte", lambda: iter(["one text"]), documents=True)
    assert byte.eot is not None
    assert first_ids(byte, True, "ab") == [byte.eot, 97, 98]
    assert first_ids(byte, False, "ab") == [97, 98]
    assert first_ids(byte, False, "") == [10]


def test_a_tokenizer_without_line_ends_can_still_begin(tmp_path: Path) -> None:
    words = HFTokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "quick": 2, "fox": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    run = trained(tmp_path, f"tokenizer={tmp_path / 'tokenizer.json'}")
    assert len(run.samples()) == 2
    with pytest.raises(UserError, match="no tokens"):
        ng.load(run).sample("  ")


def test_names_are_written_one_at_a_time(tmp_path: Path) -> None:
    text = "".join(f"{'ab' * (n % 3 + 1)}\n" for n in range(400))
    run = trained(tmp_path, "data.batching=pad", "train.steps=150", "train.eval_every=150", text=text)
    names = ng.load(run).sample([""] * 8, tokens=16)
    assert sum(name in ("ab", "abab", "ababab") for name in names) >= 6
    assert json.loads((run.path / "environment.json").read_text())["documents"] is True
