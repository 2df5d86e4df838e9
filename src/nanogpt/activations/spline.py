"""A curve learned point by point: the activation of Kolmogorov-Arnold networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.activations.base import Activation
from nanogpt.activations.smooth import SiLU
from nanogpt.errors import UserError
from nanogpt.model.part import Rule
from nanogpt.parts import at_least, between


class KAN(Activation):
    """f(x) = w silu(x) + sum_i c_i B_i(x), B-splines on a fixed grid with learned w and c. Liu et al. 2024 (KAN), eq.
    2.10.

    Each unit has a curve of its own (in a KAN each edge has one): w starts at 1, c at N(0, noise^2), so nearly SiLU,
    whose gain it has. Outside of the grid only the first term is left. n units have n (1 + grid + order) parameters.
    grid: intervals between -reach and reach. order: 3 is a cubic spline. reach: half the grid's width.
    noise: standard deviation of c at the start.
    """

    gain = SiLU.gain

    def __init__(self, *, dim: int, grid: int = 5, order: int = 3, reach: float = 3.0, noise: float = 0.1) -> None:
        super().__init__()
        at_least(1, grid=grid)
        between(0, 11, order=order)
        at_least(0, noise=noise)
        if not reach > 0:
            raise UserError(f"reach={reach} must be above 0; nearest: 1e-3")
        self.dim, self.grid, self.order, self.reach, self.noise = dim, grid, order, reach, noise
        self.w = nn.Parameter(torch.empty(dim))
        self.c = nn.Parameter(torch.empty(dim * (grid + order)))  # flat: a vector is never decayed

    def rules(self) -> dict[str, Rule]:
        return {"w": nn.init.ones_, "c": lambda values: values.normal_(0, self.noise)}

    def forward(self, x: Tensor) -> Tensor:
        w, c = self.w.to(x.dtype), self.c.to(x.dtype).view(self.dim, -1)
        return w * F.silu(x) + (self.basis(x) * c).sum(-1)

    def basis(self, x: Tensor) -> Tensor:
        """B_i(x), (..., n) -> (..., n, grid + order), by the recursion of Cox and de Boor."""
        knots = torch.arange(self.grid + 2 * self.order + 1, device=x.device, dtype=x.dtype) - self.order
        u = (x + self.reach)[..., None] * (self.grid / (2 * self.reach)) - knots  # intervals since each knot
        basis = ((u >= 0) & (u < 1)).to(x.dtype)[..., :-1]
        for p in range(1, self.order + 1):
            left, right = u[..., : -p - 1], p + 1 - u[..., : -p - 1]
            basis = (left * basis[..., :-1] + right * basis[..., 1:]) / p
        return basis
