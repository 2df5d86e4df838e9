"""How long a step takes on this machine: a few are taken, on random tokens."""

from __future__ import annotations

import time
from statistics import median

import torch

from nanogpt.config import RunConfig
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.model.objectives import IGNORED
from nanogpt.optim.optimizers import make_optimizers
from nanogpt.training import machine

STEPS, ENOUGH = 8, 1.0
"""Steps at most, and seconds after which no other is begun."""


def pace(config: RunConfig, vocab_size: int, threads: int) -> float:
    """Seconds of one training step with so many threads; 0 for a model that is fitted in closed form."""
    taken = steps(config, vocab_size, threads, STEPS, ENOUGH)
    return median(taken[1:] or taken) if taken else 0.0  # the first warms up


def steps(config: RunConfig, vocab_size: int, threads: int, most: int, seconds: float) -> list[float]:
    """Seconds of each step, one after the other, until there are so many or so much time has passed."""
    before = torch.get_num_threads()
    size = config.model.vocab_size or vocab_size
    model = LanguageModel(resolve_model(config.model.model_copy(update={"vocab_size": size})))
    if not list(model.parameters()):
        return []
    how = machine.choose(config.train.model_copy(update={"threads": threads}), dim=model.dim, flops=0.0)
    try:
        torch.set_num_threads(threads)
        return _taken(config, model.to(how.device), how, most, seconds)
    finally:
        torch.set_num_threads(before)


def _taken(config: RunConfig, model: LanguageModel, how: machine.Machine, most: int, seconds: float) -> list[float]:
    model.initialise(1)
    optimizers = make_optimizers(config.optim.optimizer, model, precision=how.precision)
    rows = config.train.batch // config.train.accumulate
    tokens = torch.randint(0, model.vocab_size, (rows, config.model.context), device=how.device)
    targets = tokens.roll(-1, 1)
    targets[:, -1] = IGNORED
    taken: list[float] = []
    while len(taken) < most and sum(taken) < seconds:
        started = time.perf_counter()
        for _ in range(config.train.accumulate):
            with how.autocast():
                loss = model.losses(tokens, targets, count=float(targets.numel()))["loss"]
            loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        how.wait()
        taken.append(time.perf_counter() - started)
    return taken
