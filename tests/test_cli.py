"""The command line as a person uses it: in a process of its own, from an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import nanogpt, process

SMALL = [
    "tokenizer=char",
    "model.dim=32",
    "model.n_layers=1",
    "model.mixer=attention(heads=2)",
    "model.context=16",
    "train.batch=4",
    "train.steps=6",
    "train.eval_every=3",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    lines = [f"line {n} says {n * n} and the quick brown fox jumps over {n % 7} lazy dogs\n" for n in range(400)]
    (folder / "my.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def run(corpus: Path) -> Path:
    process("-m", "nanogpt", "train", "gpt", "data.corpus=my.txt", *SMALL, "--name", "first", cwd=corpus)
    return corpus / "runs" / "first"


def test_help_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['nanogpt', '--help']\nfrom nanogpt.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    done = process("-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False"
    assert "train" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "sample",
        "eval",
        "show",
        "init",
        "inspect",
        "report",
        "runs",
        "data",
        "import",
        "export",
        "compare",
        "doctor",
    ],
)
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path) -> None:
    text = nanogpt(command, "--help", cwd=tmp_path).stdout
    assert f"nanogpt {command}" in text.split("Usage", 1)[1].split("\n", 1)[1]


def test_training_ends_with_the_loss_the_place_and_what_is_next(corpus: Path) -> None:
    out = nanogpt("train", "data.corpus=my.txt", *SMALL, "--name", "ending", cwd=corpus).stdout
    found = re.search(r"validation loss: (\d+\.\d+) nats per token, (\d+\.\d+) bits per byte", out)
    assert found
    rows = [json.loads(line) for line in (corpus / "runs/ending/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(found[1]) == pytest.approx(rows[-1]["val/loss"], abs=1e-4)
    assert "runs/ending" in out and "nanogpt sample runs/ending" in out and "--resume runs/ending" in out


def test_eval_gives_the_number_that_training_saw(run: Path) -> None:
    found = json.loads(
        nanogpt("eval", str(run), "--split", "val", "--checkpoint", "last", "--json", cwd=run.parent).stdout
    )
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["loss"] == pytest.approx(last["val/loss"], abs=1e-6)
    assert found["bpb"] == pytest.approx(last["val/bpb"], abs=1e-6)
    assert found["step"] == 6 and found["split"] == "val"
    corpus = json.loads((run / "config.json").read_text())["data"]["corpus"]
    assert found["corpus"] == corpus  # which text it was, also where the run is an imported one
    assert f"val of {corpus}: " in nanogpt("eval", str(run), cwd=run.parent).stdout


def test_sample_is_repeatable_and_greedy_ignores_the_seed(run: Path) -> None:
    def text(*more: str) -> str:
        arguments = ("sample", str(run), "--prompt", "line ", "--tokens", "40", "--json", *more)
        found = json.loads(nanogpt(*arguments, cwd=run.parent).stdout)
        assert found["samples"][0]["prompt"] == "line "
        return str(found["samples"][0]["text"])

    assert text("--seed", "3") == text("--seed", "3") != text("--seed", "4")
    greedy = text("--temperature", "0")
    assert greedy == text("--temperature", "0", "--seed", "9") and len(greedy) == 40


def test_stop_ends_before_its_text(run: Path) -> None:
    arguments = ("sample", str(run), "--prompt", "l", "--tokens", "60", "--temperature", "0", "--json")
    whole = json.loads(nanogpt(*arguments, cwd=run.parent).stdout)["samples"][0]["text"]
    stop = whole[20:22]
    cut = json.loads(nanogpt(*arguments, "--stop", stop, cwd=run.parent).stdout)["samples"][0]["text"]
    assert cut == whole[: whole.index(stop)]


def test_a_prompt_outside_the_vocabulary_is_one_line(run: Path) -> None:
    done = nanogpt("sample", str(run), "--prompt", "naïve €", cwd=run.parent, status=2)
    assert done.stderr.count("\n") == 1 and "ï" in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "gtp"], ["gtp", "'gpt'"]),
        (["train", "model.fnn=mlp"], ["model.fnn", "model.ffn"]),
        (["train", "model.ffn=swigul"], ["model.ffn", "swiglu"]),
        (["train", "model.ffn=mlp(hiden=3)"], ["model.ffn", "hidden"]),
        (["train", "model.mixer=attention(heads=5)"], ["model.mixer", "heads=5", "nearest"]),
        (["train", "train.batch=0"], ["train.batch=0", "nearest: 1"]),
        (["train", "train.batch=6", "train.accumulate=4"], ["train.accumulate", "nearest"]),
        (["train", "optim.schedule=cosin"], ["optim.schedule", "cosine"]),
        (["train", "optim.optimizer=adamw(lr=-1)"], ["optim.optimizer", "lr=-1", "nearest"]),
        (["train", "tokenizer=chra"], ["tokenizer", "'char'"]),
        (["train", "data.corpus=no/such/file.txt"], ["no/such/file.txt"]),
        (["train", "--resume", "runs/absent"], ["runs/absent"]),
        (["train", "gpt", "llama"], ["gpt", "llama"]),
        (["train", "--nmae", "x"], ["--nmae"]),
        (["sample", "runs/absent"], ["runs/absent"]),
        (["show", "gpt3"], ["gpt3", "gpt2"]),
        (["nonsense"], ["nonsense"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = nanogpt(*arguments, cwd=tmp_path, status=2)
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert not list(tmp_path.glob("runs/*"))


def test_a_process_ends_with_that_line_and_status(tmp_path: Path) -> None:
    done = process("-m", "nanogpt", "train", "gtp", cwd=tmp_path, status=2)
    assert done.stderr.count("\n") == 1 and "did you mean 'gpt'" in done.stderr and not done.stdout


def test_a_name_that_is_taken_is_refused_and_untouched(run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    done = nanogpt("train", "gpt", "data.corpus=my.txt", *SMALL, "--name", "first", cwd=run.parents[1], status=2)
    assert "--resume" in done.stderr
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_without_a_name_each_run_finds_one(corpus: Path) -> None:
    for _ in range(2):
        nanogpt("train", "bigram", "data.corpus=my.txt", "train.steps=2", "--out", "many", cwd=corpus)
    assert sorted(p.name for p in (corpus / "many").iterdir()) == ["bigram-my", "bigram-my-2"]


def test_runs_lists_and_compares(run: Path) -> None:
    folder = run.parents[1]
    nanogpt("train", "gpt", "data.corpus=my.txt", *SMALL, "model.ffn=swiglu", "--name", "second", cwd=folder)
    listed = {row["name"]: row for row in json.loads(nanogpt("runs", "--json", cwd=folder).stdout)}
    assert listed["first"]["step"] == 6 and listed["first"]["val/loss"] > 0
    compared = json.loads(nanogpt("runs", "runs/first", "runs/second", "--json", cwd=folder).stdout)
    assert list(compared["config"]) == ["model.ffn"]
    assert "swiglu" in nanogpt("runs", "runs/first", "runs/second", cwd=folder).stdout


def test_from_starts_from_the_weights(run: Path) -> None:
    folder = run.parents[1]
    fresh = ["train.steps=1", "optim.optimizer=sgd(lr=0)", "train.eval_every=1"]
    nanogpt("train", "gpt", "data.corpus=my.txt", *SMALL, *fresh, "--from", "runs/first", "--name", "child", cwd=folder)
    best = min(json.loads(line).get("val/loss", 99) for line in (run / "metrics.jsonl").read_text().splitlines())
    child = json.loads((folder / "runs/child/metrics.jsonl").read_text().splitlines()[-1])
    assert child["val/loss"] == pytest.approx(best, abs=1e-5)


def test_a_part_of_ones_own_travels_with_its_run(corpus: Path, tmp_path: Path) -> None:
    part = tmp_path / "my_parts.py"
    part.write_text(README_PART)
    nanogpt(
        "train", "data.corpus=my.txt", *SMALL, f"model.ffn={part}:Mine(hidden=48)", "--name", "own", "--out",
        str(tmp_path / "runs"), cwd=corpus,
    )  # fmt: skip
    part.unlink()
    assert (tmp_path / "runs/own/parts/my_parts.py").read_text() == README_PART
    moved = tmp_path / "elsewhere"
    (tmp_path / "runs/own").rename(moved)
    assert nanogpt("sample", str(moved), "--prompt", "line", "--tokens", "5", cwd=corpus).stdout.startswith("line")
    shown = json.loads(nanogpt("show", str(moved), "--json", cwd=corpus).stdout)
    assert any(row["shape"] == [48, 32] for row in shown["tensors"])


README_PART = re.search(  # the very part that the README has
    r"```python\n(# my_parts\.py.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL
)[1]  # type: ignore[index]


def test_show_counts_gpt2(tmp_path: Path) -> None:
    assert json.loads(nanogpt("show", "gpt2", "--json", cwd=tmp_path).stdout)["total_parameters"] == 124_439_808
    assert "124,439,808" in nanogpt("show", "gpt2", cwd=tmp_path).stdout


def test_show_lists_parts_and_settings(tmp_path: Path) -> None:
    parts = json.loads(nanogpt("show", "--parts", "--json", cwd=tmp_path).stdout)
    assert "kv_heads" in parts["model.mixer"]["attention"]["knobs"] and "swiglu" in parts["model.ffn"]
    assert "E[f^2] = 3/2" in nanogpt("show", "--parts", cwd=tmp_path).stdout  # brackets are text here
    settings = {row["key"]: row for row in json.loads(nanogpt("show", "--settings", "--json", cwd=tmp_path).stdout)}
    assert settings["train.batch"]["meaning"]


def test_data_describes_a_text(corpus: Path) -> None:
    found = json.loads(nanogpt("data", "my.txt", "--tokenizer", "char", "--json", cwd=corpus).stdout)
    assert found["bytes"] == (corpus / "my.txt").stat().st_size
    assert sum(s["tokens"] for s in found["splits"].values()) == len((corpus / "my.txt").read_text())


def test_doctor_agrees_with_itself(tmp_path: Path) -> None:
    found = json.loads(nanogpt("doctor", "--json", cwd=tmp_path).stdout)
    assert found["cores"] == int(subprocess.check_output(["nproc"], env={"PATH": os.environ["PATH"]}))
    assert found["devices"]["cpu"]["tflops"]["fp32"] > 0 and all(d["agrees"] for d in found["devices"].values())


def test_ctrl_c_saves_and_says_how_to_go_on(corpus: Path) -> None:
    long = [s for s in SMALL if not s.startswith("train.steps")] + ["train.steps=100000", "train.eval_every=50000"]
    command = [sys.executable, "-m", "nanogpt", "train", "gpt", "data.corpus=my.txt", *long, "--name", "long"]
    training = subprocess.Popen(command, cwd=corpus, stdout=subprocess.PIPE, text=True)
    log = corpus / "runs/long/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size > 2000):
        assert time.monotonic() < deadline and training.poll() is None
        time.sleep(0.05)
    training.send_signal(2)
    out, _ = training.communicate(timeout=60)
    assert training.returncode == 130 and "--resume runs/long" in out
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    assert (corpus / f"runs/long/checkpoints/step-{step:06d}").is_dir()


def test_the_presets_are_listed_and_a_wrong_name_gets_the_closest(tmp_path: Path) -> None:
    listed = json.loads(nanogpt("show", "--presets", "--json", cwd=tmp_path).stdout)
    assert listed.keys() >= {"modern", "gpt2", "makemore-mlp", "qwen3-8b"} and all(
        len(what) > 10 for what in listed.values()
    )
    assert "makemore-mlp" in nanogpt("show", "--presets", cwd=tmp_path).stdout
    said = nanogpt("train", "quen3-8b", cwd=tmp_path, status=2).stderr
    assert "did you mean 'qwen3-8b'?" in said and len(said) < 400
