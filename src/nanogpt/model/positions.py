"""How a model knows the order of its tokens. Each kind answers four questions, with "not mine" by default,
so that attention never asks which kind it has.

`learned` ends where its table ends; all other kinds have a formula for every place, so their `limit` is None. That a
place has a formula does not mean that the model has learned to use it: docs/extrapolation.md measures this.

B batch, H heads, T new tokens, S all tokens seen, D dim, E head_dim; i and j are the places of a query and of a key.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.model.part import Flow, Part, Rule
from nanogpt.model.scalings import SCALINGS, Scaling
from nanogpt.parts import at_least, build, must_be


class Position(Part):
    """No positions: attention sees a set of earlier tokens (and, being causal, still learns an order from it)."""

    limit: int | None = None
    """Positions that exist; None where there is no end."""
    changes: int | None = None
    """Tokens of a memory beyond which keys are turned otherwise; None where they never are."""

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


# -- added to the token's vector ----------------------------------------------------------------------------------


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


class Sinusoidal(Position):
    """Fixed waves, added to the token's vector: number 2n of place i is sin(i / base^(2n/D)), number 2n+1 its cos.
    Vaswani et al. 2017, section 3.5.

    Their embeddings are multiplied by sqrt(D), or waves of size 1 would drown vectors drawn small: an embedding's
    `scale`, or an init with `embedding` near 1, does that here. base: wavelengths go from 2 pi to 2 pi base.
    """

    def __init__(self, *, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.base = _more_than_one(base)

    def embed(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        D = x_BTD.shape[-1]
        angle = _angles(flow, [self.base ** (-2 * n / D) for n in range((D + 1) // 2)], x_BTD.dtype)
        waves = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)[..., :D]  # an odd D ends with a sine
        return x_BTD + waves.to(x_BTD.dtype)


# -- turning queries and keys -------------------------------------------------------------------------------------


class Rotary(Position):
    """Turns pairs of numbers of each query and key by an angle that grows with the place, so that their product depends
    on the distance only. Su et al. 2021, arXiv 2104.09864.

    Pair n of d/2 is turned by angle i base^(-2n/d): (a, b) -> (a cos - b sin, a sin + b cos). Angles are in fp32 at
    least, also where attention is in bf16, which would lose their low digits.

    base: wavelengths go from 2 pi to about 2 pi base tokens; more for longer texts (Llama 3: 500000).
    share: d / E, the share of a head that is turned, its first d numbers; the others stay as they are (Pythia: 0.25).
    pairing: half, (n, n + d/2), as GPT-NeoX and Llama in `transformers`; interleaved, (2n, 2n+1), as the paper, GPT-J,
    llama2.c and Cohere. One is the other with the rows of the query and key matrices in another order.
    scaling: how angles are slowed for texts longer than those of training.
    """

    def __init__(
        self,
        *,
        head_dim: int,
        context: int,
        base: float = 10000.0,
        share: float = 1.0,
        pairing: Literal["half", "interleaved"] = "half",
        scaling: str = "none",
    ) -> None:
        super().__init__()
        self.base, self.share, self.pairing = _more_than_one(base), share, pairing
        if not 0 < share <= 1:
            raise UserError(f"share={share} must be above 0 and at most 1; nearest: 1")
        self.scaling = must_be(Scaling, build(SCALINGS, scaling, context=context))
        self.changes = self.scaling.changes
        self._key = ("rotary", self.base, str(self.scaling.spec))
        if head_dim:  # 0: no layer that has it has heads
            self.scaling.speeds(self.base, self._width(head_dim), context)

    def _width(self, head_dim: int) -> int:
        """How many numbers of a head are turned."""
        width = round(self.share * head_dim)
        if self.share == 1 and head_dim % 2:
            raise UserError(
                f"head_dim={head_dim} is odd, and rotary positions turn pairs; nearest: head_dim={head_dim + 1}"
            )
        if width % 2 or not width or abs(width - self.share * head_dim) > 1e-3:
            even = max(2, 2 * round(self.share * head_dim / 2))
            raise UserError(
                f"share={self.share} of head_dim={head_dim} is {self.share * head_dim:g} numbers, and rotary positions "
                + (f"turn pairs; nearest: share={even / head_dim}" if even <= head_dim else "turn pairs")
            )
        return width

    def rotate(self, q_BHTE: Tensor, k_BHTE: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        width = self._width(q_BHTE.shape[-1])  # of the tensor: a mixer may turn only a slice of its heads
        cos, sin = flow.once((*self._key, width), lambda: self._cos_sin(flow, q_BHTE, width))
        return self._turn(q_BHTE, cos, sin), self._turn(k_BHTE, cos, sin)

    def _cos_sin(self, flow: Flow, q_BHTE: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """What a number and its partner are multiplied by: cos and -sin for a, cos and sin for b, (B or 1, 1, T, d)."""
        tokens = flow.columns[1] if flow.cache is None else flow.cache.capacity
        speeds = self.scaling.speeds(self.base, width, tokens)
        angle = _angles(flow, speeds, q_BHTE.dtype)[:, None]
        factor = self.scaling.attention
        cos, sin = (angle.cos() * factor).to(q_BHTE.dtype), (angle.sin() * factor).to(q_BHTE.dtype)
        if self.pairing == "half":
            return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return torch.stack((cos, cos), -1).flatten(-2), torch.stack((-sin, sin), -1).flatten(-2)

    def _turn(self, x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        width = cos.shape[-1]
        x = x_BHTE[..., :width]
        if self.pairing == "half":
            partner = torch.cat(x.chunk(2, dim=-1)[::-1], -1)
        else:
            partner = torch.stack((x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        turned = torch.addcmul(x * cos, partner, sin)  # few passes over memory: half the time of four products
        return turned if width == x_BHTE.shape[-1] else torch.cat((turned, x_BHTE[..., width:]), -1)


# -- added to the attention logits --------------------------------------------------------------------------------


class Alibi(Position):
    """A penalty on distance: the logit of query i and key j gets -slope_h (i - j), with a fixed slope for each head.
    Press et al. 2022, arXiv 2108.12409.

    slope_h = 2^(-8 h / H), h = 1 .. H, where H is a power of two; else those of the next smaller power P, and then
    every second slope of 2 P, as in the authors' code.
    """

    def __init__(self, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        power = 2 ** math.floor(math.log2(max(1, heads)))
        between = [2 ** (-4 * h / power) for h in range(1, 2 * power + 1, 2)]
        self.slopes = ([2 ** (-8 * h / power) for h in range(1, power + 1)] + between)[:heads]

    def bias(self, flow: Flow) -> Tensor:
        return flow.once(("alibi", self.heads), lambda: self._bias(flow))

    def _bias(self, flow: Flow) -> Tensor:
        distance_BTS = _distances(flow)
        slope_H11 = torch.tensor(self.slopes, device=distance_BTS.device)[:, None, None]
        return -slope_H11 * distance_BTS[:, None]


class T5(Position):
    """A learned number for each head and bucket of distances, added to the attention logits; all layers that name it
    share it. Raffel et al. 2020, arXiv 1910.10683, section 2.1.

    Half of the buckets are for the distances 0, 1, 2, ...; the others grow with the logarithm, and the last one takes
    all from `distance` on. T5 does not divide its logits by sqrt(E): attention's `scale` is 1 there.

    buckets: numbers for each head. distance: from where on all is one bucket.
    """

    def __init__(self, *, heads: int, buckets: int = 32, distance: int = 128) -> None:
        super().__init__()
        at_least(2, buckets=buckets)
        at_least(buckets // 2 + 1, distance=distance)
        self.heads, self.buckets, self.distance = heads, buckets, distance
        # without heads nobody asks for the bias, and a parameter would get no gradient
        self.weight = nn.Parameter(torch.empty(buckets, heads)) if heads else None

    def rules(self) -> dict[str, Rule]:
        return {"weight": "position"}

    def bias(self, flow: Flow) -> Tensor:
        assert self.weight is not None
        # The buckets are worked out once a pass, the rows taken anew: what has a gradient stays within its layer.
        buckets_BTS = flow.once(("t5", self.buckets, self.distance), lambda: self._bucket(_distances(flow)))
        return F.embedding(buckets_BTS, self.weight).permute(0, 3, 1, 2)

    def _bucket(self, distance: Tensor) -> Tensor:
        exact = self.buckets // 2
        distance = distance.clamp(min=0)  # later tokens are masked anyway
        grown = (distance.clamp(min=exact) / exact).log() / math.log(self.distance / exact) * (self.buckets - exact)
        return torch.where(distance < exact, distance, (exact + grown.long()).clamp(max=self.buckets - 1))

    def flops(self, tokens: int, context: int) -> float:
        return 0.0


def _distances(flow: Flow) -> Tensor:
    """i - j for each new token and each one seen, (1 or B, T, S): places in the own text, as `flow` counts them."""
    keys_BS = flow.positions_BT
    if flow.cache is not None:
        S = flow.columns[1]
        keys_BS = torch.arange(S, device=keys_BS.device)[None]
        if flow.cache.mask_BS is not None:  # padding is not counted
            keys_BS = (flow.cache.mask_BS[:, :S].cumsum(1) - 1).clamp(min=0)
    return flow.positions_BT[:, :, None] - keys_BS[:, None, :]


def _angles(flow: Flow, speeds: list[float], dtype: torch.dtype) -> Tensor:
    """Place times speed, (1 or B, T, speeds), in fp32 where `dtype` is less exact."""
    exact = torch.promote_types(dtype, torch.float32)
    positions = flow.positions_BT[..., None].to(exact)
    return positions * torch.tensor(speeds, dtype=exact, device=positions.device)


def _more_than_one(base: float) -> float:
    if base <= 1:
        raise UserError(f"base={base} must be more than 1; nearest: 10000")
    return base


POSITIONS = {
    "none": Position,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "rotary": Rotary,
    "alibi": Alibi,
    "t5": T5,
}
