"""Feed-forward parts work on each position alone: (x_BTD, flow) -> x_BTD. F is the hidden width."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor

from nanogpt.model.activations import ACTIVATIONS
from nanogpt.model.linear import Linear
from nanogpt.model.part import Flow, Nothing, Part
from nanogpt.parts import at_least, build, number


class MLP(Part):
    """act(x W_in) W_out, W_in (D, F), W_out (F, D). Vaswani et al. 2017, section 3.3.

    act: the activation. hidden: F, by default 4 D. bias: "zeros" learns one for each matrix.
    """

    def __init__(
        self, *, dim: int, act: str = "gelu", hidden: int | None = None, bias: Literal["none", "zeros"] = "none"
    ) -> None:
        super().__init__()
        self.hidden = 4 * dim if hidden is None else hidden
        at_least(1, hidden=self.hidden)
        self.up = Linear(dim, self.hidden, bias=bias == "zeros")
        self.act = build(ACTIVATIONS, act, dim=self.hidden)
        self.out = Linear(self.hidden, dim, bias=bias == "zeros", role="residual", gain=number(self.act, "gain", 1.0))

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return self.out(self.act(self.up(x_BTD)))


class GLU(Part):
    """(act(x W_gate) * x W_up) W_out. Dauphin et al. 2017 (sigmoid); Shazeer 2020 (the variants).

    act: of the gate. hidden: F, by default 2/3 of 4 D, so that three matrices cost what an MLP's two do,
    rounded up to a multiple of `multiple_of`. bias: "zeros" learns one for each matrix.
    """

    def __init__(
        self,
        *,
        dim: int,
        act: str = "sigmoid",
        hidden: int | None = None,
        multiple_of: int = 8,
        bias: Literal["none", "zeros"] = "none",
    ) -> None:
        super().__init__()
        at_least(1, multiple_of=multiple_of)
        self.multiple_of = multiple_of
        self.hidden = -(-(8 * dim // 3) // multiple_of) * multiple_of if hidden is None else hidden
        at_least(1, hidden=self.hidden)
        self.gate = Linear(dim, self.hidden, bias=bias == "zeros")
        self.up = Linear(dim, self.hidden, bias=bias == "zeros")
        self.act = build(ACTIVATIONS, act, dim=self.hidden)
        self.out = Linear(self.hidden, dim, bias=bias == "zeros", role="residual", gain=number(self.act, "gain", 1.0))

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return self.out(self.act(self.gate(x_BTD)) * self.up(x_BTD))


FFNS: dict[str, Callable[..., Any]] = {
    "none": Nothing,
    "mlp": MLP,
    "glu": GLU,
    "bilinear": partial(GLU, act="identity"),
    "reglu": partial(GLU, act="relu"),
    "geglu": partial(GLU, act="gelu"),
    "swiglu": partial(GLU, act="silu"),
}
