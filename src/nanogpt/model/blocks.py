"""Layouts: how a block joins its mixer f and its ffn g to the residual stream x, (B, T, D) throughout."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.kernels.dropout import dropout
from nanogpt.model.ffn import FFNS
from nanogpt.model.mixers import MIXERS
from nanogpt.model.norms import NORMS
from nanogpt.model.part import Flow, Nothing, Part
from nanogpt.model.residuals import RESIDUALS
from nanogpt.parts import between, build, field


class Block(Part):
    """One layer. A subclass says in `forward` where the norms stand.

    The stream may be wider than dim inside: `open` widens it at the first block, `close` narrows it at the last.
    The knobs of all of them are explained at `PreNorm`; `residual` (residuals.py) is the + of the formulas below.
    """

    final_norm = True
    """Whether the model norms the stream once more, before the head."""

    def __init__(
        self,
        *,
        dim: int,
        layer: int,
        n_layers: int,
        context: int,
        mixer: str,
        ffn: str,
        norm: str,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        residual: str = "plain",
    ) -> None:
        super().__init__()
        between(0, 1, dropout=dropout, drop_path=drop_path)
        self.layer, self.dropout, self.drop_path = layer, dropout, drop_path
        self._skipped = drop_path * (layer + 1) / max(1, n_layers)
        given = {"dim": dim, "layer": layer, "n_layers": n_layers, "context": context}
        with field("model.mixer"):
            self.mixer = build(MIXERS, mixer, **given)
        with field("model.ffn"):
            self.ffn = build(FFNS, ffn, **given)
        with field("model.norm"):
            self._add_norms(norm, dim)
        self.residual = build(RESIDUALS, residual, **given).spec
        if self.residual.name == "none" and drop_path:
            raise UserError(
                f"drop_path={drop_path} with residual=none would skip the stream itself; nearest: drop_path=0.0"
            )
        self._add_residuals(given)

    def _add_norms(self, norm: str, dim: int) -> None:
        self.mixer_norm = self._norm(norm, dim, self.mixer)
        self.ffn_norm = self._norm(norm, dim, self.ffn)

    def _add_residuals(self, given: dict[str, int]) -> None:
        self.mixer_residual = self._residual(given, self.mixer)
        self.ffn_residual = self._residual(given, self.ffn)

    def _norm(self, norm: str, dim: int, *branches: nn.Module) -> nn.Module:
        """A norm for these branches; none where there is nothing to norm."""
        return build(NORMS, "none" if _nothing(branches) else norm, dim=dim)

    def _residual(self, given: dict[str, int], *branches: nn.Module) -> nn.Module:
        """A join for these branches; where there is nothing to join, the stream stays as it is."""
        return build(RESIDUALS, "plain" if _nothing(branches) else self.residual, **given)

    def open(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return x_BTD

    def close(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return x_BTD

    def drop(self, branch_BTD: Tensor) -> Tensor:
        branch_BTD = dropout(branch_BTD, self.dropout, self.training)
        if self.training and self._skipped and branch_BTD.ndim:
            kept = branch_BTD.new_empty(len(branch_BTD), *[1] * (branch_BTD.ndim - 1)).bernoulli_(1 - self._skipped)
            branch_BTD = branch_BTD * kept / (1 - self._skipped)  # so that the mean stays what it is in evaluation
        return branch_BTD


class PreNorm(Block):
    """x + f(norm(x)), then the same with g: the stream is never normed. Xiong et al. 2020 (arXiv:2002.04745); GPT-2.

    dropout: share of each branch's output set to zero while training. drop_path: share of the rows of a batch that skip
    a branch while training, in the last layer; l/N of it in layer l of N (stochastic depth: Huang et al. 2016,
    arXiv:1603.09382). residual: how a branch meets the stream, the + here: plain, none, rezero, layerscale, ...
    """

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        x_BTD = self.mixer_residual(x_BTD, self.drop(self.mixer(self.mixer_norm(x_BTD), flow)))
        return self.ffn_residual(x_BTD, self.drop(self.ffn(self.ffn_norm(x_BTD), flow)))


class PostNorm(Block):
    """norm(x + f(x)), then the same with g: the stream is normed after each branch. Vaswani et al. 2017; GPT-1.

    dropout, drop_path, residual: as pre's.
    """

    final_norm = False

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        x_BTD = self.mixer_norm(self.mixer_residual(x_BTD, self.drop(self.mixer(x_BTD, flow))))
        return self.ffn_norm(self.ffn_residual(x_BTD, self.drop(self.ffn(x_BTD, flow))))


class Sandwich(Block):
    """x + norm_out(f(norm_in(x))), then the same with g: a norm on either side of a branch.
    Ding et al. 2021 (CogView, arXiv:2105.13290); Gemma 2 (arXiv:2408.00118).

    dropout, drop_path, residual: as pre's.
    """

    def _add_norms(self, norm: str, dim: int) -> None:
        super()._add_norms(norm, dim)
        self.mixer_out_norm = self._norm(norm, dim, self.mixer)
        self.ffn_out_norm = self._norm(norm, dim, self.ffn)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        mixed = self.mixer_out_norm(self.mixer(self.mixer_norm(x_BTD), flow))
        x_BTD = self.mixer_residual(x_BTD, self.drop(mixed))
        return self.ffn_residual(x_BTD, self.drop(self.ffn_out_norm(self.ffn(self.ffn_norm(x_BTD), flow))))


class Reordered(Block):
    """x + norm(f(x)), then the same with g: what a branch adds is normed, the stream never.
    Liu et al. 2021 (Swin V2, arXiv:2111.09883); OLMo 2 (arXiv:2501.00656).

    dropout, drop_path, residual: as pre's.
    """

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        x_BTD = self.mixer_residual(x_BTD, self.drop(self.mixer_norm(self.mixer(x_BTD, flow))))
        return self.ffn_residual(x_BTD, self.drop(self.ffn_norm(self.ffn(x_BTD, flow))))


class Parallel(Block):
    """x + f(norm(x)) + g(norm(x)): both branches read one stream. GPT-J (Wang & Komatsuzaki 2021); Black et al. 2022
    (GPT-NeoX, arXiv:2204.06745). The residual joins the sum of the branches.

    norms: "one" for both branches (GPT-J, Cohere), or "two", one for each (GPT-NeoX).
    dropout, drop_path, residual: as pre's.
    """

    def __init__(
        self,
        *,
        dim: int,
        layer: int,
        n_layers: int,
        context: int,
        mixer: str,
        ffn: str,
        norm: str,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        residual: str = "plain",
        norms: Literal["one", "two"] = "one",
    ) -> None:
        self.norms = norms  # read while the parent builds
        super().__init__(
            dim=dim,
            layer=layer,
            n_layers=n_layers,
            context=context,
            mixer=mixer,
            ffn=ffn,
            norm=norm,
            dropout=dropout,
            drop_path=drop_path,
            residual=residual,
        )

    def _add_norms(self, norm: str, dim: int) -> None:
        super()._add_norms(norm, dim)
        if self.norms == "one":
            self.mixer_norm = self._norm(norm, dim, self.mixer, self.ffn)
            self.ffn_norm = build(NORMS, "none", dim=dim)

    def _add_residuals(self, given: dict[str, int]) -> None:
        self.both_residual = self._residual(given, self.mixer, self.ffn)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        normed = self.mixer_norm(x_BTD)
        for_ffn = normed if self.norms == "one" else self.ffn_norm(x_BTD)
        added = self.drop(self.mixer(normed, flow)) + self.drop(self.ffn(for_ffn, flow))
        return self.both_residual(x_BTD, added)


class Unnormed(Block):
    """x + f(x), then the same with g: no norm anywhere, whatever `norm` says. With residual=none one part after the
    other, as networks were before He et al. 2015.

    dropout, drop_path, residual: as pre's.
    """

    final_norm = False

    def _norm(self, norm: str, dim: int, *branches: nn.Module) -> nn.Module:
        return build(NORMS, "none", dim=dim)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        x_BTD = self.mixer_residual(x_BTD, self.drop(self.mixer(x_BTD, flow)))
        return self.ffn_residual(x_BTD, self.drop(self.ffn(x_BTD, flow)))


def _nothing(branches: tuple[nn.Module, ...]) -> bool:
    return all(isinstance(branch, Nothing) for branch in branches)


LAYOUTS = {
    "pre": PreNorm,
    "post": PostNorm,
    "sandwich": Sandwich,
    "reordered": Reordered,
    "parallel": Parallel,
    "none": Unnormed,
}
