"""What looking inside costs: whole trainings with and without it, run in turn, beside what W&B and TensorBoard cost.

    python benchmarks/observer_overhead.py --json                       # the default model, all of its 900 steps
    python benchmarks/observer_overhead.py --steps 300                  # its first 300
    python benchmarks/observer_overhead.py --preset gpt data.corpus=shakespeare     # 10.7 M parameters

Five trainings of one configuration in each round, in turn: `absent` (no observer is given), `off` (train.observe=off),
`nanogpt` (the default: everything), `tensorboard` (add_histogram of the very same tensors: weights, their gradients,
updates, activations, their gradients, at the very same steps), `wandb` (watch(log="all") offline, which sees weights
and gradients only, at as many steps). Timed is the loop with its evaluations, samples and checkpoints, and whatever the
observer does before it; neither preparing the text nor compiling is.

`overhead` is (median of nanogpt) / (median of off) - 1; `inside` is the share of its own trainings that was spent in
the observer's code by the clock, which no other work on the machine blurs. With fewer steps than the run has, the
distance between looks stays that of the whole run, its first looks (0, 1, 2, 4, 8 ...) weigh more than they will, and
so the cost of one look is what is measured and `overhead` that of the whole run.

A model whose step takes seconds (`--by step`, which is what `--preset gpt` takes) is not trained to its end: a step
with a look and one without are taken in turn, and the share is worked out for the looks of its whole run. W&B
then looks at every second step.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import Busy, emit, in_turn, machine, medians, say

from nanogpt.config import RunConfig, compose
from nanogpt.errors import UserError
from nanogpt.observers.around import Observer
from nanogpt.observers.attach import attach
from nanogpt.observers.cadence import due, every
from nanogpt.observers.store import steps as looks_in
from nanogpt.training import loop
from nanogpt.training.trainer import Trainer

VARIANTS = ("off", "absent", "nanogpt", "tensorboard", "wandb")


class Enough(Exception):
    """So many steps were asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="section.key=value, as for nanogpt train")
    parser.add_argument("--preset", default="modern")
    parser.add_argument("--steps", type=int, default=0, help="take only the first so many; 0: the whole run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--by", choices=("run", "step"), help="by default step for gpt, whose step takes seconds")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    config = compose(asked.preset, asked.settings)
    by = asked.by or ("step" if asked.preset == "gpt" else "run")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), Busy() as busy:
        measure = by_step if by == "step" else by_run
        found = measure(config, ["off", *(v for v in asked.only if v != "off")], asked.rounds, asked.steps)
    about = {"preset": asked.preset, "settings": asked.settings, "rounds": asked.rounds, "by": by}
    emit({**found, **about, "machine": machine(), "busy": round(busy.share, 3)}, asked.json)


# ---- run against run


def by_run(config: RunConfig, variants: list[str], rounds: int, steps: int) -> dict[str, Any]:
    """Whole trainings, in turn; the first of each variant warms up and is not counted where there is a second."""
    length = config.train.steps
    taken = min(steps or length, length)
    counts: dict[str, int] = {}
    inside: list[float] = []

    def thunk(name: str) -> Callable[[], float]:
        def run() -> float:
            seconds, counts[name], own = one_run(config, name, taken)
            inside.extend([own / (seconds - own)] if own else [])
            say(f"{name}: {seconds:.1f} s, {counts[name]} looks")
            return seconds

        return run

    found = in_turn({name: thunk(name) for name in variants}, rounds)
    middle = medians(found)
    whole = sum(due(step, length) for step in range(length + 1))
    result: dict[str, Any] = {"overhead": None, "observations": whole, "steps": taken, "of_steps": length}
    for name in variants:
        apart = middle[name] - middle["off"]
        looks = counts[name] or counts.get("nanogpt", 0)
        share = apart / middle["off"] if taken == length or not looks else apart / looks * whole / (
            middle["off"] / taken * length
        )  # fmt: skip
        result[name] = {
            "seconds": round(middle[name], 3),
            "overhead": round(share, 4),
            "all_seconds": [round(s, 3) for s in found[name]],
        }
    result["overhead"] = result.get("nanogpt", {}).get("overhead")
    result["inside"] = round(statistics.median(inside), 4) if inside else None
    return result


def one_run(config: RunConfig, variant: str, taken: int) -> tuple[float, int, float]:
    """Seconds of one training, how often it was looked at, and the seconds in our observer's code."""
    observe = "on" if variant not in ("off", "absent") else "off"
    config = config.model_copy(update={"train": config.train.model_copy(update={"observe": observe})})
    before, spans = Attached(variant), dict[str, float]()

    def on_event(event: str, facts: Any) -> None:
        if event in ("start", "end"):
            spans[event] = time.perf_counter()
        elif event == "step" and facts["step"] == taken < config.train.steps:
            raise Enough

    observer = None if variant == "absent" else before
    with contextlib.suppress(Enough):
        loop.train(config, name="timed", quiet=True, on_event=on_event, observer=observer)
    before.close()
    looks = len(looks_in(Path("runs/timed/layers"))) if variant == "nanogpt" else before.looks
    shutil.rmtree("runs")
    if variant == "nanogpt" and looks < sum(due(step, config.train.steps) for step in range(taken + 1)):
        raise SystemExit(f"only {looks} looks were taken: the observer ended early")
    return spans["end"] - spans["start"] + before.seconds, looks, before.inside


class Attached:
    """An observer, and the seconds that it takes: before the first step, and all in all where it is ours. `off` must
    attach nothing at all."""

    def __init__(self, variant: str, often: int = 0) -> None:
        self.variant, self.often, self.seconds, self.inside = variant, often, 0.0, 0.0
        self.other: TensorBoard | Wandb | None = None

    def __call__(self, trainer: Trainer) -> None:
        started = time.perf_counter()
        if self.variant == "nanogpt":
            self._clock()
            attach(trainer)
        elif self.variant == "tensorboard":
            self.other = TensorBoard(trainer)
        elif self.variant == "wandb":
            self.other = Wandb(trainer, self.often or every(trainer.steps))
        self.seconds = time.perf_counter() - started

    def _clock(self) -> None:
        """Time whatever the observer does."""
        work = self.work = Observer._safely

        def timed(observer: Observer, do: Callable[[], Any]) -> Any:
            started = time.perf_counter()
            try:
                return work(observer, do)
            finally:
                self.inside += time.perf_counter() - started

        Observer._safely = timed  # type: ignore[method-assign]

    @property
    def looks(self) -> int:
        return self.other.looks if self.other else 0

    def close(self) -> None:
        if self.variant == "nanogpt":
            Observer._safely = self.work  # type: ignore[method-assign]
        if self.other:
            self.other.close()


# ---- the others


class TensorBoard:
    """What one would write by hand: add_histogram of the tensors that we observe, at the steps at which we do."""

    def __init__(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        from nanogpt.observers.look import probe_of
        from nanogpt.observers.sites import sites

        self.trainer, self.looks, self.before = trainer, 0, dict[str, torch.Tensor]()
        self.probe, self.sites = probe_of(trainer), sites(trainer.model)
        self.writer = SummaryWriter(str(trainer.run.path / "tensorboard"))
        for optimizer in trainer.optimizers[:1]:
            optimizer.register_step_pre_hook(self._before)
        for optimizer in trainer.optimizers[-1:]:
            optimizer.register_step_post_hook(self._after)
        self._look(0)

    def _before(self, *_: Any) -> None:
        if due(self.trainer.progress.step + 1, self.trainer.steps):
            self.before = {name: p.detach().clone() for name, p in self.trainer.model.named_parameters()}

    def _after(self, *_: Any) -> None:
        step = self.trainer.progress.step + 1
        if due(step, self.trainer.steps):
            for name, p in self.trainer.model.named_parameters():
                self.writer.add_histogram(f"updates/{name}", p.detach() - self.before[name], step)
                if p.grad is not None:
                    self.writer.add_histogram(f"weight_gradients/{name}", p.grad, step)
            self._look(step)

    def _look(self, step: int) -> None:
        model, taken = self.trainer.model, dict[str, torch.Tensor]()
        for name, p in model.named_parameters():
            self.writer.add_histogram(f"weights/{name}", p, step)

        def keep(name: str) -> Any:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                if isinstance(output, torch.Tensor) and output.requires_grad:
                    taken[name] = output

            return hook

        handles = [site.module.register_forward_hook(keep(site.name)) for site in self.sites]
        model.eval()
        loss = self.probe.loss()
        gradients = torch.autograd.grad(loss, list(taken.values()), allow_unused=True)
        model.train()
        for handle in handles:
            handle.remove()
        for (name, tensor), gradient in zip(taken.items(), gradients, strict=True):
            self.writer.add_histogram(f"activations/{name}", tensor, step)
            if gradient is not None:
                self.writer.add_histogram(f"activation_gradients/{name}", gradient, step)
        self.looks += 1

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """`watch` offline: histograms of gradients at every `often` steps, and of weights.

    Its hook for weights waits for the model's `forward`, which a training loop that asks for losses (and a compiled
    one) never calls: so they are logged here by its own function, at the same steps.
    """

    def __init__(self, trainer: Trainer, often: int) -> None:
        import wandb

        self.model, self.often, self.step, self.looks, self.fired = trainer.model, often, 0, 0, False
        self.run = wandb.init(mode="offline", dir=str(trainer.run.path), project="overhead")
        wandb.watch(trainer.model, log="all", log_freq=often)
        self.history = self.run._torch
        self.log_tensor, self.history.log_tensor_stats = self.history.log_tensor_stats, self._noted
        trainer.optimizers[-1].register_step_post_hook(self._after)

    def _noted(self, tensor: Any, name: str) -> Any:
        self.fired = True
        return self.log_tensor(tensor, name)

    def _after(self, *_: Any) -> None:
        self.step += 1
        self.looked = self.fired
        if self.fired:
            self.looks += 1
            for name, p in self.model.named_parameters():
                self.log_tensor(p.data.cpu(), f"parameters/{name}")
        self.fired = False
        self.run.log({"step": self.step})

    def close(self) -> None:
        self.run.finish()


# ---- step against step


def by_step(config: RunConfig, variants: list[str], rounds: int, steps: int) -> dict[str, Any]:
    """A step with a look and one without, in turn; the share for the looks of the whole run."""
    length = config.train.steps
    whole = sum(due(step, length) for step in range(length + 1))
    result: dict[str, Any] = {"overhead": None, "observations": whole, "of_steps": length}
    for variant in (v for v in variants if v not in ("off", "absent")):
        thunks, before = stepping(config, variant)
        found = in_turn(thunks, rounds)
        before.close()
        if variant == "nanogpt" and not looks_in(Path("runs/timed/layers")).get(every(length)):
            raise SystemExit("no look was taken: the observer ended early")
        shutil.rmtree("runs")
        middle = medians(found)
        share = (middle["look"] - middle["plain"]) * whole / (middle["plain"] * length)
        result[variant] = {name: round(seconds, 3) for name, seconds in middle.items()} | {"overhead": round(share, 4)}
        say(f"{variant}: a step {middle['plain']:.2f} s, with a look {middle['look']:.2f} s")
    result["overhead"] = result.get("nanogpt", {}).get("overhead")
    return result


def stepping(config: RunConfig, variant: str) -> tuple[dict[str, Callable[[], float]], Attached]:
    """Two thunks over one trainer, ready to go: a step on which a look is due, and one on which none is."""
    held: list[Trainer] = []
    before = Attached(variant, often=2)

    def observer(trainer: Trainer) -> None:
        held.append(trainer)
        raise Enough

    config = config.model_copy(update={"train": config.train.model_copy(update={"observe": "on"})})
    with contextlib.suppress(Enough):
        loop.train(config, name="timed", quiet=True, observer=observer)
    trainer = held[0]
    trainer.run.layers.mkdir(parents=True, exist_ok=True)  # the folder went when the training was cut short
    if trainer.machine.compile == "on":
        trainer._compile()
    trainer.model.train()
    before(trainer)
    often = every(trainer.steps)
    other = before.other

    def step(number: int, look: bool) -> float:
        trainer.progress.step = number
        started = time.perf_counter()
        trainer.step()
        seconds = time.perf_counter() - started
        # W&B's hooks count by themselves, every second step here: the next one is the one that is asked for.
        return step(number, look) if isinstance(other, Wandb) and other.looked != look else seconds

    step(often, False)  # warm up
    return {"plain": lambda: step(often, False), "look": lambda: step(often - 1, True)}, before


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"observer_overhead: {error}") from None
