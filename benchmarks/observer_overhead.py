"""What looking inside costs: trainings with and without it, in turn, beside what W&B and TensorBoard cost.

    python benchmarks/observer_overhead.py --json                       # the default model, all of its 900 steps
    python benchmarks/observer_overhead.py --steps 300                  # its first 300
    python benchmarks/observer_overhead.py --preset gpt data.corpus=shakespeare     # 10.7 M parameters

Four trainings of one configuration go on in turn, from one look to the next, so that whatever the machine does
meanwhile it does to all of them: `off` (train.observe=off, to which nothing is attached), `nanogpt` (the default:
everything), `tensorboard` (add_histogram of the very same tensors: weights, their gradients, updates, activations,
their gradients, at the very same steps), `wandb` (watch(log="all") offline, which sees weights and gradients only, at
as many steps). Timed are the steps and what is done before the first of them; evaluations, samples and checkpoints,
which would make every share smaller, are left out.

`overhead` is (seconds of nanogpt) / (seconds of off) - 1, and `error` its standard error, from the turns; `middle` is
the median over the turns, which a machine that is slow for a while moves less. With fewer steps than the run has, the
distance between looks stays that of the whole run, its first looks (0, 1, 2, 4, 8 ...) weigh more than they will, and
so the cost of one look is what is measured and `overhead` that of the whole run.

A model whose step takes seconds (`--by step`, which is what `--preset gpt` takes) is not trained to its end: a step
with a look and one without are taken in turn, and the share is worked out for the looks of its whole run. W&B
then looks at every second step.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Busy, emit, in_turn, machine, medians, say

from nanogpt.config import RunConfig, compose
from nanogpt.errors import UserError
from nanogpt.observers.attach import attach
from nanogpt.observers.cadence import due, every
from nanogpt.observers.store import steps as looks_in
from nanogpt.training import loop
from nanogpt.training.trainer import Trainer

VARIANTS = ("off", "nanogpt", "tensorboard", "wandb")


class Ready(Exception):
    """A trainer is ready to go."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="section.key=value, as for nanogpt train")
    parser.add_argument("--preset", default="modern")
    parser.add_argument("--steps", type=int, default=0, help="take only the first so many; 0: the whole run")
    parser.add_argument("--rounds", type=int, default=3, help="of --by step")
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
    """The whole run of every variant, in turns as long as from one look to the next. `rounds` is of the other way."""
    length, often = config.train.steps, every(config.train.steps)
    taken = min(steps or length, length)
    trainings = {name: ready(config, name) for name in variants}
    turns: dict[str, list[float]] = {name: [] for name in variants}
    for trainer, attached in trainings.values():
        attached(trainer)
    for number, start in enumerate(range(0, taken, often)):
        first = number % len(variants)
        for name in variants[first:] + variants[:first]:
            started = time.perf_counter()
            for _ in range(start, min(start + often, taken)):
                trainings[name][0].step()
            turns[name].append(time.perf_counter() - started)
        say(f"from step {start}: " + ", ".join(f"{name} {turns[name][-1]:.3f} s" for name in variants))
    _same_weights(trainings)
    looks, whole = (sum(due(step, length) for step in range(last + 1)) for last in (taken, length))
    part = whole / looks * taken / length  # of the looks that there are, over that of the steps
    off = sum(turns["off"])
    result: dict[str, Any] = {"overhead": None, "observations": whole, "steps": taken, "of_steps": length}
    for name, (_, attached) in trainings.items():
        attached.close()
        apart = np.subtract(turns[name], turns["off"])
        error = apart[1:].std() * math.sqrt(len(apart)) / off  # the first turn has more looks than the others
        result[name] = {
            "seconds": round(sum(turns[name]) + attached.seconds, 3),
            "before": round(attached.seconds, 3),
            "overhead": round((apart.sum() + attached.seconds) / off * part, 4),
            "error": round(error * part, 4),
            "middle": round(float(np.median(np.divide(turns[name], turns["off"])) - 1), 4),
        }
    result["overhead"] = result.get("nanogpt", {}).get("overhead")
    return result


def ready(config: RunConfig, variant: str, often: int = 0) -> tuple[Trainer, Attached]:
    """A trainer before its first step, compiled where it should be, and what is to be attached to it."""
    held: list[Trainer] = []

    def observer(trainer: Trainer) -> None:
        held.append(trainer)
        raise Ready

    config = config.model_copy(update={"train": config.train.model_copy(update={"observe": "on"})})
    with contextlib.suppress(Ready):
        loop.train(config, name=variant, quiet=True, observer=observer)
    trainer = held[0]
    trainer.run.layers.mkdir(parents=True, exist_ok=True)  # the folder went when the training was cut short
    if trainer.machine.compile == "on":
        trainer._compile()
    trainer.model.train()
    return trainer, Attached(variant, often)


def _same_weights(trainings: Mapping[str, tuple[Trainer, Attached]]) -> None:
    """Whoever looked changed nothing; and ours looked to the end."""
    off = trainings["off"][0].model.state_dict()
    for name, (trainer, _) in trainings.items():
        if not all(torch.equal(value, off[key]) for key, value in trainer.model.state_dict().items()):
            raise SystemExit(f"{name} changed the weights")
        wanted = sum(due(step, trainer.steps) for step in range(trainer.progress.step + 1))
        if name == "nanogpt" and len(looks_in(trainer.run.layers)) < wanted:
            raise SystemExit("the observer ended early")


class Attached:
    """An observer, and the seconds that it takes before the first step. `off` must attach nothing at all."""

    def __init__(self, variant: str, often: int) -> None:
        self.variant, self.often, self.seconds = variant, often, 0.0
        self.other: TensorBoard | Wandb | None = None

    def __call__(self, trainer: Trainer) -> None:
        started = time.perf_counter()
        if self.variant == "nanogpt":
            attach(trainer)
        elif self.variant == "tensorboard":
            self.other = TensorBoard(trainer)
        elif self.variant == "wandb":
            self.other = Wandb(trainer, self.often or every(trainer.steps))
        self.seconds = time.perf_counter() - started

    def close(self) -> None:
        if self.other:
            self.other.close()


# ---- the others


class TensorBoard:
    """What one would write by hand: add_histogram of the tensors that we observe, at the steps at which we do."""

    def __init__(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        from nanogpt.observers.look import probe_of
        from nanogpt.observers.sites import sites

        self.trainer, self.before = trainer, dict[str, torch.Tensor]()
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

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """`watch` offline: histograms of gradients at every `often` steps, and of weights.

    Its hook for weights waits for the model's `forward`, which a training loop that asks for losses (and a compiled
    one) never calls: so they are logged here by its own function, at the same steps.
    """

    def __init__(self, trainer: Trainer, often: int) -> None:
        import wandb

        self.model, self.step, self.looked, self.fired = trainer.model, 0, False, False
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
        if variant == "nanogpt" and not looks_in(Path("runs/nanogpt/layers")).get(every(length)):
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
    trainer, before = ready(config, variant, often=2)
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
