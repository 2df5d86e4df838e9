"""Residual joins: how what a branch computed meets the stream, (x_BTD, f_BTD) -> x_BTD. N layers, D dim."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nanogpt.model.part import Part, Rule
from nanogpt.parts import at_least


class Plain(Part):
    """x + f. He et al. 2015 (arXiv:1512.03385)."""

    def forward(self, x_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        return x_BTD + branch_BTD


class NoResidual(Part):
    """f: the branch replaces the stream, as layers did before there were residual connections."""

    def forward(self, x_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        return branch_BTD


class ReZero(Part):
    """x + a f, a one learned number for each branch, 0 at the start: every block starts as the identity.
    Bachlechner et al. 2020 (arXiv:2003.04887)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))

    def rules(self) -> dict[str, Rule]:
        return {"weight": lambda values: values.zero_()}

    def forward(self, x_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        return x_BTD + self.weight * branch_BTD


class LayerScale(Part):
    """x + w * f, w (D,) learned and small at the start. Touvron et al. 2021 (CaiT, arXiv:2103.17239).

    init: every number of w at the start; CaiT takes 0.1 up to 18 layers, 1e-5 at 24, 1e-6 above.
    """

    def __init__(self, *, dim: int, init: float = 1e-4) -> None:
        super().__init__()
        at_least(0, init=init)
        self.init = init
        self.weight = nn.Parameter(torch.empty(dim))

    def rules(self) -> dict[str, Rule]:
        return {"weight": lambda values: values.fill_(self.init)}

    def forward(self, x_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        return x_BTD + self.weight * branch_BTD


class DeepNorm(Part):
    """(2N)^(1/4) x + f, for layout=post and init=deepnorm: an update's size stays bounded at any depth.
    Wang et al. 2022 (arXiv:2203.00555), the decoder-only row of their table."""

    def __init__(self, *, n_layers: int) -> None:
        super().__init__()
        self._alpha = (2 * max(1, n_layers)) ** 0.25

    def forward(self, x_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        return x_BTD * self._alpha + branch_BTD


class Scaled(Part):
    """x + c f, c fixed. Granite 3.0 (IBM 2024), whose `residual_multiplier` it is; depth-muP (arXiv:2310.02244).

    by: c.
    """

    def __init__(self, *, by: float) -> None:
        super().__init__()
        at_least(0, by=by)
        self.by = by

    def forward(self, x_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        return x_BTD + self.by * branch_BTD


RESIDUALS = {
    "plain": Plain,
    "none": NoResidual,
    "rezero": ReZero,
    "layerscale": LayerScale,
    "deepnorm": DeepNorm,
    "scaled": Scaled,
}
