"""The run folder: the only thing that training and views share.

    runs/NAME/
      config.json        everything that the run depends on
      environment.json   versions, machine, command, sha256 of corpus and tokenizer
      origin.json        the run whose weights it started from, where there is one
      parts/             the user's own part files, as they were
      tokenizer.json
      metrics.jsonl      one object a line, one line a step
      samples.jsonl      text written while training
      layers/            step-000200.npz, what observers saw (observers/store.py)
      checkpoints/       step-000500/{model.safetensors, state.safetensors, state.json}

A whole file is written beside its place and renamed; a log is only appended to. So whatever moment a process is killed
at, what is there can be read, and at most the last line of a log is broken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanogpt.config import RunConfig, validate
from nanogpt.errors import RunError, UserError, nearest
from nanogpt.files import one_line, short_name, sync_folder, write_whole
from nanogpt.parts import PARTS_FOLDER, parts_from

OWN_PART = re.compile(r"'(?P<quoted>[^']+\.py):(?P<a>\w+)'|(?P<plain>[A-Za-z_~./\\][\w~./\\@-]*\.py):(?P<b>\w+)")
"""A part of the user's inside a spec: `ffn="lib/my_parts.py:Mine(hidden=256)"`."""
CHECKPOINTS = "checkpoints"
CHECKPOINT = re.compile(r"step-(\d{6,})")
LAYERS = "layers"
OBSERVED = "observed"
"""The one section of the configuration of a run that was not trained here, but observed in someone's own loop."""
LOOK = re.compile(r"step-(\d{6,})\.npz")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, from its first moment on: what a corpus of everything around it leaves out."""
    return (folder / "config.json").is_file() and (folder / CHECKPOINTS).is_dir()


def check_name(name: str) -> None:
    if not re.fullmatch(r"[^./\\\0][^/\\\0]*", name) or len(name.encode()) > 200:
        raise UserError(f"--name {name!r}: must be one folder's name, up to 200 bytes, not starting with a dot")


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


class Run:
    """One run folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    # ---- a folder of one's own

    @staticmethod
    def create(
        out: Path | str, name: str | None, config: RunConfig, *, files: Mapping[str, bytes] | None = None
    ) -> Run:
        """Make a new run folder, at once and whole. A name that is taken is refused; without one, a free one is found.

        `files`: what else is in it from the first moment on.
        """
        config, parts = own_parts(config)
        named = {**{f"parts/{k}": v for k, v in parts.items()}, **(files or {})}
        return Run.make(out, name, default_name(config), {**named, "config.json": as_json(config.model_dump())})

    @staticmethod
    def make(out: Path | str, name: str | None, stem: str, files: Mapping[str, bytes]) -> Run:
        """As `create`, of files that hold whatever they do. `stem`: what a name that is not given begins with."""
        out, fixed = Path(out), name is not None
        stem = stem if name is None else name
        if fixed:
            check_name(stem)
        beside = out / f".{stem}.{secrets.token_hex(4)}"
        try:
            with one_line(f"make a run in {out}"):
                (beside / CHECKPOINTS).mkdir(parents=True)
                for file, content in files.items():
                    (beside / file).parent.mkdir(exist_ok=True)
                    write_whole(beside / file, content)
                return Run(_claim(beside, out, stem, fixed=fixed))
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    @staticmethod
    def open(path: Path | str) -> Run:
        """A run that is there."""
        path = Path(path)
        with one_line(f"read {path}"):
            there = (path / "config.json").is_file()
        if not there:
            names = sorted(p.parent.name for p in path.parent.glob("*/config.json"))
            hint = nearest(path.name, names) if names else ""
            raise UserError(f"{path} is not a run (no config.json in it){hint}")
        if not (path / CHECKPOINTS).is_dir() and "model_type" in Run(path).settings():
            name = shlex.quote(str(path))
            raise UserError(f"{path} is a published model, not a run; first: nanogpt import {name} --name NAME")
        return Run(path)

    def discard(self) -> None:
        """Remove a run that was refused before it began. One that holds work stays, whatever happens."""
        if not self.checkpoints() and not self.metrics():
            gone = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
            self.path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training this run. The system lets go when this process dies, even by kill -9."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock: there it is left to the user
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)  # the folder itself: no lock file that could be left over
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.path}: another process is training this run") from None
            except OSError:  # a network disk without locks
                pass
            yield
        finally:
            os.close(handle)

    # ---- what it depends on

    def config(self) -> RunConfig:
        sections = self._read("config.json")
        try:
            return validate(sections)
        except UserError as error:
            raise RunError(f"{self.path / 'config.json'} is damaged: {error}") from None

    def save_config(self, config: RunConfig) -> None:
        write_whole(self.path / "config.json", as_json(config.model_dump()))

    def environment(self) -> dict[str, Any]:
        return self._read("environment.json") if (self.path / "environment.json").exists() else {}

    def save_environment(self, facts: Mapping[str, Any]) -> None:
        """`facts` as the newest of the run's launches; what stays the same over all of them is at the top."""
        write_whole(self.path / "environment.json", as_json(dict(facts)))

    def origin(self) -> dict[str, Any] | None:
        return self._read("origin.json") if (self.path / "origin.json").exists() else None

    def settings(self) -> dict[str, Any]:
        """Every setting by its key, `model.dim`, as it was saved: also of a module that was only observed, which has
        no configuration of ours."""
        return flat(self._read("config.json"))

    @property
    def layers(self) -> Path:
        """Folder of what observers saw."""
        return self.path / LAYERS

    @property
    def tokenizer_path(self) -> Path:
        return self.path / "tokenizer.json"

    @contextmanager
    def own_parts(self) -> Iterator[None]:
        """Look for the user's parts in this run's copies of them."""
        with parts_from(self.path / "parts"):
            yield

    def _read(self, file: str) -> dict[str, Any]:
        try:
            with one_line(f"read {self.path / file}"):
                value = json.loads((self.path / file).read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{self.path / file} is damaged: {error}") from None
        if not isinstance(value, dict):
            raise RunError(f"{self.path / file} is damaged: it should hold one JSON object")
        return value

    # ---- logs

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one step's numbers."""
        self._append("metrics.jsonl", row)

    def log_sample(self, row: Mapping[str, Any]) -> None:
        self._append("samples.jsonl", row)

    def _append(self, file: str, row: Mapping[str, Any]) -> None:
        # One unbuffered write a line: a killed process loses nothing it had logged, no buffer's end cuts a line.
        line = (json.dumps(dict(row), ensure_ascii=False) + "\n").encode()
        with (self.path / file).open("ab", buffering=0) as out:
            written = out.write(line)
            while written < len(line):  # a disk that fills takes part of a line, then refuses
                written += out.write(line[written:])

    def sync(self) -> None:
        """Have the logs on the disk itself: a checkpoint must not outlive, in a power cut, the rows before it."""
        for file in ("metrics.jsonl", "samples.jsonl"):
            if (self.path / file).exists():
                with (self.path / file).open("rb") as log:
                    os.fsync(log.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        return _read_lines(self.path / "metrics.jsonl")[0]

    def samples(self) -> list[dict[str, Any]]:
        return _read_lines(self.path / "samples.jsonl")[0]

    def unread(self) -> list[str]:
        """A line for each log of which some lines are no rows, and so left out."""
        logs = [self.path / file for file in ("metrics.jsonl", "samples.jsonl")]
        lost = {path: _read_lines(path)[1] for path in logs}
        return [
            f"{path}: {count} line{'s' * (count > 1)} of it cannot be read" for path, count in lost.items() if count
        ]

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`: those steps are about to be taken again."""
        for file in ("metrics.jsonl", "samples.jsonl"):
            path = self.path / file
            if not path.exists():
                continue
            kept = [row for row in _read_lines(path)[0] if row["step"] <= step]
            text = b"".join((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in kept)
            if text != path.read_bytes():
                write_whole(path, text)
        for path in self.layers.glob("step-*.npz"):
            if (match := LOOK.fullmatch(path.name)) and int(match[1]) > step:
                path.unlink(missing_ok=True)

    # ---- checkpoints

    def checkpoints(self) -> list[Path]:
        """Folders of the checkpoints, oldest first. A checkpoint has its name only once it is complete."""
        folder = self.path / CHECKPOINTS
        found = [p for p in folder.iterdir() if CHECKPOINT.fullmatch(p.name)] if folder.is_dir() else []
        return sorted(found, key=step_of)

    def last(self) -> Path | None:
        return next(reversed(self.checkpoints()), None)

    def best(self) -> Path | None:
        """The checkpoint with the lowest loss on the validation split; the last one where none was evaluated.

        RunError where one is damaged: it may have been the best.
        """
        scored = [(loss, path) for path in self.checkpoints() if (loss := _val_loss(path)) is not None]
        return min(scored, key=lambda pair: pair[0])[1] if scored else self.last()

    def checkpoint(self, which: str | int = "best") -> Path:
        """One checkpoint: best, last, or a step's number. UserError where the run has no such one."""
        there = self.checkpoints()
        if not there:
            raise UserError(f"{self.path} has no checkpoint yet")
        if which == "best":
            return self.best() or there[-1]
        found = {"last": there[-1]} | {str(step_of(path)): path for path in there}
        if str(which) not in found:
            raise UserError(f"checkpoint '{which}' of {self.path} is not kept{nearest(str(which), ['best', *found])}")
        return found[str(which)]


def step_of(checkpoint: Path) -> int:
    match = CHECKPOINT.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def digest_of(facts: Mapping[str, Any]) -> str:
    """What a checkpoint's state.json says of itself, under `self`."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _val_loss(checkpoint: Path) -> float | None:
    path = checkpoint / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state.pop("self") != digest_of(state):
            raise ValueError
        return None if state["val_loss"] is None else float(state["val_loss"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        others = [other for other in Run(checkpoint.parent.parent).checkpoints() if other != checkpoint]
        instead = f"ask for step {step_of(others[-1])} instead" if others else "there is no other checkpoint"
        raise RunError(f"{path} cannot be read as it was written, so the best is not known; {instead}") from None


def _claim(beside: Path, out: Path, stem: str, *, fixed: bool) -> Path:
    """Give a finished folder its name. A rename onto a folder that holds something fails, so there is one winner."""
    number = 1
    while True:
        path = out / (stem if number == 1 else f"{stem}-{number}")
        try:
            if not path.is_symlink():
                beside.rename(path)
                sync_folder(out)
                return path
        except OSError as error:
            if not path.exists():
                raise UserError(f"cannot make the run {path}: {error.strerror}") from None
        if fixed:
            is_run = (path / "config.json").is_file()
            hint = f"; go on with it: --resume {path}; or" if is_run else " and is not a run;"
            raise UserError(f"{path} exists already{hint} give another --name")
        number += 1


def default_name(config: RunConfig) -> str:
    """`modern-python`, `gpt-shakespeare`: preset and corpus."""
    corpus = config.data.corpus if isinstance(config.data.corpus, str) else config.data.corpus[0]
    words = [Path(config.preset).stem, short_name(corpus)]
    clean = "-".join(w for w in (re.sub(r"[^\w.-]+", "-", word).strip("-.") for word in words) if w)
    return clean[:80] or "run"


def own_parts(config: RunConfig) -> tuple[RunConfig, dict[str, bytes]]:
    """The configuration with the user's parts named by file alone, and those files: a run keeps its own copies."""
    files: dict[str, bytes] = {}

    def local(match: re.Match[str]) -> str:
        written = match["quoted"] or match["plain"]
        path = (PARTS_FOLDER.get() / Path(written).expanduser()).resolve()
        try:
            content = path.read_bytes()
        except OSError:
            raise UserError(f"{written}:{match['a'] or match['b']}: no file {path}") from None
        if files.setdefault(path.name, content) != content:
            raise UserError(f"two different files of parts are called {path.name}: rename one")
        text = f"{path.name}:{match['a'] or match['b']}"
        return text if re.fullmatch(r"[A-Za-z_][\w.:-]*", text) else f"'{text}'"

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return OWN_PART.sub(local, value)
        return [walk(v) for v in value] if isinstance(value, list) else value

    sections = config.model_dump()
    sections["tokenizer"] = walk(sections["tokenizer"])
    for section in ("model", "optim"):
        sections[section] = {key: walk(value) for key, value in sections[section].items()}
    return (validate(sections), files) if files else (config, files)


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows of a log, and the number of lines that are none, as a last one that was cut short."""
    with one_line(f"read {path}"):
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows, sum(map(bool, lines)) - len(rows)


def best_row(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The row with the lowest validation loss; {} where none was evaluated."""
    evaluated = [row for row in metrics if row.get("val/loss") is not None]
    return min(evaluated, key=lambda row: row["val/loss"]) if evaluated else {}


def flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """`{"model": {"dim": 64}}` as `{"model.dim": 64}`."""
    pairs: dict[str, Any] = {}
    for key, value in sections.items():
        pairs.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    return pairs


def diff(a: RunConfig, b: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Keys in which two configurations differ, with both values."""
    left, right = flat(a.model_dump()), flat(b.model_dump())
    return {key: (left[key], right[key]) for key in left if left[key] != right[key]}
