"""What a run is going to be, said before its first step: parameters, operations, memory, time, and where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from nanogpt.config import RunConfig
from nanogpt.cost import Cost
from nanogpt.training.machine import Machine
from nanogpt.training.progress import duration


@dataclass(frozen=True)
class Memory:
    """Bytes while training; activations are an estimate."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


ADAM_STATE, MOMENTUM_STATE = 8, 4
"""Bytes that an optimizer keeps for each weight: two fp32 numbers, or one."""
WIDTHS_KEPT = 16
"""Activations that a block keeps for the backward pass, in units of dim: norms, q, k, v, the hidden layer twice, ..."""


def memory(config: RunConfig, model: nn.Module, optimizers: Sequence[Optimizer]) -> Memory:
    weights = sum(p.numel() for p in model.parameters())
    kept = 0
    for optimizer in optimizers:
        each = ADAM_STATE if "betas" in optimizer.defaults else MOMENTUM_STATE
        kept += each * sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    kept += 4 * weights if config.optim.ema else 0
    shape = config.model
    width = shape.vocab_size if shape.dim == "vocab" else shape.dim
    tokens = config.train.batch // config.train.accumulate * shape.context
    logits = 3 * 4 * shape.vocab_size  # as they are, as fp32, and their gradient
    activations = tokens * (4 * WIDTHS_KEPT * width * shape.n_layers + logits)
    return Memory(4 * weights, 4 * weights, kept, activations)


def seconds(config: RunConfig, cost: Cost, machine: Machine, done: int = 0) -> float:
    """Estimated time of the steps that are left, from operations and the machine's assumed rate."""
    tokens = (config.train.steps - done) * config.train.batch * config.model.context
    return cost.training_flops * tokens / machine.rate


def card(config: RunConfig, cost: Cost, memory: Memory, machine: Machine, done: int = 0) -> list[str]:
    threads = f"{machine.threads} thread{'s' * (machine.threads != 1)}"
    where = f"{machine.device}, {threads}" if machine.kind == "cpu" else machine.device
    if not cost.total:
        return ["model      no weights to train: it is fitted to the text at once", f"machine    {where}"]
    parts = ", ".join(f"{name} {count:,}" for name, count in cost.parameters.items())
    tokens = config.train.batch * config.model.context
    left = duration(seconds(config, cost, machine, done))
    micro = f" in {config.train.accumulate} micro-batches" if config.train.accumulate > 1 else ""
    choices = [(where, "device"), (machine.precision, "precision"), (f"compile {machine.compile}", "compile")]
    reasons = [f"{text} ({machine.reasons[key]})" if key in machine.reasons else text for text, key in choices]
    return [
        f"model      {cost.total:,} parameters: {parts}",
        f"operations {human(cost.training_flops)}FLOP a token, forward and backward",
        f"memory     about {human(memory.total)}B: weights {human(memory.weights)}B, "
        f"gradients {human(memory.gradients)}B, optimizer {human(memory.optimizer)}B, "
        f"activations {human(memory.activations)}B",
        f"batch      {config.train.batch} rows of {config.model.context} = {tokens:,} tokens{micro}",
        f"time       about {left} for {config.train.steps - done:,} steps, from an assumed {human(machine.rate)}FLOP/s",
        f"machine    {'; '.join(reasons)}",
    ]


def human(number: float) -> str:
    """`12.3 M`"""
    for unit in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 1000 or unit == "P":
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError("the loop ends at P")
