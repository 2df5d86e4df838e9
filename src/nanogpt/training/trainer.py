"""The trainer: steps, evaluations, checkpoints and samples of one run, in this order:

    step -> (evaluate) -> (sample) -> row of metrics -> (checkpoint)

A kill anywhere loses what came after the last checkpoint, and resuming takes those steps again, bit for bit: batches
and randomness are functions of the step's number, and the log is rewound to the checkpoint.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nanogpt.data.batches import Batch, Sampler
from nanogpt.data.shards import Tokens
from nanogpt.optim.schedules import SCHEDULES
from nanogpt.parts import build
from nanogpt.runs import Run
from nanogpt.training import checkpoint as checkpoints
from nanogpt.training.average import Average
from nanogpt.training.card import card, memory
from nanogpt.training.checkpoint import Checkpoint, Progress, full_disk_is_one_line
from nanogpt.training.evaluate import Evaluation, evaluate, to_device
from nanogpt.training.fitting import SCORED, beginning, fit
from nanogpt.training.interrupt import Interrupt
from nanogpt.training.nonfinite import HINT, NotFinite, first_bad_gradient, first_bad_module
from nanogpt.training.progress import Listener
from nanogpt.training.setup import Material, build_model, step_seed
from nanogpt.training.world import World

Ending = Literal["finished", "stopped early", "interrupted"]


@dataclass(frozen=True)
class Summary:
    """How training ended."""

    run: Run
    ending: Ending
    step: int
    steps: int
    row: Mapping[str, Any]
    """The last row of metrics that has an evaluation; {} where there is none."""


class Trainer:
    def __init__(self, run: Run, material: Material, world: World, listeners: Sequence[Listener],
                 sampler: Callable[[Any], str] | None = None) -> None:  # fmt: skip
        self.run, self.material, self.world, self.listeners, self.sampler = run, material, world, listeners, sampler
        self.config, self.machine = material.config, material.machine
        self.train = self.config.train
        self.steps = self.train.steps
        self.machine.prepare()
        self.model, self.optimizers = build_model(material)
        self.parameters = list(self.model.parameters())
        self.average = Average(self.model, self.config.optim.ema)
        self.losses: Callable[..., dict[str, Tensor]] = self.model.losses
        self.schedule = build(SCHEDULES, self.config.optim.schedule)
        self.batches = Sampler(
            material.splits["train"],
            self.train.batch,
            self.config.model.context,
            self.config.data.batching,
            self.config.seed,
        )
        self.progress = Progress()
        self.eval_every = self.train.eval_every or math.ceil(self.steps / 10)
        self.checkpoint_every = self.train.checkpoint_every or self.eval_every
        self.sample_every = self.train.sample_every or self.eval_every

    def say(self, event: str, **facts: Any) -> None:
        for listener in self.listeners:
            listener(event, facts)

    def restore(self, checkpoint: Checkpoint) -> None:
        checkpoint.restore(self.model, self.optimizers, self.average)
        self.progress = checkpoint.progress

    # ---- the loop

    def go(self) -> Summary:
        """Train to the end, or until someone asks to stop."""
        if self.progress.step == self.steps:
            more = f"go on with train.steps={2 * self.steps}" if self.parameters else "there is nothing to go on with"
            self.say("note", text=f"all {self.steps} steps are taken; {more}")
            return self._summary("finished")
        if self.stopped_early:
            self.say("note", text=f"stopped early at step {self.progress.step}; go on with train.patience=0")
            return self._summary("stopped early")
        with full_disk_is_one_line(self.run), Interrupt() as interrupt:
            used = memory(self.config, self.model, self.optimizers)
            self.say("card", lines=card(self.config, self.material.cost, used, self.machine, self.progress.step))
            if self.progress.step == 0:
                self._fit()
            if self.machine.compile == "on" and self.parameters:
                self._compile()
            self.say("start", step=self.progress.step, steps=self.steps)
            self.model.train()
            try:
                ending = self._loop(interrupt)
            finally:
                self.say("end")
        return self._summary(ending)

    def _summary(self, ending: Ending) -> Summary:
        rows = [row for row in self.run.metrics() if "val/loss" in row] if self.world.is_main else []
        return Summary(self.run, ending, self.progress.step, self.steps, rows[-1] if rows else {})

    def _loop(self, interrupt: Interrupt) -> Ending:
        while self.progress.step < self.steps:
            if self.stopped_early:
                return "stopped early"
            row = self.step()
            asked = self.world.any(interrupt.asked) and self.progress.step < self.steps
            better = self._evaluate_into(row) if self._due(self.eval_every) else False
            sample = self._sample() if self.sampler and self._due(self.sample_every) else None
            if self.world.is_main:
                self.run.log({key: value for key, value in row.items() if not key.startswith("step_")})
            if better or asked or self.stopped_early or self._due(self.checkpoint_every):
                self.save()
            self.say("step", **row)
            if sample is not None:
                self.say("sample", step=self.progress.step, text=sample)
            if asked:
                return "interrupted"
        return "finished"

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.steps

    @property
    def stopped_early(self) -> bool:
        return 0 < self.train.patience <= self.progress.worse

    # ---- one step

    def step(self) -> dict[str, Any]:
        """One optimizer step on one batch, cut into micro-batches. Returns its row of metrics."""
        if not self.parameters:
            return self._only_fitted()
        started = time.perf_counter()
        number = self.progress.step
        batch = self.batches.batch(number)
        share = self.schedule(number, self.steps)
        terms, scored = self._gradients(batch, number)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        values = self._numbers(terms, norm)
        if not all(map(math.isfinite, values.values())):
            raise self._diverged(batch, number, values)
        if self.config.optim.clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.optim.clip, norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * share
            optimizer.step()
        self.average.update(number + 1)
        seconds = time.perf_counter() - started
        self.progress.step += 1
        self.progress.tokens += scored
        self.progress.seconds += seconds
        self.progress.val_loss = None
        return self._row(values, scored, seconds)

    def _fit(self) -> None:
        """Before the first step: what is fitted to the training text in closed form (fitting.py)."""
        started = time.perf_counter()
        for found in fit(self.model, self.material.splits["train"], self.config.data.batching):
            self.say("note", text=f"counted    {found}")
        self.progress.seconds += time.perf_counter() - started

    def _only_fitted(self) -> dict[str, Any]:
        """The one step of a model without weights: the loss on the training text, or on its beginning where the
        vocabulary is so large that all of it would take minutes."""
        tokens = self.material.splits["train"]
        some = beginning(tokens, SCORED // self.model.vocab_size)
        found = self._score(some)
        self.progress.step += 1
        self.progress.tokens += len(tokens) - 1
        self.progress.val_loss = None
        facts = {"step": self.progress.step, "tokens": self.progress.tokens}
        rate = self.progress.tokens / max(self.progress.seconds, 1e-9)
        return {
            **facts,
            "seconds": round(self.progress.seconds, 6),
            "train/loss": found.loss,
            "tokens_per_second": round(rate, 1),
            "step_seconds": self.progress.seconds,
            "step_tokens": self.progress.tokens,
        }

    def _gradients(self, batch: Batch, number: int) -> tuple[dict[str, Tensor], int]:
        """Gradients of the whole batch's loss, and its terms. Every micro-batch is divided by the scored tokens of
        the whole, so that how it is cut changes nothing."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.machine.seed(step_seed(self.config.seed, number, self.world.rank))
        scored = int((batch.targets_BT >= 0).sum())
        count = torch.tensor(float(max(1, scored)), device=self.machine.device)
        total: dict[str, Tensor] = {}
        for inputs in self._micro_batches(batch):
            with self.machine.autocast():
                terms = self.losses(*inputs, count=count)
            terms["loss"].backward()
            for name, value in terms.items():
                total[name] = total[name] + value.detach() if name in total else value.detach()
        self.world.add_gradients(p.grad for p in self.parameters if p.grad is not None)
        return total, scored

    def _micro_batches(self, batch: Batch) -> list[list[Tensor | None]]:
        """This process's rows, as equal pieces on the device."""
        mine = self.world.rows(len(batch.tokens_BT))
        size = (mine.stop - mine.start) // self.train.accumulate
        arrays = (batch.tokens_BT, batch.targets_BT, batch.mask_BT, batch.documents_BT)
        starts = range(mine.start, mine.stop, size)
        return [
            [to_device(None if a is None else a[s : s + size], self.machine.device) for a in arrays] for s in starts
        ]

    def _numbers(self, terms: Mapping[str, Tensor], norm: Tensor) -> dict[str, float]:
        """Tensors as numbers, in one transfer from the device."""
        losses = self.world.sum(torch.stack([value.float() for value in terms.values()]))
        return dict(zip([*terms, "norm"], torch.cat([losses, norm.float()[None]]).tolist(), strict=True))

    def _row(self, values: Mapping[str, float], scored: int, seconds: float) -> dict[str, Any]:
        terms = {name: value for name, value in values.items() if name not in ("loss", "nll", "norm")}
        if terms:  # more than the next token's: what is minimised is their sum
            terms["total"] = values["loss"]
        return {
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 6),
            "train/loss": values.get("nll", values["loss"]),
            **{f"train/{name}": value for name, value in terms.items()},
            "lr": self.optimizers[0].param_groups[0]["lr"],
            "grad_norm": values["norm"],
            "tokens_per_second": round(scored / max(seconds, 1e-9), 1),
            "step_seconds": seconds,
            "step_tokens": scored,
        }

    def _diverged(self, batch: Batch, number: int, values: Mapping[str, float]) -> NotFinite:
        what = "the loss" if not math.isfinite(values["loss"]) else "the gradient"
        gradient = first_bad_gradient(self.model)

        def forward() -> None:
            self.machine.seed(step_seed(self.config.seed, number, self.world.rank))
            for inputs in self._micro_batches(batch):
                with self.machine.autocast():
                    self.model.losses(*inputs)  # type: ignore[arg-type]

        return self._not_finite(f"{what} is not finite in step {number + 1}", forward, gradient)

    def _not_finite(self, what: str, forward: Callable[[], Any], gradient: str | None = None) -> NotFinite:
        """Say where it happened: what was computed is run again, uncompiled, and every module's output watched."""
        module = first_bad_module(self.model, forward)
        if module:
            where = f"the first module whose output is not finite is {module}"
        elif gradient:
            where = f"all outputs are finite; the first gradient that is not is of {gradient}"
        else:
            where = "every module's output is finite: it is the loss itself"
        return NotFinite(f"{what}: {where}; {checkpoints.kept(self.run)}; {HINT}")

    # ---- now and then

    def evaluate(self) -> Evaluation:
        return self._score(self.material.splits["val"])

    def _score(self, tokens: Tokens) -> Evaluation:
        batching = self.config.data.batching
        with self.average.in_place():
            return evaluate(self.model, tokens, batching=batching, machine=self.machine, world=self.world)

    def _evaluate_into(self, row: dict[str, Any]) -> bool:
        """Add the validation loss to a row; whether it is the best one so far."""
        found = self.evaluate()
        if not math.isfinite(found.loss):
            raise self._not_finite(f"the validation loss is not finite after step {self.progress.step}", self.evaluate)
        row |= {"val/loss": found.loss, "val/bpb": found.bpb}
        self.progress.val_loss = found.loss
        better = self.progress.best_loss is None or found.loss < self.progress.best_loss
        if better:
            self.progress.best_loss, self.progress.best_step, self.progress.worse = found.loss, self.progress.step, 0
        else:
            self.progress.worse += 1
        return better

    def save(self) -> None:
        if self.world.is_main:
            self.run.sync()
            path = checkpoints.save(self.run, self.progress, self.model, self.optimizers, self.average.weights)
            self.say("checkpoint", step=self.progress.step, path=path)
        self.world.wait()

    def _sample(self) -> str | None:
        """What the model writes now. Every step is seeded anew, so this disturbs nothing."""
        if not self.world.is_main or self.sampler is None:
            return None
        self.model.eval()
        with torch.no_grad(), self.average.in_place():
            text = self.sampler(self.model)
        self.model.train()
        self.run.log_sample({"step": self.progress.step, "text": text})
        return text

    def _compile(self) -> None:
        """Compile before the first step, timed apart; go on without where it fails."""
        started = time.perf_counter()
        statistics = [buffer.clone() for buffer in self.model.buffers()]  # batch norm's: this pass is no step
        self.say("note", text="compiling ...")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's about torch
                self.losses = torch.compile(self.model.losses)
                self._gradients(self.batches.batch(self.progress.step), self.progress.step)
            self.machine.wait()
            self.say("note", text=f"compiled in {time.perf_counter() - started:.0f} s (not counted as training)")
        except Exception as error:  # whatever the compiler raises: the uncompiled model does the same
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            self.say("note", text=f"cannot compile ({reason}); going on without")
            self.losses, self.machine.compile = self.model.losses, "off"
            self.config = self.config.model_copy(update={"train": self.train.model_copy(update={"compile": "off"})})
            if self.world.is_main:
                self.run.save_config(self.config)
        for buffer, before in zip(self.model.buffers(), statistics, strict=True):
            buffer.copy_(before)
