"""Objectives: from hidden states and targets to named loss terms, in nats."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.part import Flow, Part
from nanogpt.parts import at_least, between

IGNORED = -1
"""A target that is not scored: padding."""


class NextToken(Part):
    """nll = -log p(next token), summed over scored tokens; by choice more terms, which are added to it in training.

    Z = sum_v exp(logit_v), so that -log p_v = log Z - logit_v.
    label_smoothing: e > 0 moves the share e of the target to all V tokens alike, so that what is minimised is
        (1 - e) nll + e mean_v(-log p_v), torch's; the term `smoothing` is what that adds, e (mean_v(-log p_v) - nll),
        and may be negative. `nll` itself stays the loss of the text, which compares. Szegedy et al. 2016, section 7;
        Vaswani et al. 2017 take 0.1.
    z_loss: c > 0 adds c log^2 Z, which keeps logits from drifting: PaLM takes 1e-4 (Chowdhery et al. 2022, section 5).
    """

    def __init__(self, *, label_smoothing: float = 0.0, z_loss: float = 0.0) -> None:
        super().__init__()
        between(0, 1, label_smoothing=label_smoothing)
        at_least(0, z_loss=z_loss)
        self.label_smoothing, self.z_loss = label_smoothing, z_loss

    def forward(self, model: Any, hidden_BTD: Tensor, targets_BT: Tensor, flow: Flow) -> dict[str, Tensor]:
        """Terms by name, each summed over scored tokens and carrying its weight; `nll` is the next token's."""
        logits_NV = model.logits(hidden_BTD).flatten(0, 1)
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        targets_N = targets_BT.flatten()
        nll = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")
        terms = {"nll": nll}
        if self.label_smoothing or self.z_loss:
            scored_N = targets_N != IGNORED
            log_z_N = logits_NV.logsumexp(1)
        if self.label_smoothing:
            spread = ((log_z_N - logits_NV.mean(1)) * scored_N).sum()
            terms["smoothing"] = self.label_smoothing * (spread - nll)
        if self.z_loss:
            terms["z_loss"] = self.z_loss * (log_z_N.square() * scored_N).sum()
        return terms


OBJECTIVES = {"next_token": NextToken}
