"""Checkpoints: bit for bit, verified, and never at the cost of an earlier one."""

from __future__ import annotations

import ast
import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt.config import validate
from nanogpt.errors import RunError
from nanogpt.optim.optimizers import OPTIMIZERS, make_optimizers
from nanogpt.runs import Run
from nanogpt.training import checkpoint as checkpoints
from nanogpt.training.checkpoint import Progress, full_disk_is_one_line, load, save


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 6, bias=False)

    def roles(self) -> dict[str, str]:
        return {"a.weight": "hidden", "b.weight": "hidden"}

    def learn(self, optimizers: list[torch.optim.Optimizer], steps: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            x = self.table(torch.randint(7, (5,), generator=generator))
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.b(self.a(x).tanh()).square().sum().sin().backward()
            for optimizer in optimizers:
                optimizer.step()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "a", validate({"preset": "t", "model": {"dim": 8, "n_layers": 0, "context": 8}}))


def write_some(run: Run, *steps: int, losses: dict[int, float] | None = None) -> Net:
    """Checkpoints at these steps; the lowest loss so far is the best."""
    net = Net()
    optimizers = make_optimizers("adamw(lr=0.1)", net)
    progress = Progress()
    for step in steps:
        net.learn(optimizers, 1, step)
        progress.step, progress.val_loss = step, (losses or {}).get(step)
        if progress.val_loss is not None and (progress.best_loss is None or progress.val_loss < progress.best_loss):
            progress.best_loss, progress.best_step = progress.val_loss, step
        save(run, progress, net, optimizers)
    return net


TEXTS = [*sorted(OPTIMIZERS), "sgd(momentum=0.9)", "rmsprop(momentum=0.9)"]


@pytest.mark.parametrize("text", TEXTS)
def test_going_on_from_a_checkpoint_is_going_on(run: Run, text: str) -> None:
    straight = Net()
    optimizers = make_optimizers(text, straight)
    straight.learn(optimizers, 3, seed=1)
    path = save(run, Progress(step=3, tokens=15, seconds=0.1 + 0.2), straight, optimizers)
    straight.learn(optimizers, 3, seed=2)

    other = Net()
    again = make_optimizers(text, other)
    other.learn(again, 1, seed=9)  # what it remembers is to be forgotten
    found = load(path)
    found.restore(other, again)
    assert found.progress == Progress(step=3, tokens=15, seconds=0.1 + 0.2)
    other.learn(again, 3, seed=2)
    for a, b in zip(straight.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not list(run.path.rglob("*.pt")) and {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}


def test_the_same_weights_make_the_same_file(run: Run) -> None:
    net = write_some(run, 1)
    first = (run.path / "checkpoints" / "step-000001" / "model.safetensors").read_bytes()
    save(run, Progress(step=2), net, [])
    assert (run.path / "checkpoints" / "step-000002" / "model.safetensors").read_bytes() == first


def test_best_and_last_are_kept(run: Run) -> None:
    write_some(run, 1, 2, 3, 4, 5, losses={1: 5.0, 2: 3.0, 4: 4.0})
    assert [p.name for p in run.checkpoints()] == ["step-000002", "step-000005"]
    assert (run.best(), run.last()) == tuple(run.checkpoints())
    assert run.checkpoint("best").name == "step-000002" and run.checkpoint(5).name == "step-000005"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) * 2 // 3] ^= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors", "state.json"])
@pytest.mark.parametrize(
    "damage, said",
    [
        (cut, "sha256 differs|cannot be read"),
        (flip, "sha256 differs|cannot be read"),
        (Path.unlink, "is missing"),
        (lambda p: p.write_bytes(b""), "sha256|cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_good_one(
    run: Run, file: str, damage: Callable[[Path], Any], said: str
) -> None:
    write_some(run, 1, 2, 3, losses={2: 1.0})
    damage(run.path / "checkpoints" / "step-000003" / file)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(
        RunError, match=rf"step-000003/{file} .*({said}).*step-000002 is good: remove .*step-000003"
    ) as caught:
        load(run.checkpoint("last"))
    assert "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    damage(run.path / "checkpoints" / "step-000002" / file)
    with pytest.raises(RunError, match="no other checkpoint is good"):
        load(run.checkpoint("last"))
    shutil.rmtree(run.path / "checkpoints" / "step-000003")


@pytest.mark.parametrize("key", ["step", "best_loss", "sha256"])
def test_an_altered_counter_is_found_too(run: Run, key: str) -> None:
    write_some(run, 1)
    path = run.path / "checkpoints" / "step-000001" / "state.json"
    facts = json.loads(path.read_text())
    facts[key] = {**facts[key], "model.safetensors": "0" * 64} if key == "sha256" else 7
    path.write_text(json.dumps(facts))
    with pytest.raises(RunError, match="sha256 differs: altered"):
        load(path.parent)


def test_weights_that_do_not_fit_are_named(run: Run) -> None:
    write_some(run, 1)
    found = load(run.checkpoint("last"))
    net = Net()
    net.a = nn.Linear(6, 5)
    with pytest.raises(RunError, match=r"'a\.bias' is \[6\], the model's is \[5\]"):
        checkpoints.load_weights(net, found.weights, found.path)
    with pytest.raises(RunError, match=r"has no 'extra\.weight', which the model has"):
        net = Net()
        net.extra = nn.Linear(2, 2, bias=False)
        checkpoints.load_weights(net, found.weights, found.path)
    with pytest.raises(RunError, match=r"has 'b\.weight', which the model has not"):
        net = Net()
        del net.b
        checkpoints.load_weights(net, found.weights, found.path)


@pytest.mark.parametrize("moment", ["model", "state", "facts", "sync"])
def test_a_full_disk_costs_nothing_that_was_there(run: Run, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    write_some(run, 1, 2, losses={1: 1.0})
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    number = {"model": 0, "state": 1, "facts": 2, "sync": 99}[moment]
    real, calls = checkpoints._write, []

    def full(path: Path, content: bytes) -> str:
        calls.append(path)
        if len(calls) == number + 1:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, content)

    def full_sync(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "_write", full)
    if moment == "sync":
        monkeypatch.setattr(checkpoints, "sync_folder", full_sync)
    with (
        pytest.raises(
            RunError, match=r"no room left on the disk of .*step-000002 is complete; free some room, then --resume"
        ) as caught,
        full_disk_is_one_line(run),
    ):
        save(run, Progress(step=3), Net(), [])
    assert caught.value.status == 1 and "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    assert not [p for p in (run.path / "checkpoints").iterdir() if p.name.startswith(".")]


FULL = """
import resource, sys
from pathlib import Path
from nanogpt.errors import UserError
from nanogpt.config import validate
from nanogpt.training.loop import train
import json
config = validate(json.loads(Path(sys.argv[1]).read_text()))
def limit(event, facts):
    if event == "checkpoint" and facts["step"] == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
if __name__ == "__main__":
    try:
        train(config, out=sys.argv[2], name="a", quiet=True, on_event=limit)
    except UserError as error:
        print(error)
        sys.exit(error.status)
"""


@pytest.mark.slow
def test_a_disk_that_really_refuses_a_write_stops_the_run_with_one_line(tmp_path: Path) -> None:
    """The system's own limit on a file's size stands for a full disk: the write is cut short, then refused."""
    (tmp_path / "t.txt").write_text("".join(f"line {n}\n" for n in range(500)))
    (tmp_path / "full.py").write_text(FULL)
    sections = {
        "tokenizer": "char",
        "data": {"corpus": str(tmp_path / "t.txt")},
        "train": {"steps": 30, "batch": 2, "eval_every": 4},
        "model": {"dim": 16, "n_layers": 1, "context": 16, "ffn": "mlp"},
    }
    (tmp_path / "c.json").write_text(json.dumps(validate({"preset": "t", **sections}).model_dump()))
    command = [sys.executable, str(tmp_path / "full.py"), str(tmp_path / "c.json"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert "no room left on the disk" in done.stdout and "step-000004 is complete" in done.stdout
    assert done.stdout.count("\n") == 1 and not done.stderr
    run = Run(tmp_path / "a")
    assert [p.name for p in run.checkpoints()] == ["step-000004"] and load(run.checkpoint("last")).progress.step == 4
    assert not list(run.path.rglob(".*"))
    from nanogpt.training.loop import resume

    assert resume(run.path, quiet=True).step == 30
    assert [row["step"] for row in run.metrics()] == list(range(1, 31))


def test_what_a_kill_left_is_cleaned(run: Run) -> None:
    write_some(run, 1)
    (run.path / "checkpoints" / ".89abcdef").mkdir()
    (run.path / "checkpoints" / ".89abcdef" / "model.safetensors").write_bytes(b"x")
    (run.path / ".config.json.0123abcd").write_bytes(b"x")
    (run.path / ".tokenizer.json.0123abcd").write_bytes(b"x")
    (run.path / ".git").mkdir()
    (run.path / ".git" / "HEAD").write_text("mine")
    (run.path / ".gitignore").write_text("mine")
    checkpoints.clean(run)
    assert sorted(p.name for p in run.path.rglob(".*")) == [".git", ".gitignore"] and load(run.checkpoint("last"))
    assert (run.path / ".git" / "HEAD").read_text() == "mine"


def test_weights_that_are_not_finite_never_replace_those_that_are(run: Run) -> None:
    net = write_some(run, 1, 2)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with torch.no_grad():
        net.b.weight[2, 3] = math.inf
    with pytest.raises(RunError, match=r"b\.weight is not finite after step 3: .*step-000002 is kept") as caught:
        save(run, Progress(step=3), net, [])
    assert "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def alter(path: Path) -> None:
    path.write_text(path.read_text().replace('"val_loss": 1.0', '"val_loss": 4.0'))


@pytest.mark.parametrize("hurt", [cut, alter])
def test_where_one_is_damaged_the_best_is_not_known(run: Run, hurt: Callable[[Path], None]) -> None:
    write_some(run, 1, 2, losses={1: 1.0, 2: 2.0})
    hurt(run.path / "checkpoints" / "step-000001" / "state.json")
    with pytest.raises(RunError, match=r"step-000001/state\.json cannot be read .* ask for step 2 instead"):
        run.checkpoint("best")
    assert run.checkpoint("last") == run.checkpoint(2) == run.path / "checkpoints" / "step-000002"


def test_there_is_no_pickle_anywhere() -> None:
    """Neither pickle nor torch's own files, which are pickles; a text may speak of them."""
    source = Path(checkpoints.__file__).parents[1]
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = "" if isinstance(node, (ast.Constant, ast.JoinedStr)) else ast.unparse(node)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "pickle" not in said, (path, said)
            if isinstance(node, ast.Call):
                assert not said.startswith(("torch.load(", "torch.save(")), (path, said)
                allowed = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
                assert not allowed, (path, said)
