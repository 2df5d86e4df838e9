"""Causal convolution: each token reads a few tokens before it, at fixed distances.

B batch, T new tokens, D dim, K kernel, P tokens that the kernel reaches back.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.model.linear import LARGEST
from nanogpt.model.part import Flow, Part, Rule
from nanogpt.parts import at_least, divides


class Last:
    """The last P tokens seen, padding left out, (B, P, D); None before the first."""

    tokens_BPD: Tensor | None = None


class Convolution(Part):
    """y_t = sum_j x_{t - j dilation} W_j (+ b), j = 0 .. kernel - 1, W_j (D, D); zeros before a text's first token.
    van den Oord et al. 2016 (WaveNet, arXiv:1609.03499), section 2.1; Bai et al. 2018 (TCN, arXiv:1803.01271).

    Layers with the dilations 1, 2, 4, ... see twice as far each: mixer="conv(dilation=1) + conv(dilation=2) + ...".
    kernel: tokens that are read, the newest included. dilation: distance between them. bias: "zeros" learns one.
    groups: parts of the vector that are mixed each for itself; groups = dim is a filter for each number ("depthwise").
    """

    def __init__(
        self,
        *,
        dim: int,
        context: int,
        kernel: int = 2,
        dilation: int = 1,
        bias: Literal["none", "zeros"] = "none",
        groups: int = 1,
    ) -> None:
        super().__init__()
        at_least(1, kernel=kernel, dilation=dilation)
        divides("groups", groups, "dim", dim)
        self.kernel, self.dilation, self.groups = kernel, dilation, groups
        self.reach = (kernel - 1) * dilation
        if self.reach > context:
            fits = f"dilation={context // (kernel - 1)}" if kernel <= context + 1 else f"kernel={context + 1}"
            raise UserError(
                f"kernel={kernel} with dilation={dilation} reaches {self.reach} tokens back, where a context of "
                f"{context} has none; nearest: {fits}"
            )
        if dim * (dim // groups) * kernel > LARGEST:
            raise UserError(f"{kernel} matrices of {dim} x {dim // groups} fit no machine; make its sizes smaller")
        self.weight = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        self.bias = nn.Parameter(torch.empty(dim)) if bias == "zeros" else None

    def rules(self) -> dict[str, Rule]:
        return {"weight": "residual", "bias": "bias"}

    def new_state(self, batch: int, capacity: int) -> Last:
        return Last()

    def cache_numbers(self) -> int:
        """None for each token: the last few are all there is."""
        return 0

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        memory = flow.state(self)
        if memory is None or memory.tokens_BPD is None:
            seen = F.pad(x_BTD, (0, 0, self.reach, 0))
        else:
            seen = torch.cat([memory.tokens_BPD, x_BTD], dim=1)
        plain = flow.mask_BT is None and flow.documents_BT is None
        if not plain:
            seen, places_BT = self._without_padding(seen, flow)
        if memory is not None:
            memory.tokens_BPD = self._last(seen, flow)
        if plain:
            return self._convolve(seen.transpose(1, 2), self.dilation).transpose(1, 2)
        taps_BTDK = self._taps(seen, places_BT, flow)
        return self._convolve(taps_BTDK.flatten(0, 1), 1).view_as(x_BTD)

    def _convolve(self, x_BDT: Tensor, dilation: int) -> Tensor:
        return F.conv1d(x_BDT, self.weight, self.bias, dilation=dilation, groups=self.groups)

    def _without_padding(self, seen: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        """Each row's tokens moved together, what is padding behind them; and the place of each new token in it."""
        mask_BT = flow.mask_BT
        if mask_BT is None:
            return seen, torch.arange(self.reach, seen.shape[1], device=seen.device).expand_as(flow.tokens_BT)
        order = flow.once("tokens first", lambda: (~mask_BT).long().argsort(dim=1, stable=True))
        old, new = seen.split([self.reach, seen.shape[1] - self.reach], dim=1)
        places_BT = self.reach + (mask_BT.cumsum(1) - 1).clamp(min=0)
        return torch.cat([old, _pick(new, order)], dim=1), places_BT

    def _taps(self, seen: Tensor, places_BT: Tensor, flow: Flow) -> Tensor:
        """What the kernel reads for each token, (B, T, D, K), oldest first: zeros where its own text has no such.
        Padding reads nothing: before the first token there is only the future."""
        taps = []
        for back in range(self.reach, -1, -self.dilation):
            there_BT = flow.positions_BT >= back
            if flow.mask_BT is not None:
                there_BT = there_BT & flow.mask_BT
            taps.append(_pick(seen, places_BT - back).masked_fill(~there_BT[:, :, None], 0.0))
        return torch.stack(taps, dim=3)

    def _last(self, seen: Tensor, flow: Flow) -> Tensor:
        """The last P tokens of each row."""
        if flow.mask_BT is None:
            return seen[:, seen.shape[1] - self.reach :]
        steps_P = torch.arange(self.reach, device=seen.device)
        return _pick(seen, flow.mask_BT.sum(1, keepdim=True) + steps_P)

    def flops(self, tokens: int, context: int) -> float:
        return 2.0 * self.weight.numel() * tokens


def _pick(x_BTD: Tensor, columns_BN: Tensor) -> Tensor:
    """These columns of each row, (B, N, D)."""
    return x_BTD.gather(1, columns_BN[:, :, None].expand(-1, -1, x_BTD.shape[2]))
