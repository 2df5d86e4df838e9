"""Checkpoints: all that is needed to go on, bit for bit. safetensors and JSON, never pickle.

    step-000500/model.safetensors   weights by parameter name; their running mean where one is kept (average.py)
                state.safetensors   optimizer state, as `parameter/key`; beside a mean, `parameter/raw`: what is trained
                state.json          counters, and the sha256 of both files and of itself

Written in a hidden folder beside, synced, renamed. Nothing is deleted before its successor is complete.
Random state is not here: the loop seeds every step by its number.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim import Optimizer

from nanogpt.errors import RunError
from nanogpt.files import LEFT_OVER, sync_folder
from nanogpt.runs import CHECKPOINTS, Run, as_json, digest_of, step_of
from nanogpt.training.average import RAW, Average
from nanogpt.training.fitting import make_room, sizes_unknown
from nanogpt.training.nonfinite import HINT, NotFinite, first_bad_parameter

MODEL, STATE, FACTS = "model.safetensors", "state.safetensors", "state.json"


@dataclass
class Progress:
    """How far a run has come: the counters that a checkpoint keeps."""

    step: int = 0
    """Optimizer steps taken."""
    tokens: int = 0
    """Tokens scored."""
    seconds: float = 0.0
    """Spent on steps: without compiling, evaluating and saving."""
    val_loss: float | None = None
    """On the whole validation split after this very step; None where it was not evaluated."""
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    """Evaluations since the best one."""


@contextmanager
def full_disk_is_one_line(run: Run) -> Iterator[None]:
    """A disk that fills stops the run with a line that says what is still good."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        last = run.last()
        kept = f"{last} is complete; free some room, then --resume {run.path}" if last else "there is no checkpoint yet"
        where = f" while writing {Path(error.filename).name}" if error.filename else ""
        raise RunError(f"no room left on the disk of {run.path}{where} ({error.strerror}): {kept}") from None


def save(run: Run, progress: Progress, model: nn.Module, optimizers: Sequence[Optimizer],
         mean: Mapping[str, Tensor] | None = None) -> Path:  # fmt: skip
    """Write a checkpoint, then remove those that are neither it nor the best. `mean`: of the weights, if kept."""
    if bad := first_bad_parameter(model):
        raise NotFinite(f"{bad} is not finite after step {progress.step}: not saved; {kept(run)}; {HINT}")
    folder = run.path / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    beside = folder / f".{secrets.token_hex(4)}"
    beside.mkdir()
    try:
        state, scalars = optimizer_state(model, optimizers)
        if mean:
            state |= {f"{name}/{RAW}": parameter for name, parameter in model.named_parameters()}
        digests = {
            MODEL: _write(beside / MODEL, save_tensors(_on_cpu({**model.state_dict(), **(mean or {})}))),
            STATE: _write(beside / STATE, save_tensors(_on_cpu(state))),
        }
        facts = {**asdict(progress), "optimizer": scalars, "sha256": digests}
        _write(beside / FACTS, as_json({**facts, "self": digest_of(facts)}))
        sync_folder(beside)
        path = folder / f"step-{progress.step:06d}"
        beside.rename(path)
        sync_folder(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    prune(run, keep={progress.step, progress.best_step})
    return path


def kept(run: Run) -> str:
    """What of a run that has to stop is still good."""
    last = run.last()
    return f"{last.name} is kept" if last else "no checkpoint had been written"


def prune(run: Run, keep: set[int]) -> None:
    for path in run.checkpoints():
        if step_of(path) not in keep:
            # Out of sight first: a kill half-way through would leave what looks like a damaged checkpoint.
            gone = path.with_name(f".{secrets.token_hex(4)}")
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def clean(run: Run) -> None:
    """Remove what a killed process left half-written."""
    for folder in (run.path, run.path / CHECKPOINTS):
        for left in folder.glob(".*") if folder.is_dir() else []:
            if not LEFT_OVER.fullmatch(left.name):  # the user's, as .git
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


@dataclass
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    progress: Progress
    weights: dict[str, Tensor]
    state: dict[str, Tensor]
    scalars: dict[str, dict[str, Any]]

    def restore(self, model: nn.Module, optimizers: Sequence[Optimizer], average: Average | None = None) -> None:
        load_weights(model, self.weights, self.path)
        if average:
            average.restore(self.state)
        remembered = {full: tensor for full, tensor in self.state.items() if not full.endswith(f"/{RAW}")}
        load_optimizer_state(model, optimizers, remembered, self.scalars)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. RunError, naming the file and what else is good, where it is not what was written."""
    try:
        return _load(path)
    except _Damaged as error:
        raise RunError(f"{path / error.file} {error.what}; {_alternative(path)}") from None


def _load(path: Path) -> Checkpoint:
    facts = _read_facts(path)
    content = {file: _read(path / file) for file in (MODEL, STATE)}
    for file, raw in content.items():
        if hashlib.sha256(raw).hexdigest() != facts["sha256"][file]:
            raise _Damaged(file, "is not what was written (its sha256 differs: cut short or altered)")
    progress = Progress(**{f.name: facts[f.name] for f in fields(Progress)})
    return Checkpoint(path, progress, load_tensors(content[MODEL]), load_tensors(content[STATE]), facts["optimizer"])


class _Damaged(Exception):
    def __init__(self, file: str, what: str) -> None:
        self.file, self.what = file, what


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(_read(path / FACTS))
        wanted = facts.pop("self")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise _Damaged(FACTS, "cannot be read as it was written") from None
    if wanted != digest_of(facts):
        raise _Damaged(FACTS, "is not what was written (its sha256 differs: altered)")
    return facts


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _Damaged(path.name, "is missing") from None


def _alternative(path: Path) -> str:
    """What else could be resumed from."""
    for other in reversed(Run(path.parent.parent).checkpoints()):
        if other != path:
            try:
                _load(other)
            except _Damaged:
                continue
            return f"{other.name} is good: remove {path} to go on from there"
    return "no other checkpoint is good"


def _write(path: Path, content: bytes) -> str:
    """Write and sync; the sha256 of what was meant to be written, so that a bad disk shows when it is read."""
    with path.open("wb", buffering=0) as file:
        view = memoryview(content)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Fill a model. RunError naming the first tensor that does not fit."""
    check_fit(model, weights, source)
    make_room(model, weights)
    model.load_state_dict(dict(weights))


def check_fit(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    own, unknown = model.state_dict(), sizes_unknown(model)
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            raise RunError(f"{source} has no '{name}', which the model has")
        if name not in own:
            raise RunError(f"{source} has '{name}', which the model has not")
        if own[name].shape != weights[name].shape and name not in unknown:
            raise RunError(f"{source}: '{name}' is {list(weights[name].shape)}, the model's is {list(own[name].shape)}")


def optimizer_state(
    model: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """What the optimizers remember, by parameter name: tensors as `name/key`, plain numbers apart."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{names[parameter]}/{key}"] = value
                elif value is not None:  # SGD without momentum remembers that it remembers nothing
                    scalars.setdefault(names[parameter], {})[key] = value
    return tensors, scalars


def load_optimizer_state(model: nn.Module, optimizers: Sequence[Optimizer], tensors: Mapping[str, Tensor],
                         scalars: Mapping[str, Mapping[str, Any]]) -> None:  # fmt: skip
    """Give it back. torch's own `load_state_dict` does the moving between devices."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_name: dict[str, dict[str, Any]] = {name: dict(values) for name, values in scalars.items()}
    for full, tensor in tensors.items():
        name, _, key = full.rpartition("/")
        by_name.setdefault(name, {})[key] = tensor
    for optimizer in optimizers:
        own = optimizer.state_dict()
        params = [p for group in optimizer.param_groups for p in group["params"]]
        own["state"] = {i: by_name[names[p]] for i, p in enumerate(params) if names[p] in by_name}
        optimizer.load_state_dict(own)
