"""How a model knows the order of its tokens. Each kind answers four questions, with "not mine" by default,
so that attention never asks which kind it has.

H heads, T new tokens, S all tokens seen, E head_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.model.part import Flow, Part, Rule


class Position(Part):
    """No positions: attention sees a set of earlier tokens (and, being causal, still learns an order from it)."""

    limit: int | None = None
    """Positions that exist; None where there is no end."""

    def embed(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        """Once, at the bottom of the stream."""
        return x_BTD

    def rotate(self, q_BHTE: Tensor, k_BHTE: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        """Queries and keys, before keys are remembered."""
        return q_BHTE, k_BHTE

    def bias(self, flow: Flow) -> Tensor | None:
        """(1 or B, H, T, S), added to the attention logits."""
        return None

    def scale(self, flow: Flow) -> float:
        """A factor on the attention logits besides 1/sqrt(head_dim)."""
        return 1.0


class Learned(Position):
    """A vector for each place, added to the token's. Vaswani et al. 2017, section 3.5; GPT-2."""

    def __init__(self, *, dim: int, context: int) -> None:
        super().__init__()
        self.limit = context
        self.weight = nn.Parameter(torch.empty(context, dim))

    def rules(self) -> dict[str, Rule]:
        return {"weight": "position"}

    def embed(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return x_BTD + F.embedding(flow.positions_BT, self.weight)

    def flops(self, tokens: int, context: int) -> float:
        return 0.0


class Rotary(Position):
    """Turns the pair (i, i + E/2) of each query and key by position / base^(2i/E), so that their product
    depends on the distance only. Su et al. 2021, in the half-split pairing of GPT-NeoX and Llama."""

    def __init__(self, *, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise UserError(
                f"head_dim={head_dim} is odd, and rotary positions turn pairs; nearest: head_dim={head_dim + 1}"
            )
        if base <= 1:
            raise UserError(f"base={base} must be more than 1; nearest: 10000")
        self.base = base

    def rotate(self, q_BHTE: Tensor, k_BHTE: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        cos, sin = flow.once(("rotary", self.base, q_BHTE.shape[-1]), lambda: self._angles(flow, q_BHTE))
        return _turn(q_BHTE, cos, sin), _turn(k_BHTE, cos, sin)

    def _angles(self, flow: Flow, q_BHTE: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of each angle, both (B or 1, 1, T, E/2); angles in fp32, where bf16 would lose the low digits."""
        half = q_BHTE.shape[-1] // 2
        steps = torch.arange(half, device=q_BHTE.device, dtype=torch.float32)
        speed = self.base ** (-steps / half)
        angle = flow.positions_BT[:, None, :, None].float() * speed
        return angle.cos().to(q_BHTE.dtype), angle.sin().to(q_BHTE.dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


POSITIONS = {
    "none": Position,
    "learned": Learned,
    "rotary": Rotary,
}
