"""Loss on a whole split, in fixed windows: the same number every time, never a random estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.data.batches import windows
from nanogpt.data.shards import Tokens
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.objectives import IGNORED
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


class Mixture:
    """p = (1 - share) p_one + share p_other: two models of one vocabulary as one. Jelinek & Mercer 1980; Bengio et al.
    2003 mix their network with a trigram at 0.5."""

    def __init__(self, one: LanguageModel, other: LanguageModel, share: float) -> None:
        self.models = (one, other)
        self.logs = (math.log1p(-share), math.log(share))
        self.context, self.vocab_size, self.training = one.context, one.vocab_size, one.training

    def train(self, mode: bool = True) -> None:
        for model in self.models:
            model.train(mode)

    def eval(self) -> None:
        self.train(False)

    def losses(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        mask_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        count: float = 1.0,
    ) -> dict[str, Tensor]:
        """The next token's, as of one model; auxiliary terms mean nothing here."""
        targets, logs = targets_BT.flatten(), []
        for model, log in zip(self.models, self.logs, strict=True):
            logits = model(tokens_BT, mask_BT, documents_BT).flatten(0, 1).float()
            logs.append(log - F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none"))
        mixed = torch.logaddexp(*logs)
        return {"nll": -mixed[targets != IGNORED].sum() / count}


def to_device(array: Any, device: str) -> Tensor | None:
    """A batch's array on the device; what a batch does not have stays None."""
    return None if array is None else torch.from_numpy(array).to(device)


@torch.no_grad()
def evaluate(model: Any, tokens: Tokens, *, batching: str, machine: Machine, world: World | None = None,
             context: int | None = None) -> Evaluation:  # fmt: skip
    """Score every token of a split, in the precision of training, in windows of `context` (by default the model's).

    Not compiled, also where training is: `nanogpt eval` then gives the very number that training saw. The batch
    depends on the model alone, so a run's `train.batch` does not change the last digits.
    """
    world = world or World()
    context = context or model.context
    rows = max(1, min(ROWS, LOGITS // (context * model.vocab_size)))
    total = torch.zeros(2, dtype=torch.float64)
    was_training = model.training
    model.eval()
    try:
        for number, batch in enumerate(windows(tokens, rows, context, batching)):
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
