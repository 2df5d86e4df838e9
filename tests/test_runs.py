"""The run folder: made whole, never overwritten, readable after a kill at any moment."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanogpt import runs
from nanogpt.config import RunConfig, validate
from nanogpt.errors import RunError, UserError
from nanogpt.listing import list_runs
from nanogpt.parts import parts_from
from nanogpt.runs import Run, default_name, diff, own_parts


def a_config(**model: object) -> RunConfig:
    return validate({"preset": "tiny", "model": {"dim": 8, "n_layers": 1, "context": 8, **model}})


def test_a_run_is_there_at_once_with_its_configuration(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs", "a", a_config(dim=24))
    assert Run.open(tmp_path / "runs" / "a").config() == run.config() == a_config(dim=24)
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["a"]  # nothing half-made beside it


def test_an_existing_name_is_refused_and_left_alone(tmp_path: Path) -> None:
    Run.create(tmp_path, "a", a_config())
    before = (tmp_path / "a" / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"a exists already; go on with it: --resume .*a; or give another --name"):
        Run.create(tmp_path, "a", a_config(dim=16))
    assert (tmp_path / "a" / "config.json").read_bytes() == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not a run"):
        Run.create(tmp_path, "notes", a_config())
    (tmp_path / "file").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        Run.create(tmp_path, "file", a_config())
    assert (tmp_path / "file").read_text() == "keep"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "x" * 300])
def test_a_name_is_one_folder_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="one folder"):
        Run.create(tmp_path, name, a_config())


def test_without_a_name_a_free_one_is_found(tmp_path: Path) -> None:
    names = [Run.create(tmp_path, None, a_config()).name for _ in range(3)]
    assert names == ["tiny-python", "tiny-python-2", "tiny-python-3"]
    assert default_name(validate({**a_config().model_dump(), "data": {"corpus": "my texts/*.txt"}})) == "tiny-my-texts"
    assert default_name(validate({**a_config().model_dump(), "data": {"corpus": ["a b/c d.txt", "x"]}})) == "tiny-c-d"


def _race(out: Path, name: str | None, dim: int, won: list[tuple[Path, int]]) -> None:
    with contextlib.suppress(UserError):
        won.append((Run.create(out, name, a_config(dim=dim)).path, dim))


@pytest.mark.parametrize("name", ["same", None])
def test_runs_racing_for_a_name_never_overwrite_each_other(tmp_path: Path, name: str | None) -> None:
    won: list[tuple[Path, int]] = []
    threads = [threading.Thread(target=_race, args=(tmp_path, name, dim, won)) for dim in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == (1 if name else 20)
    assert len({path for path, _ in won}) == len(won)
    for path, dim in won:  # and each holds what its own maker wrote
        assert Run(path).config().model.dim == dim


def test_a_folder_that_is_not_a_run_is_refused_with_the_nearest(tmp_path: Path) -> None:
    Run.create(tmp_path, "shakespeare-1", a_config())
    with pytest.raises(UserError, match=r"is not a run.*did you mean 'shakespeare-1'"):
        Run.open(tmp_path / "shakespear-1")


def test_a_published_folder_in_place_of_a_run_is_told_what_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a model").mkdir()
    (tmp_path / "a model/config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    with pytest.raises(
        UserError, match=r"published model, not a run; first: nanogpt import '.*a model' --name"
    ) as error:
        Run.open(tmp_path / "a model")
    assert error.value.status == 2


def test_a_damaged_configuration_is_one_line(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", a_config())
    (run.path / "config.json").write_text('{"preset": ')
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        run.config()


def test_an_incomplete_configuration_names_its_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", a_config())
    (run.path / "config.json").write_text('{"preset": "tiny", "model": {"n_layers": 1, "context": 8}}')
    with pytest.raises(RunError, match=r"a/config\.json is damaged: model\.dim: needs a value"):
        run.config()


@pytest.mark.parametrize("moment", ["config", "file"])
def test_a_disk_that_is_full_from_the_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def full(path: Path, content: bytes) -> None:
        if (path.name == "config.json") == (moment == "config"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(runs, "write_whole", full)
    with pytest.raises(RunError, match=rf"cannot make a run in {tmp_path}: No space left"):
        Run.create(tmp_path, "a", a_config(), files={"tokenizer.json": b"{}"})
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = Run.create(tmp_path, "a", a_config()), Run.create(tmp_path, "b", a_config())
    (run.path / "metrics.jsonl").mkdir()  # a folder refuses to be read as a file, also for root
    with pytest.raises(RunError, match=r"cannot read .*a/metrics\.jsonl: Is a directory"):
        run.metrics()
    rows = {row["name"]: row for row in list_runs(tmp_path)}
    assert "metrics.jsonl" in rows["a"]["error"] and rows["b"]["step"] == 0

    def denied(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", denied)
    with pytest.raises(RunError, match=r"cannot read .*b: Permission denied"):
        Run.open(other.path)


def test_logs_lose_at_most_a_broken_last_line_and_can_be_rewound(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", a_config())
    for step in range(1, 8):
        run.log({"step": step, "train/loss": 1 / step})
        run.log_sample({"step": step, "text": "ä\n"})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 8, "train/lo')
    assert [row["step"] for row in run.metrics()] == list(range(1, 8))
    run.rewind(5)
    run.log({"step": 6})
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [row["text"] for row in run.samples()] == ["ä\n"] * 5


def test_only_one_process_trains_a_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", a_config())
    code = f"from nanogpt.runs import Run\nwith Run({str(run.path)!r}).held(): pass"
    command = [sys.executable, "-c", code]
    with run.held():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode and "another process is training this run" in done.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", a_config())

    def hold(ready: multiprocessing.synchronize.Event) -> None:
        with run.held():
            ready.set()
            threading.Event().wait()

    context = multiprocessing.get_context("fork") if os.name == "posix" else pytest.skip("needs fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(ready,))
    process.start()
    ready.wait()
    with pytest.raises(UserError, match="another process"), run.held():
        pass
    process.kill()
    process.join()
    with run.held():
        assert process.exitcode == -9


def test_discarding_removes_only_what_holds_no_work(tmp_path: Path) -> None:
    empty, worked = Run.create(tmp_path, "a", a_config()), Run.create(tmp_path, "b", a_config())
    worked.log({"step": 1})
    empty.discard()
    worked.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_parts_of_the_users_are_copied_and_named_by_file(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "my_parts.py").write_text("class Mine: pass\n")
    (tmp_path / "my act.py").write_text("class Act: pass\n")
    config = a_config(ffn="lib/my_parts.py:Mine(hidden=8)", mixer=["glu(act='my act.py:Act')", "none"])
    with parts_from(tmp_path):
        run = Run.create(tmp_path / "runs", "a", config)
    (tmp_path / "lib" / "my_parts.py").write_text("class Mine: changed = True\n")
    assert run.config().model.ffn == "my_parts.py:Mine(hidden=8)"
    assert run.config().model.mixer == ["glu(act='my act.py:Act')", "none"]
    assert (run.path / "parts" / "my_parts.py").read_text() == "class Mine: pass\n"
    assert own_parts(a_config())[1] == {}
    with parts_from(tmp_path), pytest.raises(UserError, match=r"nowhere\.py:Mine: no file"):
        Run.create(tmp_path / "runs", "b", a_config(ffn="nowhere.py:Mine"))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.py").write_text(f"x = '{folder}'\n")
    with parts_from(tmp_path), pytest.raises(UserError, match=r"two different files of parts are called p\.py"):
        own_parts(a_config(ffn="a/p.py:X", mixer="b/p.py:Y"))


def test_runs_are_listed_and_compared(tmp_path: Path) -> None:
    a, b = Run.create(tmp_path, "a", a_config()), Run.create(tmp_path, "b", a_config(dim=16))
    for step, val in enumerate([3.0, 2.0, 2.5], start=1):
        a.log({"step": step, "train/loss": 1.0, "val/loss": val, "val/bpb": val / 2, "seconds": step * 2.0})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("{")
    rows = {row["name"]: row for row in list_runs(tmp_path)}
    assert (rows["a"]["step"], rows["a"]["val/loss"], rows["a"]["val/bpb"], rows["a"]["seconds"]) == (3, 2.0, 1.0, 6.0)
    assert rows["b"]["step"] == 0 and rows["b"]["val/loss"] is None
    assert "damaged" in rows["c"]["error"]
    assert diff(a.config(), b.config()) == {"model.dim": (8, 16)}


def test_runs_needs_no_torch() -> None:
    code = "import sys, nanogpt.runs, nanogpt.training.start, nanogpt.training.world; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
