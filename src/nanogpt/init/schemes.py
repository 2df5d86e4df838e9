"""Schemes: how large initial weights are. n_in and n_out are the fans of a matrix: what feeds one of its outputs, and
what one of its inputs feeds (for a convolution, times the places that it sees)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nanogpt.init.base import Scheme
from nanogpt.init.roles import TABLES, Role, fans
from nanogpt.parts import at_least, build, must_be

CUT = 2.0
CUT_STD = 0.8796256610342398
"""Standard deviation of what is left of N(0, 1) between -2 and 2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1))."""


class Normal(Scheme):
    """w ~ N(0, std^2) for every matrix and table. GPT-1 (Radford et al. 2018); the lecture's GPT.

    std: standard deviation. bias: of the biases; 0 is zeros, and makemore draws them from N(0, 1) too.
    """

    def __init__(self, *, std: float = 0.02, bias: float = 0.0) -> None:
        at_least(0, std=std, bias=bias)
        self._std, self.bias = std, bias

    def std(self, role: Role, weight: Tensor) -> float:
        return self._std


class Truncated(Scheme):
    """w ~ N(0, std^2), drawn again where |w| > cut * std: no weight is an outlier. BERT (Devlin
    et al. 2018); OLMo 2 (2024).

    std: of the normal distribution before it is cut (torch.nn.init.trunc_normal_'s), so that what is left has a little
    less: 0.88 std at cut=2, 0.99 std at cut=3. cut: in standard deviations.
    """

    def __init__(self, *, std: float = 0.02, cut: float = 2.0) -> None:
        at_least(0, std=std)
        at_least(0.1, cut=cut)
        self._std, self.cut = std, cut

    def fill(self, role: Role, weight: Tensor, random: torch.Generator) -> None:
        truncated(weight, self._std, self.cut, random)


class GPT2(Normal):
    """w ~ N(0, std^2), and std / sqrt(2 n_layers) for what writes to the stream, which 2 n_layers branches add up in.
    Radford et al. 2019, section 2.3.

    std: before that division.
    """

    def __init__(self, *, n_layers: int, std: float = 0.02) -> None:
        super().__init__(std=std)
        self._branches = 2 * max(1, n_layers)

    def std(self, role: Role, weight: Tensor) -> float:
        return self._std / math.sqrt(self._branches) if role.name == "residual" else self._std


class Zeros(Scheme):
    """w = 0 for every matrix and table: right for a single layer, whose loss is convex; deeper ones never leave it."""

    def std(self, role: Role, weight: Tensor) -> float:
        return 0.0


class PyTorch(Scheme):
    """w, b ~ U(-1/sqrt(n_in), 1/sqrt(n_in)), tables ~ N(0, 1): what torch.nn.Linear and Embedding start with, and so
    whoever initialises nothing (the first steps of the lecture's GPT; makemore). Var[w] = 1 / (3 n_in). Paszke et al.
    2019."""

    def std(self, role: Role, weight: Tensor) -> float:
        return 1.0 if role.name in TABLES else 1 / math.sqrt(3 * fans(weight)[0])

    def fill(self, role: Role, weight: Tensor, random: torch.Generator) -> None:
        if role.name in TABLES:
            super().fill(role, weight, random)
        else:
            uniform(weight, self.std(role, weight), random)

    def fill_bias(self, role: Role, bias: Tensor, random: torch.Generator) -> None:
        uniform(bias, 1 / math.sqrt(3 * role.fan_in) if role.fan_in else 0.0, random)


class Fans(Scheme):
    """What Kaiming, Xavier and LeCun share: a variance from the shape of the matrix, times gain^2.

    distribution: "normal"; "uniform", U(-a, a) with a = sqrt(3) std; "truncated", a normal one cut at 2 standard
    deviations and widened so that its variance is right. gain: of the activation that feeds the matrix ("before", by
    which its output keeps the variance: He et al.), of the one that follows it ("after": torch.nn.init's and makemore's
    way), or 1 ("none"). embedding: standard deviation of token and position vectors.
    """

    mode: Literal["fan_in", "fan_out", "average"]

    def __init__(
        self,
        *,
        distribution: Literal["normal", "uniform", "truncated"] = "normal",
        gain: Literal["before", "after", "none"] = "none",
        embedding: float = 0.02,
    ) -> None:
        at_least(0, embedding=embedding)
        self.distribution, self.gain, self.embedding = distribution, gain, embedding

    def std(self, role: Role, weight: Tensor) -> float:
        if role.name in TABLES:
            return self.embedding
        fan_in, fan_out = fans(weight)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "average": (fan_in + fan_out) / 2}[self.mode]
        return {"before": role.gain, "after": role.then, "none": 1.0}[self.gain] / math.sqrt(fan)

    def fill(self, role: Role, weight: Tensor, random: torch.Generator) -> None:
        if self.distribution == "normal" or role.name in TABLES:
            super().fill(role, weight, random)
        elif self.distribution == "uniform":
            uniform(weight, self.std(role, weight), random)
        else:
            truncated(weight, self.std(role, weight) / CUT_STD, CUT, random)


class Kaiming(Fans):
    """Var[w] = gain^2 / n_in, gain sqrt(2) after a ReLU, sqrt(2 / (1 + a^2)) after a PReLU of slope a: the signal keeps
    its size through any depth. He et al. 2015, eq. 10 (n_in: forward), 14 (n_out: the gradient) and 15 (PReLU).

    mode: which fan; "average" is half of both. distribution: normal, uniform or truncated, of the same variance.
    gain: of the activation before the matrix (the paper's), after it, or none. embedding: std of the tables.
    """

    def __init__(
        self,
        *,
        mode: Literal["fan_in", "fan_out", "average"] = "fan_in",
        distribution: Literal["normal", "uniform", "truncated"] = "normal",
        gain: Literal["before", "after", "none"] = "before",
        embedding: float = 0.02,
    ) -> None:
        super().__init__(distribution=distribution, gain=gain, embedding=embedding)
        self.mode = mode


class Xavier(Fans):
    """Var[w] = gain^2 * 2 / (n_in + n_out), gain 1: a compromise of forward and backward. Glorot & Bengio 2010, eq. 12;
    eq. 16 is distribution=uniform.

    distribution: normal, uniform or truncated. gain: none (the paper's, whose activations are straight at 0); after
    (torch.nn.init.calculate_gain's, 5/3 for tanh); before. embedding: std of the tables.
    """

    mode = "average"


class LeCun(Fans):
    """Var[w] = 1 / n_in: unit inputs make unit outputs. LeCun et al. 1998 (Efficient BackProp), eq. 16; what SELU needs
    (Klambauer et al. 2017).

    distribution: normal, uniform or truncated. embedding: std of the tables.
    """

    mode = "fan_in"

    def __init__(
        self, *, distribution: Literal["normal", "uniform", "truncated"] = "normal", embedding: float = 0.02
    ) -> None:
        super().__init__(distribution=distribution, embedding=embedding)


class Orthogonal(Scheme):
    """W W^T = gain^2 I, or W^T W where it has more rows than columns: every singular value is the gain, so that a deep
    linear network keeps all lengths, not only their mean. Saxe et al. 2013. A convolution is (n_out, the rest).

    gain: of the activation before the matrix, after it, or none (1). embedding: std of the tables.
    """

    def __init__(self, *, gain: Literal["before", "after", "none"] = "before", embedding: float = 0.02) -> None:
        at_least(0, embedding=embedding)
        self.gain, self.embedding = gain, embedding

    def std(self, role: Role, weight: Tensor) -> float:
        if role.name in TABLES:
            return self.embedding
        gain = {"before": role.gain, "after": role.then, "none": 1.0}[self.gain]
        return gain / math.sqrt(max(len(weight), weight[0].numel()))

    def fill(self, role: Role, weight: Tensor, random: torch.Generator) -> None:
        if role.name in TABLES:
            super().fill(role, weight, random)
            return
        gain = {"before": role.gain, "after": role.then, "none": 1.0}[self.gain]
        nn.init.orthogonal_(weight, gain, generator=random)


def uniform(weight: Tensor, std: float, random: torch.Generator) -> None:
    """U(-a, a) has the variance a^2 / 3."""
    weight.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std, generator=random)


def truncated(weight: Tensor, std: float, cut: float, random: torch.Generator) -> None:
    """N(0, std^2) between -cut std and cut std."""
    nn.init.trunc_normal_(weight, 0.0, 1.0, -cut, cut, generator=random)
    weight.mul_(std)


# ---- schemes of schemes


class ByRole(Scheme):
    """A scheme for each role: `by_role(rest=kaiming(gain=after, embedding=1), head=normal(std=0.01))` is makemore's
    network as part 3 of the lectures repairs it.

    rest: for every role that names none (the word "rest"). embedding, position, hidden, residual, head: the scheme of
    that role (roles.py). A bias goes with its matrix, and other biases with `rest`;
    learning rates are `rest`'s, since they are what a parametrisation is, not where it starts.
    """

    def __init__(
        self,
        *,
        dim: int,
        n_layers: int,
        rest: str = "normal",
        embedding: str = "rest",
        position: str = "rest",
        hidden: str = "rest",
        residual: str = "rest",
        head: str = "rest",
    ) -> None:
        def scheme(text: str) -> Any:
            return must_be(Scheme, build(SCHEMES, text, dim=dim, n_layers=n_layers))

        self.rest: Scheme = scheme(rest)
        given = {"embedding": embedding, "position": position, "hidden": hidden, "residual": residual, "head": head}
        self._of: dict[str, Scheme] = {role: scheme(text) for role, text in given.items() if text not in ("", "rest")}
        for role, text in given.items():
            setattr(self, role, self._of.get(role, text))  # where the saved configuration finds it
        self.unties = self.rest.unties

    def std(self, role: Role, weight: Tensor) -> float:
        return self._of.get(role.name, self.rest).std(role, weight)

    def fill(self, role: Role, weight: Tensor, random: torch.Generator) -> None:
        self._of.get(role.name, self.rest).fill(role, weight, random)

    def fill_bias(self, role: Role, bias: Tensor, random: torch.Generator) -> None:
        self._of.get(role.of, self.rest).fill_bias(role, bias, random)

    def rate(self, role: Role, weight: Tensor) -> float:
        return self.rest.rate(role, weight)


class ZeroOutput(ByRole):
    """w = 0 for the head and for what writes to the stream: each block starts as the identity and every token is
    equally likely. Zhang et al. 2019 (Fixup) for the branches; Yang et al. 2022 (Tensor Programs V, muTransfer) for
    the head. rest: the scheme of all other weights."""

    def __init__(self, *, dim: int, n_layers: int, rest: str = "kaiming") -> None:
        super().__init__(dim=dim, n_layers=n_layers, rest=rest, residual="zeros", head="zeros")


class DeepNorm(Scheme):
    """w of `rest` times (8 n_layers)^(-1/4) inside the blocks, but for queries and keys: with the residual
    (2 n_layers)^(1/4) x + branch(x) a step changes the output by a bounded amount at any depth.
    Wang et al. 2022 (arXiv 2203.00555), figure 2, decoder-only.

    rest: the scheme that is scaled (the paper's is Xavier). Queries and keys are the matrices called q and k: what
    enters only a softmax cannot make the branch large. To be used with a layout of residual=deepnorm.
    """

    def __init__(self, *, dim: int, n_layers: int, rest: str = "xavier") -> None:
        self.rest: Scheme = must_be(Scheme, build(SCHEMES, rest, dim=dim, n_layers=n_layers))
        self.unties = self.rest.unties
        self._beta = (8 * max(1, n_layers)) ** -0.25

    def _scale(self, role: Role) -> float:
        module = role.parameter.split(".")[-2:][0]
        return self._beta if role.name in ("hidden", "residual") and module not in ("q", "k") else 1.0

    def std(self, role: Role, weight: Tensor) -> float:
        return self._scale(role) * self.rest.std(role, weight)

    def fill(self, role: Role, weight: Tensor, random: torch.Generator) -> None:
        self.rest.fill(role, weight, random)
        weight.mul_(self._scale(role))

    def fill_bias(self, role: Role, bias: Tensor, random: torch.Generator) -> None:
        self.rest.fill_bias(role, bias, random)

    def rate(self, role: Role, weight: Tensor) -> float:
        return self.rest.rate(role, weight)


class MuP(Kaiming):
    """Hidden: Var[w] = gain^2 / n_in, lr / m; head: Var[w] = base / dim^2, lr / m; tables and vectors: as they are, lr;
    m = dim / base. The maximal update parametrisation: activations and their changes keep their size as the model gets
    wider, so that the learning rate found on a narrow one is the wide one's. Yang et al. 2022 (Tensor Programs V, arXiv
    2203.03466), table 3, the Adam column; at dim = base it is `kaiming`.

    base: the width at which learning rates are what the optimizer says. distribution, gain, embedding: as Kaiming's.
    The rates are those of optimizers whose step does not depend on the gradient's size (Adam and its kin, Lion); others
    refuse them. Weight decay is divided by the rate factor, so that lr * weight_decay is one number. All widths have to
    grow together: ffn.hidden with dim, and attention by more heads of one head_dim. The paper's 1/d instead of
    1/sqrt(d) in attention is about head_dim growing, and makes no difference while it does not.
    """

    unties = True

    def __init__(
        self,
        *,
        dim: int,
        base: int = 64,
        distribution: Literal["normal", "uniform", "truncated"] = "normal",
        gain: Literal["before", "after", "none"] = "before",
        embedding: float = 0.02,
    ) -> None:
        super().__init__(distribution=distribution, gain=gain, embedding=embedding)
        at_least(1, base=base)
        self.base, self._wider = base, dim / base

    def std(self, role: Role, weight: Tensor) -> float:
        std = super().std(role, weight)
        return std / math.sqrt(self._wider) if role.name == "head" else std

    def rate(self, role: Role, weight: Tensor) -> float:
        depthwise = weight.ndim > 2 and weight.shape[1] == 1  # a filter for each number: its fan-in does not grow
        return 1 / self._wider if role.name in ("hidden", "residual", "head") and not depthwise else 1.0


SCHEMES: dict[str, Callable[..., Any]] = {
    "normal": Normal,
    "truncated": Truncated,
    "gpt2": GPT2,
    "pytorch": PyTorch,
    "kaiming": Kaiming,
    "xavier": Xavier,
    "lecun": LeCun,
    "orthogonal": Orthogonal,
    "zeros": Zeros,
    "by_role": ByRole,
    "zero_output": ZeroOutput,
    "deepnorm": DeepNorm,
    "mup": MuP,
}
