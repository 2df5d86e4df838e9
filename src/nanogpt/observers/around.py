"""An observer: it stands around the steps of a training run and looks when a look is due.

    before a due step   weights are noted, and the gradients that the step is taken with are looked at
    after it            updates, weights, and a look at the model (look.py); all of it is written

At other steps its hooks return at once. It reads, and changes nothing. Where it fails, it says so once and goes away:
the training goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nanogpt.observers import store
from nanogpt.observers.cadence import due, so_far
from nanogpt.observers.initial import warnings_at_start
from nanogpt.observers.look import into, look
from nanogpt.observers.probes import Probe
from nanogpt.observers.statistics import Rows, sample
from nanogpt.observers.store import Observation
from nanogpt.observers.undisturbed import eager


class Observer:
    """optimizers: those that a step of the run consists of, in the order in which they step.

    folder: where observations go. step: the number of steps taken. steps: those of the whole run; 0 where nobody knows.
    probe: the batch to look at; None from it is an observation of parameters alone. say: told once why it ended.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        folder: Path,
        *,
        step: Callable[[], int],
        steps: int,
        probe: Callable[[], Probe | None],
        say: Callable[[str], None],
    ) -> None:
        self.model, self.folder, self.step, self.steps = eager(model), folder, step, steps
        self.probe, self.say = probe, say
        self.failed = False
        self._looking: _Step | None = None
        self._length = 0
        self._handles: list[Any] = [
            optimizers[0].register_step_pre_hook(self._before),
            optimizers[-1].register_step_post_hook(self._after),
        ]
        self._safely(self._thin)

    def close(self) -> None:
        """Look no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def at_start(self) -> None:
        """Look before the first step, at the gradients of the probe's loss too; and say what is wrong with a model that
        has learned nothing yet."""
        self._safely(self._at_start)

    def _at_start(self) -> None:
        probe = self.probe()
        if probe is None:
            return
        seen = look(self.model, probe, self.step())
        store.write(self.folder, seen)
        for text in warnings_at_start(self.model, seen, probe.words):
            self.say(text)

    # ---- around a step

    def _before(self, *_: Any) -> None:
        if self.failed:
            return
        number = self.step() + 1
        if self.steps == 0 and so_far(number) != self._length:
            self._safely(self._thin)
        if due(number, self.steps or self._length):
            self._looking = self._safely(lambda: _Step(self.model, number))

    def _after(self, *_: Any) -> None:
        if self._looking is not None:
            looking, self._looking = self._looking, None
            self._safely(lambda: self._write(looking))

    def _write(self, looking: _Step) -> None:
        probe = self.probe()
        looking.after()
        if probe is None:
            seen = Observation(looking.number, {}, {})
            into(seen, looking.rows)
        else:
            seen = look(self.model, probe, looking.number, weights=False, rows=looking.rows)
        store.write(self.folder, seen)

    def _thin(self) -> None:
        """A run that has grown longer keeps those of its observations that would have been made, had one known."""
        self._length = self.steps or so_far(self.step() + 1)
        store.delete(self.folder, lambda step: due(step, self._length))

    def _safely(self, do: Callable[[], Any]) -> Any:
        if self.failed:
            return None
        try:
            return do()
        except Exception as error:  # whatever it is, it is no reason to stop a training
            words = (isinstance(error, OSError) and error.strerror) or str(error).strip() or type(error).__name__
            self.end(words.splitlines()[0][:200])
            return None

    def end(self, reason: str) -> None:
        """Do nothing any more, and say why. The hooks stay until `close`: one may be running right now."""
        self.failed = True
        self.say(f"observing ended at step {self.step()}: {reason}; training goes on without it")


class _Step:
    """What happens to the parameters in one step, in `rows`."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, number: int) -> None:
        self.model, self.number, self.rows = model, number, Rows()
        self.old: dict[str, Tensor] = {}
        for name, p in model.named_parameters():
            if p.grad is not None and p.grad.layout == torch.strided and p.is_floating_point():
                self.old[name] = sample(p).to(torch.float32, copy=True)
                self.rows.add("weight_gradients", name, p.grad)

    @torch.no_grad()
    def after(self) -> None:
        """Once the step is taken."""
        for name, p in self.model.named_parameters():
            now = sample(p)
            self.rows.add("weights", name, now, numbers=p.numel())
            if name in self.old:
                self.rows.add("updates", name, now - self.old[name], numbers=p.numel())
