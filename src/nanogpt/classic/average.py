"""The average of what came before: the simplest mixer of all, without parameters. B batch, T new tokens, D dim."""

from __future__ import annotations

import torch
from torch import Tensor

from nanogpt.model.part import Flow, Part


class Total:
    """The sum of all tokens seen, (B, 1, D); None before the first."""

    sum_B1D: Tensor | None = None


class Average(Part):
    """y_t = (x_1 + ... + x_t) / t: attention whose weights are all equal. makemore's CausalBoW ("bag of words",
    Karpathy 2022).

    It is what "Let's build GPT" starts from: a loop, then a triangular matrix of 1/t, then softmax(0) of it. Here the
    sum is carried along, at the same cost however long the text.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def new_state(self, batch: int, capacity: int) -> Total:
        return Total()

    def cache_numbers(self) -> int:
        """None for each token: the sum is all there is."""
        return 0

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        precise = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32))  # bf16 loses what is added to a large sum
        if flow.documents_BT is None:
            if flow.mask_BT is not None:
                precise = precise.masked_fill(~flow.mask_BT[:, :, None], 0.0)
            total = precise.cumsum(1)
            memory = flow.state(self)
            if memory is not None:
                total = total if memory.sum_B1D is None else total + memory.sum_B1D
                memory.sum_B1D = total[:, -1:]
        else:  # not a difference of two sums, which would hold the rounding errors of the documents before
            visible = flow.visible()
            assert visible is not None
            total = visible[:, 0].to(precise.dtype) @ precise
        return (total / (flow.positions_BT[:, :, None] + 1)).to(x_BTD.dtype)

    def flops(self, tokens: int, context: int) -> float:
        """An addition and a division for each number."""
        return 2.0 * tokens * self.dim
