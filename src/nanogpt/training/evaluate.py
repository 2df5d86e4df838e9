"""Loss on a whole split, in fixed windows: the same number every time, never a random estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanogpt.data.batches import windows
from nanogpt.data.shards import Tokens
from nanogpt.training.machine import Machine
from nanogpt.training.world import World

LOGITS = 2**25
"""Logits in one batch at most (128 MB in fp32): a large vocabulary makes batches smaller, not memory larger."""
ROWS = 64


@dataclass(frozen=True)
class Evaluation:
    loss: float
    """Nats per token."""
    bpb: float
    """Bits per byte of the text: compares across tokenizers."""
    tokens: int
    """Tokens scored."""


def to_device(array: Any, device: str) -> Tensor | None:
    """A batch's array on the device; what a batch does not have stays None."""
    return None if array is None else torch.from_numpy(array).to(device)


@torch.no_grad()
def evaluate(model: Any, tokens: Tokens, *, batching: str, machine: Machine, world: World | None = None) -> Evaluation:
    """Score every token of a split, in the precision of training.

    Not compiled, also where training is: `nanogpt eval` then gives the very number that training saw. The batch
    depends on the model alone, so a run's `train.batch` does not change the last digits.
    """
    world = world or World()
    rows = max(1, min(ROWS, LOGITS // (model.context * model.vocab_size)))
    total = torch.zeros(2, dtype=torch.float64)
    was_training = model.training
    model.eval()
    try:
        for number, batch in enumerate(windows(tokens, rows, model.context, batching)):
            if number % world.size != world.rank:
                continue
            with machine.autocast():
                inputs = [
                    to_device(array, machine.device) for array in (batch.tokens_BT, batch.targets_BT, batch.mask_BT)
                ]
                terms = model.losses(*inputs, to_device(batch.documents_BT, machine.device), count=1.0)
            total += torch.tensor([float(terms["nll"]), float((batch.targets_BT >= 0).sum())], dtype=torch.float64)
    finally:
        model.train(was_training)
    nats, scored = world.sum(total).tolist()
    return Evaluation(nats / max(1.0, scored), nats / math.log(2) / max(1, tokens.n_bytes), int(scored))
