"""Observing anyone's module in anyone's loop: three lines, no account, no server, and the same folder as of our runs.

import nanogpt as ng
watch = ng.observe(model, optimizer, probe=(x, y))
for ...:
    ...
    optimizer.step()
    watch.log(loss=loss.item())
"""

from __future__ import annotations

import math
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nanogpt.errors import UserError
from nanogpt.observers.around import Observer
from nanogpt.observers.probes import Probe, of_first_batch, of_pair
from nanogpt.observers.undisturbed import eager
from nanogpt.runs import OBSERVED, Run, as_json
from nanogpt.training.world import is_main

LONGEST_WORDS = 20_000
"""Characters of a module's description that are kept."""


def observe(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    probe: Callable[[], Tensor] | tuple[Any, Any] | None = None,
    *,
    out: Path | str = "runs",
    name: str | None = None,
    steps: int | None = None,
) -> Watching:
    """Look inside a module while it trains, after steps of its optimizer, and write it to the run folder `out/name`.

    Compiled or not, in any loop: at every 2% of the run and at the powers of two at its start. Weights, random state,
    gradients and buffers are left alone; a loop that is observed ends in the same weights, bit for bit. Several
    optimizers: those that each step consists of, in order.

    probe: the fixed batch to look at: a function that returns the loss, or (inputs, targets), where the loss is
        cross-entropy for whole targets and the mean square for others. Without one, the first batch that the module
        sees is kept; there is then no loss, so activations are shown without gradients (but for a module that returns
        its own loss).
    name: of the folder; by default the module's class, with a number where it is taken.
    steps: those of the whole run. Where it is not given, observations are thinned as the run grows.

    UserError where there is nothing to observe, or the name is taken.
    """
    inner, optimizers = eager(model), [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    if not isinstance(model, nn.Module):
        raise UserError(f"observe: the first argument must be a torch.nn.Module, not a {type(model).__name__}")
    wrong = next((type(o).__name__ for o in optimizers if not isinstance(o, Optimizer)), None)
    if wrong or not optimizers:
        raise UserError(
            f"observe: the second argument must be one or more torch.optim.Optimizer, not {wrong or 'none'}"
        )
    if next(inner.parameters(), None) is None:
        raise UserError(
            f"observe: this {type(inner).__name__} has no parameters, so there is nothing that training moves"
        )
    if steps is not None and steps < 1:
        raise UserError(f"observe: steps={steps} must be at least 1")
    known = _probe(inner, probe)
    run = _folder(inner, optimizers, out, name, steps) if is_main() else None
    return Watching(run, model, optimizers, known, steps or 0)


class Watching:
    """What observes a loop. `run`: its folder (`nanogpt inspect`, `nanogpt report`); None in a process of several that
    is not the main one. Ends with the program, with `close`, or as a context manager."""

    def __init__(self, run: Run | None, model: nn.Module, optimizers: Sequence[Optimizer], probe: Probe | None,
                 steps: int) -> None:  # fmt: skip
        self.run, self.step = run, 0
        self._started = time.perf_counter()
        self._model, self._known = eager(model), probe
        self._handles: list[Any] = []
        self._observer: Observer | None = None
        if run is None:
            return
        if probe is None:
            self._handles.append(model.register_forward_pre_hook(self._first, with_kwargs=True))
            self._handles.append(optimizers[0].register_step_pre_hook(self._begin))
        self._observer = Observer(
            model, optimizers, run.layers, step=lambda: self.step, steps=steps, probe=lambda: self._known, say=_say
        )
        self._handles.append(optimizers[-1].register_step_post_hook(self._count))
        if probe is not None:
            self._observer.at_start()

    def log(self, **numbers: float | Tensor) -> None:
        """Append a row of numbers to the run's metrics, under the step that was just taken: `log(loss=2.1)`. `loss`
        and `val_loss` become `train/loss` and `val/loss`, which the curves go by."""
        if self.run is None:
            return
        facts = {"step": self.step, "seconds": round(time.perf_counter() - self._started, 6)}
        try:
            row = {_KEYS.get(key, key): _number(value) for key, value in numbers.items()}
            self.run.log({**facts, **row})
        except (OSError, TypeError, ValueError, RuntimeError) as error:  # no reason to stop a training
            if self._observer is not None and not self._observer.failed:
                self._observer.end(f"{self.run.path}: {getattr(error, 'strerror', None) or error}")

    def close(self) -> None:
        """Look no more; what was seen stays."""
        if self._observer is not None:
            self._observer.close()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Watching({str(self.run.path) if self.run else ''!r}, step={self.step})"

    def _count(self, *_: Any) -> None:
        self.step += 1

    def _first(self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Keep the first batch, as it is now: a loop may fill the same memory with the next one."""
        if self._known is None:
            with suppress(Exception):  # what cannot be copied cannot be looked at again
                self._known = of_first_batch(self._model, _copied(inputs), _copied(keywords), _without_loss)

    def _begin(self, *_: Any) -> None:
        if (
            self.step == 0 and self._known is not None and self._observer is not None
        ):  # the weights are still those of the start
            self._observer.at_start()


_KEYS = {"loss": "train/loss", "val_loss": "val/loss"}


def _probe(model: nn.Module, probe: Any) -> Probe | None:
    if probe is None or isinstance(probe, Probe):
        return probe
    if callable(probe):
        return Probe(probe)
    if isinstance(probe, (tuple, list)) and len(probe) == 2 and isinstance(probe[1], Tensor):
        return of_pair(model, *probe)
    raise UserError("observe: probe must be a function that returns the loss, or (inputs, targets)")


def _folder(model: nn.Module, optimizers: Sequence[Optimizer], out: Path | str, name: str | None,
            steps: int | None) -> Run:  # fmt: skip
    """A run folder whose configuration says what is known of a module that is not ours."""
    kind = type(model).__name__
    facts = {
        "model": kind,
        "parameters": sum(p.numel() for p in model.parameters()),
        "optimizer": ", ".join(type(o).__name__ for o in optimizers),
        "learning_rate": optimizers[0].param_groups[0].get("lr"),
        "steps": steps,
        "modules": str(model)[:LONGEST_WORDS],
    }
    facts["learning_rate"] = None if facts["learning_rate"] is None else float(facts["learning_rate"])
    versions = {"python": platform.python_version(), "torch": torch.__version__, "nanogpt": _version()}
    launch = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": sys.argv, "versions": versions}
    files = {"environment.json": as_json({"launches": [launch]}), "metrics.jsonl": b""}
    stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", kind).lower().strip("_-.") or "module"
    return Run.make(out, name, stem, {**files, "config.json": as_json({OBSERVED: facts})})


def _version() -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("nanogpt")
    return None


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return type(value)(_copied(item) for item in value) if type(value) in (tuple, list) else value


def _number(value: Any) -> float | int | None:
    number = value.item() if hasattr(value, "item") else value  # a tensor, or one of numpy's
    return number if isinstance(number, int) or math.isfinite(number) else None


def _without_loss() -> None:
    _say("observe: no probe was given, so activations of the first batch are shown, without their gradients")


def _say(text: str) -> None:
    with suppress(Exception):  # nobody reads any more: no reason to stop anyone's training
        print(text, file=sys.stderr)


__all__ = ["Observer", "Watching", "observe"]
