"""kill -9 at random moments: the run that is resumed ends in the very weights of the one that was left in peace."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanogpt.runs import Run

KILLS = 20
SETTINGS = [
    "tokenizer=char",
    "model.dim=32",
    "model.n_layers=2",
    "model.mixer=attention(heads=2)",
    "model.context=32",
    "model.layout=pre(dropout=0.1)",
    "optim.optimizer=muon",
    "train.batch=8",
    "train.steps=700",
    "train.checkpoint_every=20",
    "train.eval_every=100",
]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nanogpt", "train", *map(str, arguments)]


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    text = tmp_path / "count.txt"
    text.write_text("".join(f"line {n} and {n * 7 % 13}\n" for n in range(2000)))
    return ["modern", f"data.corpus={text}", *SETTINGS]


def killed(arguments: list[str], after: float, grown: Path | None = None) -> int | None:
    """Run the command and kill it after so many seconds, counted from the moment that the file `grown` grows where one
    is given. Its exit status, None where the kill came first."""
    size = grown.stat().st_size if grown and grown.exists() else 0
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while grown and process.poll() is None and not (grown.exists() and grown.stat().st_size > size):
            size = min(size, grown.stat().st_size) if grown.exists() else 0  # resuming cuts the log back first
            time.sleep(0.002)
        try:
            status = process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        assert process.stderr is not None
        assert status == 0, process.stderr.read()
        return status


def taken(path: Path) -> int:
    last = Run(path).last()
    return int(last.name[5:]) if last else 0


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_in_the_same_weights(tmp_path: Path, settings: list[str]) -> None:
    subprocess.run(command(*settings, "--out", tmp_path, "--name", "peace"), check=True, stdout=subprocess.DEVNULL)
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    path, kills, first_second, number = tmp_path / "war0", 0, 0, 0
    wars = [path]
    while kills < KILLS:
        if (path / "config.json").exists():
            arguments = command("--resume", path)
        else:  # killed before the run had begun: then there is nothing to resume, and nothing in the way
            assert not path.exists()
            arguments = command(*settings, "--out", tmp_path, "--name", path.name)
        # In the first second; while torch is imported, the data read, the checkpoint loaded; between and within steps.
        phase = moments.choice(["first second", "starting", "training"])
        after = moments.uniform(*{"first second": (0.05, 1.0), "starting": (1.0, 4.0), "training": (0.0, 0.8)}[phase])
        if killed(arguments, after, path / "metrics.jsonl" if phase == "training" else None) is None:
            kills, first_second = kills + 1, first_second + (phase == "first second")
        else:  # it got to its end: the next kills need another run
            number += 1
            path = tmp_path / f"war{number}"
            wars.append(path)
    assert first_second, f"seed {seed}"
    if (path / "config.json").exists():
        subprocess.run(command("--resume", path), check=True, stdout=subprocess.DEVNULL)
    else:
        subprocess.run(
            command(*settings, "--out", tmp_path, "--name", path.name), check=True, stdout=subprocess.DEVNULL
        )
    peace = Run(tmp_path / "peace")
    wanted = (peace.checkpoint("last") / "model.safetensors").read_bytes()
    assert taken(peace.path) == 700
    for war in map(Run, wars):
        assert (war.checkpoint("last") / "model.safetensors").read_bytes() == wanted, f"seed {seed}"
        assert [row["step"] for row in war.metrics()] == list(range(1, 701)), f"seed {seed}"
        for a, b in zip(peace.metrics(), war.metrics(), strict=True):
            assert {k: a[k] for k in a if k not in ("seconds", "tokens_per_second")} == {
                k: b[k] for k in b if k not in ("seconds", "tokens_per_second")
            }
        assert list(war.samples()) == peace.samples()
        assert not list(war.path.rglob(".*")), "something half-written is left"


@pytest.mark.slow
def test_two_processes_of_one_name(tmp_path: Path, settings: list[str]) -> None:
    """One wins; the other is told so and leaves it alone."""
    quick = [*settings, "train.steps=20"]
    both = [
        subprocess.Popen(
            command(*quick, f"seed={seed}", "--out", tmp_path, "--name", "same"),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=dict(os.environ),
        )
        for seed in (1, 2)
    ]
    said = [process.communicate()[1] for process in both]
    statuses = [process.returncode for process in both]
    assert sorted(statuses) == [0, 2], said
    assert "exists already; go on with it: --resume" in said[statuses.index(2)]
    run = Run(tmp_path / "same")
    assert run.config().seed == statuses.index(0) + 1
    assert [row["step"] for row in run.metrics()] == list(range(1, 21))
