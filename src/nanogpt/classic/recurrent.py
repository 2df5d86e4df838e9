"""Recurrent mixers: a state of fixed size is carried from token to token, (x_t, state) -> state.

All products with the inputs are one matrix product before the loop; a step of the loop has one with the state.
B batch, T new tokens, D dim, H hidden, G gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.activations import ACTIVATIONS, Tanh
from nanogpt.errors import UserError
from nanogpt.model.linear import Linear
from nanogpt.model.part import Flow, Part, Rule
from nanogpt.parts import at_least, build, number

State: TypeAlias = tuple[Tensor, ...]
"""The vectors that a step hands to the next, each (B, H); the first one is what the mixer puts out."""

TANH = Tanh.gain


class Memory:
    """The state after the last token seen; None before the first."""

    state: State | None = None


class Recurrent(Part):
    """What the recurrent mixers share. A subclass names its matrices over [x_t, h] and says what a step does.

    gates: their names, each with the gain of the activation that follows it. gain: of what feeds the matrix `out`.
    """

    loops = True
    vectors: ClassVar[int] = 1
    """Vectors in the state."""

    def __init__(
        self, *, dim: int, hidden: int | None, start: str, out: str, gates: Mapping[str, float], gain: float = 1.0
    ) -> None:
        super().__init__()
        self.hidden = dim if hidden is None else hidden
        at_least(1, hidden=self.hidden)
        if out == "none" and self.hidden != dim:
            raise UserError(
                f"hidden={self.hidden} is not dim={dim}, and out=none puts the state itself out; "
                f"nearest: hidden={dim}, or out=linear"
            )
        self._gates = list(gates)
        for gate, then in gates.items():  # one matrix over both: its fan-in, which initial weights go by, is D + H
            setattr(self, gate, Linear(dim + self.hidden, self.hidden, bias=True, then=then))
        self.start = nn.Parameter(torch.empty(self.vectors * self.hidden)) if start == "learned" else None
        self.out = Linear(self.hidden, dim, role="residual", gain=gain) if out == "linear" else nn.Identity()

    def rules(self) -> dict[str, Rule]:
        return {"start": nn.init.zeros_}

    def new_state(self, batch: int, capacity: int) -> Memory:
        return Memory()

    def cache_numbers(self) -> int:
        """None for each token: the state is all there is, however long the text."""
        return 0

    def matrices(self, of_state_GH: Tensor) -> State:
        """What every step multiplies the state by, made once."""
        return (of_state_GH.t().contiguous(),)

    def step(self, x_BG: Tensor, state: State, matrices: State) -> State:
        """The next state. x_BG: the input's share of all gates, biases included."""
        raise NotImplementedError

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        gates: list[Linear] = [getattr(self, name) for name in self._gates]
        weight, bias = torch.cat([g.weight for g in gates]), torch.cat([g.bias for g in gates])
        of_input, of_state = weight.split([x_BTD.shape[2], self.hidden], dim=1)
        # Time comes first, so that what a step reads lies together.
        x_TBG = F.linear(x_BTD.transpose(0, 1), of_input, bias).to(weight.dtype)
        return self.out(self._loop(x_TBG, of_state, flow))

    def _loop(self, x_TBG: Tensor, of_state_GH: Tensor, flow: Flow) -> Tensor:
        """From the inputs' share of all gates to h_BTH."""
        memory = flow.state(self)
        fresh = self._fresh(x_TBG)
        state = fresh if memory is None or memory.state is None else memory.state
        kind = x_TBG.device.type
        # A state is a sum over many steps, and bf16 would round it at each: the loop is as precise as the weights.
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            matrices = self.matrices(of_state_GH)
            if flow.mask_BT is None and flow.documents_BT is None:
                states = self._run(x_TBG, state, matrices)
            else:
                states = self._run_masked(x_TBG, state, matrices, fresh, flow)
        if memory is not None:
            memory.state = states[-1]
        return torch.stack([state[0] for state in states], dim=1)

    def _fresh(self, x_TBG: Tensor) -> State:
        """The state before a text."""
        shape = x_TBG.shape[1], self.hidden
        if self.start is None:
            return tuple(x_TBG.new_zeros(shape) for _ in range(self.vectors))
        return tuple(part.expand(shape) for part in self.start.split(self.hidden))

    def _run(self, x_TBG: Tensor, state: State, matrices: State) -> list[State]:
        states = []
        for x_BG in x_TBG.unbind():
            state = self.step(x_BG, state, matrices)
            states.append(state)
        return states

    def _run_masked(self, x_TBG: Tensor, state: State, matrices: State, fresh: State, flow: Flow) -> list[State]:
        """As `_run`; padding leaves the state as it was, and a document's first token finds a fresh one."""
        real_BT = torch.ones_like(flow.tokens_BT, dtype=torch.bool) if flow.mask_BT is None else flow.mask_BT
        real = real_BT.t()[:, :, None].unbind()
        first = None
        if flow.documents_BT is not None:
            first = (real_BT & (flow.positions_BT == 0)).t()[:, :, None].unbind()
        states = []
        for t, x_BG in enumerate(x_TBG.unbind()):
            if first is not None:
                state = tuple(torch.where(first[t], new, old) for new, old in zip(fresh, state, strict=True))
            after = self.step(x_BG, state, matrices)
            if flow.mask_BT is not None:
                after = tuple(torch.where(real[t], new, old) for new, old in zip(after, state, strict=True))
            state = after
            states.append(state)
        return states


class RNN(Recurrent):
    """h_t = act([x_t, h_{t-1}] W + b), W (D + H, H). Elman 1990; makemore's RNN is rnn(out=none).

    act: the activation; Elman's was the sigmoid, tanh is today's. hidden: H, by default D.
    start: h_0 is learned (makemore) or zeros. out: linear puts h V out, V (H, D); none puts h itself out (H = D).
    """

    def __init__(
        self,
        *,
        dim: int,
        act: str = "tanh",
        hidden: int | None = None,
        start: Literal["learned", "zeros"] = "learned",
        out: Literal["linear", "none"] = "linear",
    ) -> None:
        made = build(ACTIVATIONS, act, dim=dim if hidden is None else hidden)
        for name in ("inputs", "outputs"):
            if number(made, name, 1) != 1:
                raise UserError(
                    f"act={made.spec.name} has {number(made, name, 1)} {name} for each number, and a state must keep "
                    "its size; nearest: tanh"
                )
        gain = number(made, "gain", 1.0)
        super().__init__(dim=dim, hidden=hidden, start=start, out=out, gates={"cell": gain}, gain=gain)
        self.act = made

    def step(self, x_BG: Tensor, state: State, matrices: State) -> State:
        return (self.act(torch.addmm(x_BG, state[0], matrices[0])),)


class GRU(Recurrent):
    """h_t = (1 - z) h_{t-1} + z c, gates z, r = sigmoid([x_t, h_{t-1}] W + b), c = tanh([x_t, r h_{t-1}] W_c + b_c).
    Cho et al. 2014 (arXiv:1406.1078); each W is (D + H, H).

    reset: where r stands. "before" the matrix, as above (makemore). "after" it, where one product with h serves all
    three: c = tanh(x_t W_x + b_c + r (h_{t-1} W_h + b_r)). That is torch.nn.GRU, whose z is our 1 - z, and whose
    second biases of z and r only add to the first.
    hidden: H, by default D. start: h_0 is learned (makemore) or zeros. out: linear puts h V out, V (H, D); none puts
    h itself out (H = D).
    """

    def __init__(
        self,
        *,
        dim: int,
        reset: Literal["before", "after"] = "before",
        hidden: int | None = None,
        start: Literal["learned", "zeros"] = "learned",
        out: Literal["linear", "none"] = "linear",
    ) -> None:
        super().__init__(dim=dim, hidden=hidden, start=start, out=out, gates={"z": 1.0, "r": 1.0, "candidate": TANH})
        self.reset = reset
        self.reset_bias = nn.Parameter(torch.empty(self.hidden)) if reset == "after" else None

    def rules(self) -> dict[str, Rule]:
        return super().rules() | {"reset_bias": "bias"}

    def matrices(self, of_state_GH: Tensor) -> State:
        if self.reset_bias is None:
            gates, candidate = of_state_GH.split([2 * self.hidden, self.hidden])
            return gates.t().contiguous(), candidate.t().contiguous()
        return of_state_GH.t().contiguous(), F.pad(self.reset_bias, (2 * self.hidden, 0))

    def step(self, x_BG: Tensor, state: State, matrices: State) -> State:
        (h,), sizes = state, [2 * self.hidden, self.hidden]
        gates, candidate = x_BG.split(sizes, dim=1)
        if self.reset_bias is None:
            z, r = torch.addmm(gates, h, matrices[0]).sigmoid().chunk(2, dim=1)
            c = torch.addmm(candidate, r * h, matrices[1]).tanh()
        else:
            of_gates, of_candidate = torch.addmm(matrices[1], h, matrices[0]).split(sizes, dim=1)
            z, r = (gates + of_gates).sigmoid().chunk(2, dim=1)
            c = torch.addcmul(candidate, r, of_candidate).tanh()
        return (torch.lerp(h, c, z),)


class Gate(Linear):
    """A matrix whose bias starts at a number of its own."""

    def __init__(self, n_in: int, n_out: int, *, start: float) -> None:
        super().__init__(n_in, n_out, bias=True)
        self.start = start

    def rules(self) -> dict[str, Rule]:
        return {"weight": self.role, "bias": lambda values: values.fill_(self.start)}


class LSTM(Recurrent):
    """c_t = f c_{t-1} + i g, h_t = o tanh(c_t), gates i, f, o = sigmoid([x_t, h_{t-1}] W + b), g = tanh(the same).
    Hochreiter & Schmidhuber 1997; the forget gate f is of Gers et al. 2000. Each W is (D + H, H).

    hidden: H, by default D. start: h_0 and c_0 are learned or zeros. out: linear puts h V out, V (H, D); none puts h
    itself out (H = D). forget_bias: b of the forget gate at the start; 1 remembers until it has learned what to forget
    (Gers et al. 2000; Jozefowicz et al. 2015, section 2.2).
    """

    vectors = 2

    def __init__(
        self,
        *,
        dim: int,
        hidden: int | None = None,
        start: Literal["learned", "zeros"] = "learned",
        out: Literal["linear", "none"] = "linear",
        forget_bias: float = 1.0,
    ) -> None:
        gates = {"input": 1.0, "forget": 1.0, "output": 1.0, "candidate": TANH}
        super().__init__(dim=dim, hidden=hidden, start=start, out=out, gates=gates)
        self.forget_bias = forget_bias
        self.forget = Gate(dim + self.hidden, self.hidden, start=forget_bias)

    def step(self, x_BG: Tensor, state: State, matrices: State) -> State:
        h, c = state
        gates, candidate = torch.addmm(x_BG, h, matrices[0]).split([3 * self.hidden, self.hidden], dim=1)
        i, f, o = gates.sigmoid().chunk(3, dim=1)
        c = torch.addcmul(f * c, i, candidate.tanh())
        return o * c.tanh(), c
