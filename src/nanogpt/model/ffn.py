"""Feed-forward parts work on each position alone: (x_BTD, flow) -> x_BTD. F is the hidden width."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from nanogpt.activations import ACTIVATIONS
from nanogpt.activations.base import keeping, mean, widths
from nanogpt.classic.networks import Dense
from nanogpt.errors import UserError
from nanogpt.kernels.dropout import dropout
from nanogpt.model.linear import Linear
from nanogpt.model.part import Flow, Nothing, Part
from nanogpt.parts import at_least, between, build, number


class MLP(Part):
    """act(x W_in) W_out, W_in (D, F), W_out (F, D). Vaswani et al. 2017, section 3.3.

    act: the activation. One that takes i numbers a unit makes W_in (D, i F), one that gives o makes W_out (o F, D).
    hidden: F, by default 4 D, or 8 D / (i + o): as many parameters whatever the activation.
    bias: "zeros" learns one for each matrix. dropout: share of the hidden numbers set to zero while training, as in T5.
    """

    def __init__(
        self,
        *,
        dim: int,
        act: str = "gelu",
        hidden: int | None = None,
        bias: Literal["none", "zeros"] = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        between(0, 1, dropout=dropout)
        self.dropout = dropout
        self.hidden = 4 * dim if hidden is None else hidden
        at_least(1, hidden=self.hidden)
        self.act = build(ACTIVATIONS, act, dim=self.hidden)
        inputs, outputs = widths(self.act)
        if hidden is None and inputs + outputs > 2:
            self.hidden = round(8 * dim / (inputs + outputs))
            self.act = build(ACTIVATIONS, act, dim=self.hidden)
        gain = number(self.act, "gain", 1.0)
        self.up = Linear(dim, self.hidden * inputs, bias=bias == "zeros", then=gain)
        self.out = Linear(self.hidden * outputs, dim, bias=bias == "zeros", role="residual", gain=gain)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return self.out(dropout(self.act(self.up(x_BTD)), self.dropout, self.training))


class Gated(Part):
    """join(x W_gate, x W_up) W_out, W_gate and W_up (D, F), W_out (F, D): what gated units have in common.

    A subclass has `join`, and sets the gains of the matrices around it.
    """

    together = ("gate", "up")

    def __init__(
        self, *, dim: int, hidden: int | None, multiple_of: int, bias: Literal["none", "zeros"], dropout: float
    ) -> None:
        super().__init__()
        at_least(1, multiple_of=multiple_of)
        between(0, 1, dropout=dropout)
        self.multiple_of, self.dropout = multiple_of, dropout
        self.hidden = -(-(8 * dim // 3) // multiple_of) * multiple_of if hidden is None else hidden
        at_least(1, hidden=self.hidden)
        self.gate = Linear(dim, self.hidden, bias=bias == "zeros")
        self.up = Linear(dim, self.hidden, bias=bias == "zeros")
        self.out = Linear(self.hidden, dim, bias=bias == "zeros", role="residual")

    def join(self, gate: Tensor, up: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        hidden = self.join(self.gate(x_BTD), self.up(x_BTD))
        return self.out(dropout(hidden, self.dropout, self.training))


class GLU(Gated):
    """(act(x W_gate) * x W_up) W_out. Dauphin et al. 2017 (sigmoid); Shazeer 2020 (the variants).

    act: of the gate. hidden: F, by default 2/3 of 4 D, so that three matrices cost what an MLP's two do,
    rounded up to a multiple. multiple_of: of what, 8 for speed, 256 in LLaMA. bias: "zeros" learns one for each matrix.
    dropout: share of the hidden numbers set to zero while training.
    """

    def __init__(
        self,
        *,
        dim: int,
        act: str = "sigmoid",
        hidden: int | None = None,
        multiple_of: int = 8,
        bias: Literal["none", "zeros"] = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim=dim, hidden=hidden, multiple_of=multiple_of, bias=bias, dropout=dropout)
        self.act = build(ACTIVATIONS, act, dim=self.hidden)
        if widths(self.act) != (1, 1):
            inputs, outputs = widths(self.act)
            raise UserError(
                f"act={self.act.spec.name} takes {inputs} and gives {outputs} numbers for each unit, and a gate needs "
                f"one for each that it gates; nearest: mlp(act={self.act.spec.name})"
            )
        self.gate.then = self.out.gain = number(self.act, "gain", 1.0)

    def join(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.act(gate) * up


class ClampedSwiGLU(Gated):
    """(g sigmoid(alpha g) * (u + 1)) W_out, g = min(x W_gate, limit), u = clamp(x W_up, -limit, limit). OpenAI 2025
    (gpt-oss).

    No hidden number is far out, so that a few bits hold them; the 1 lets the gate through where u is 0.
    limit: of g from above and of u on both sides. alpha: 1 is SiLU, 1.702 nearly GELU. hidden, multiple_of, bias,
    dropout: as in glu.
    """

    def __init__(
        self,
        *,
        dim: int,
        limit: float = 7.0,
        alpha: float = 1.702,
        hidden: int | None = None,
        multiple_of: int = 8,
        bias: Literal["none", "zeros"] = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim=dim, hidden=hidden, multiple_of=multiple_of, bias=bias, dropout=dropout)
        if not limit > 0:
            raise UserError(f"limit={limit} must be above 0; nearest: 1e-3")
        self.limit, self.alpha = limit, alpha
        power = mean(lambda z: (z * (1 + math.tanh(alpha * z / 2)) / 2) ** 2)
        self.gate.then, self.out.gain = keeping(power), keeping(2 * power)  # E[(u + 1)^2] = 2

    def join(self, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return gate * torch.sigmoid(self.alpha * gate) * (up + 1)


FFNS: dict[str, Callable[..., Any]] = {
    "none": Nothing,
    "mlp": MLP,
    "dense": Dense,
    "glu": GLU,
    "bilinear": partial(GLU, act="identity"),
    "reglu": partial(GLU, act="relu"),
    "geglu": partial(GLU, act="gelu"),
    "swiglu": partial(GLU, act="silu"),
    "clamped_swiglu": ClampedSwiGLU,
}
