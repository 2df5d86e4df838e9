"""Objectives: from hidden states and targets to named loss terms, in nats."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.part import Flow, Part

IGNORED = -1
"""A target that is not scored: padding."""


class NextToken(Part):
    """-log p(next token), summed over scored tokens."""

    def forward(self, model: Any, hidden_BTD: Tensor, targets_BT: Tensor, flow: Flow) -> dict[str, Tensor]:
        """Terms by name, each summed over scored tokens and carrying its weight; `nll` is the next token's."""
        logits = model.logits(hidden_BTD).flatten(0, 1)
        nll = F.cross_entropy(logits.float(), targets_BT.flatten(), ignore_index=IGNORED, reduction="sum")
        return {"nll": nll}


OBJECTIVES = {"next_token": NextToken}
