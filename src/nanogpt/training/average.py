"""The running mean of the weights over training steps, which often generalises better than the last ones.

    a_t = d_t a_{t-1} + (1 - d_t) w_t,  d_t = min(decay, (1 + t) / (10 + t)),  a_1 = w_1

Polyak & Juditsky 1992 (the plain mean); Tarvainen & Valpola 2017 and most image models since (this one). The customary
warm-up of the decay keeps the first, worst weights from staying in the mean for 1 / (1 - decay) steps.

Evaluations, samples and checkpoints' weights are the mean; what is trained stays beside it. What is not a parameter
(the running statistics of batch norm) is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

RAW = "raw"
"""`name/raw` in a checkpoint's training state: the weights that are trained, where those beside it are their mean."""


class Average:
    """decay 0: no mean is kept, and the mean of a model is the model."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights: dict[str, Tensor] = {}
        """Empty before the first step."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step 1, 2, ..."""
        if not self.decay:
            return
        now = dict(self.model.named_parameters())
        if not self.weights:
            self.weights = {name: p.detach().clone() for name, p in now.items()}
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([self.weights[name] for name in now], list(now.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the mean as its weights; they are given back in the end, bit for bit."""
        raw = {name: p.detach().clone() for name, p in self.model.named_parameters()} if self.weights else {}
        self._fill(self.weights)
        try:
            yield
        finally:
            self._fill(raw)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """A model that was filled from a checkpoint's weights has the mean; its training state has what is trained."""
        raw = {full.removesuffix(f"/{RAW}"): t for full, t in state.items() if full.endswith(f"/{RAW}")}
        if raw:
            self.weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            self._fill(raw)

    @torch.no_grad()
    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        if weights:
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weights[name])
