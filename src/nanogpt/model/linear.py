"""A matrix, with what an initialisation needs to know about it."""

from __future__ import annotations

from torch import nn

from nanogpt.errors import UserError

LARGEST = 2**52
"""Numbers in one matrix: far beyond any memory, and still countable by PyTorch."""


class Linear(nn.Linear):
    """y = x W^T (+ b), (..., n_in) -> (..., n_out).

    role: "hidden" reads the stream, "residual" writes to it, "head" makes logits (see init/roles.py).
    gain: of the activation that *feeds* this matrix, so that its output keeps the variance
        (He et al. 2015, eq. 10, is the gain sqrt(2) after a ReLU).
    then: gain of the activation that *follows* it, by which `torch.nn.init` and makemore scale.
    """

    def __init__(
        self, n_in: int, n_out: int, *, bias: bool = False, role: str = "hidden", gain: float = 1.0, then: float = 1.0
    ) -> None:
        if n_in * n_out > LARGEST:
            raise UserError(f"a matrix of {n_in} x {n_out} numbers fits no machine; make its sizes smaller")
        super().__init__(n_in, n_out, bias=bias)
        self.role, self.gain, self.then = role, gain, then

    def reset_parameters(self) -> None:
        """Nothing: initial weights come from one rule for the whole model, in init/base.py."""
