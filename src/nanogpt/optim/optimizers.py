"""Update rules. Each is a small part that makes torch optimizers for the groups of a model.

torch's own where it has them, fused into one kernel where that pays; Lion and Muon are ours (lion.py, muon.py).
`make` answers a list: Muon leaves what is not a hidden matrix to an AdamW of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from nanogpt.errors import UserError
from nanogpt.optim.groups import Groups, check_cover, groups
from nanogpt.optim.lean import lean, spare_the_compiler
from nanogpt.optim.lion import Lion as LionOptimizer
from nanogpt.optim.muon import Muon as MuonOptimizer
from nanogpt.parts import at_least, between, build


class Rule(Protocol):
    """What every update rule answers."""

    def make(self, groups: Groups) -> list[Optimizer]: ...


LARGEST = 1e18
"""Beyond it the product of two knobs would no longer be a float32, and torch would raise whatever it does then."""


def _scales(**knobs: float) -> None:
    """Refuse factors that are negative or beyond all reason."""
    at_least(0, **knobs)
    for name, value in knobs.items():
        if value > LARGEST:
            raise UserError(f"{name}={value} must be at most {LARGEST}; nearest: {LARGEST}")


class SGD:
    """w -= lr u, u = momentum u + g: gradient descent, with or without momentum. Robbins and Monro 1951; Polyak 1964.

    lr: of a step. momentum: what is kept of u; 0 is none. form: "classic" steps by u, "nesterov" by g + momentum u, the
    gradient one step ahead (Sutskever et al. 2013); as in `sgd(lr=0.1, momentum=0.9, form=nesterov)`.
    weight_decay: share of a matrix that is added to its gradient; biases, gains and scales are never decayed, with any
    optimizer.
    """

    def __init__(self, *, lr: float = 0.1, momentum: float = 0.0, form: Literal["classic", "nesterov"] = "classic",
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        _scales(lr=lr, weight_decay=weight_decay)
        between(0, 1, momentum=momentum)
        if form == "nesterov" and not momentum:
            raise UserError("form=nesterov looks ahead along the momentum: it needs momentum, as in momentum=0.9")
        self.lr, self.momentum, self.form, self.weight_decay = lr, momentum, form, weight_decay

    def make(self, groups: Groups) -> list[Optimizer]:
        groups.refuse_rates("a step of sgd is as large as the gradient")
        nesterov = self.form == "nesterov"
        params = groups.split(self.lr, self.weight_decay)
        return [lean(torch.optim.SGD)(params, lr=self.lr, momentum=self.momentum, nesterov=nesterov, foreach=True)]


class RMSProp:
    """w -= lr g / (sqrt(v) + eps), v = decay v + (1 - decay) g^2: each weight's step is divided by the running size of
    its gradient. Hinton 2012 (lecture 6e of his course).

    lr: of a step. decay: of the running mean. eps: keeps a step finite where there was no gradient. momentum: of the
    steps. weight_decay: added to the gradient, of matrices only.
    """

    def __init__(self, *, lr: float = 1e-3, decay: float = 0.99, eps: float = 1e-8, momentum: float = 0.0,
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        _scales(lr=lr, eps=eps, weight_decay=weight_decay)
        between(0, 1, decay=decay, momentum=momentum)
        self.lr, self.decay, self.eps, self.momentum, self.weight_decay = lr, decay, eps, momentum, weight_decay

    def make(self, groups: Groups) -> list[Optimizer]:
        params = groups.split(self.lr, self.weight_decay)
        knobs: dict[str, Any] = {"lr": self.lr, "alpha": self.decay, "eps": self.eps, "momentum": self.momentum}
        return [lean(torch.optim.RMSprop)(params, **knobs, foreach=True)]


class Adagrad:
    """Each weight's step divided by the root of the sum of its squared gradients: rare features keep large steps.
    Duchi, Hazan and Singer 2011.

    w -= lr g / (sqrt(sum of g^2) + eps).
    lr: of a step. lr_decay: the rate is lr / (1 + lr_decay * step). eps: keeps a first step finite.
    weight_decay: added to the gradient, of matrices only.
    """

    def __init__(
        self, *, lr: float = 1e-2, lr_decay: float = 0.0, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        _scales(lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay)
        self.lr, self.lr_decay, self.eps, self.weight_decay = lr, lr_decay, eps, weight_decay

    def make(self, groups: Groups) -> list[Optimizer]:
        params = groups.split(self.lr, self.weight_decay)
        return [lean(torch.optim.Adagrad)(params, lr=self.lr, lr_decay=self.lr_decay, eps=self.eps, foreach=True)]


class Adadelta:
    """The gradient times RMS(earlier steps) / RMS(gradients), so that a step has the weight's own unit. Zeiler 2012
    (arXiv:1212.5701).

    lr: a factor on it, 1 in the paper. decay: of both running means (rho). eps: also what the first steps grow from.
    weight_decay: added to the gradient, of matrices only.
    """

    def __init__(self, *, lr: float = 1.0, decay: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0) -> None:
        _scales(lr=lr, eps=eps, weight_decay=weight_decay)
        between(0, 1, decay=decay)
        self.lr, self.decay, self.eps, self.weight_decay = lr, decay, eps, weight_decay

    def make(self, groups: Groups) -> list[Optimizer]:
        params = groups.split(self.lr, self.weight_decay)
        return [lean(torch.optim.Adadelta)(params, lr=self.lr, rho=self.decay, eps=self.eps, foreach=True)]


class Adam:
    """A running mean of gradients over the root of that of their squares: lr m / (sqrt(v) + eps), both corrected for
    their start at zero. Kingma and Ba 2015 (arXiv:1412.6980).

    lr: of a step. beta1: what is kept of m, the running mean of gradients. beta2: of v, that of their squares.
    eps: keeps a step finite where there was no gradient. weight_decay: added to the gradient, of matrices only.
    """

    torch_class: type[Optimizer] = torch.optim.Adam
    fusible = True

    def __init__(self, *, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        _scales(lr=lr, eps=eps, weight_decay=weight_decay)
        between(0, 1, beta1=beta1, beta2=beta2)
        self.lr, self.beta1, self.beta2, self.eps, self.weight_decay = lr, beta1, beta2, eps, weight_decay

    def make(self, groups: Groups) -> list[Optimizer]:
        params = groups.split(self.lr, self.weight_decay)
        fused = all(p.device.type != "meta" for group in params for p in group["params"])  # meta has no kernels
        speed: dict[str, Any] = {"fused": fused} if self.fusible else {"foreach": True}
        return [lean(self.torch_class)(params, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, **speed)]


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: w -= lr (m / (sqrt(v) + eps) + weight_decay w). Loshchilov and
    Hutter 2019 (arXiv:1711.05101).

    lr, beta1, beta2, eps: as adam's. weight_decay: share of a matrix that is taken away, times lr.
    """

    torch_class = torch.optim.AdamW

    def __init__(self, *, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.95, eps: float = 1e-8,
                 weight_decay: float = 0.1) -> None:  # fmt: skip
        super().__init__(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)


class Adamax(Adam):
    """Adam with the largest recent gradient instead of the root of the mean square: u = max(beta2 u, |g|). Kingma and
    Ba 2015, section 7.1.

    lr, beta1, eps, weight_decay: as adam's. beta2: of u, how slowly a large gradient is forgotten.
    """

    torch_class = torch.optim.Adamax
    fusible = False

    def __init__(self, *, lr: float = 2e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        super().__init__(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)


class NAdam(Adam):
    """Adam whose momentum looks one step ahead, as Nesterov's, and warms up by itself. Dozat 2016.

    lr, beta1, beta2, eps, weight_decay: as adam's. In step t the momentum is beta1 (1 - 0.96^(t / 250) / 2).
    """

    torch_class = torch.optim.NAdam
    fusible = False

    def __init__(self, *, lr: float = 2e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        super().__init__(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)


class RAdam(Adam):
    """Adam that waits: plain momentum until the running mean of squares has seen enough to be divided by, then a factor
    that rises to 1 instead of a warm-up. Liu et al. 2020 (arXiv:1908.03265).

    lr, beta1, beta2, eps, weight_decay: as adam's.
    """

    torch_class = torch.optim.RAdam
    fusible = False


class Lion:
    """w -= lr (sign(beta1 m + (1 - beta1) g) + weight_decay w), then m = beta2 m + (1 - beta2) g: every weight moves by
    lr, and half of Adam's memory is enough. Chen et al. 2023 (arXiv:2302.06675), found by a search over programs.

    lr: 3 to 10 times smaller than AdamW's, and weight_decay as much larger (section 5). beta1: weight of the past in
    the step, beta2: in what is remembered.
    """

    def __init__(self, *, lr: float = 1e-4, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0) -> None:
        _scales(lr=lr, weight_decay=weight_decay)
        between(0, 1, beta1=beta1, beta2=beta2)
        self.lr, self.beta1, self.beta2, self.weight_decay = lr, beta1, beta2, weight_decay

    def make(self, groups: Groups) -> list[Optimizer]:
        return [LionOptimizer(groups.split(self.lr, self.weight_decay), lr=self.lr, betas=(self.beta1, self.beta2))]


class Muon:
    """w -= lr c O, O the momentum with all its singular values made about 1: for the matrices inside the blocks. Jordan
    et al. 2024 (https://kellerjordan.github.io/posts/muon).

    Newton-Schulz runs in the run's precision: it is matrix products, and bf16 was shown to be enough for it.
    lr: of a step. momentum: what is kept of the running mean of gradients. form: "classic" takes it, "nesterov" the
    gradient one step ahead. weight_decay: share of a matrix that is taken away, times lr. ns_steps: of Newton-Schulz.
    scale: c, "original" is sqrt(max(1, rows / columns)), "moonlight" 0.2 sqrt(max(rows, columns)), an update as large
    as AdamW's (Liu et al. 2025, arXiv:2502.16982). rest: the optimizer of all other parameters.
    """

    def __init__(
        self,
        *,
        precision: str = "fp32",
        lr: float = 0.02,
        momentum: float = 0.95,
        form: Literal["classic", "nesterov"] = "nesterov",
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        scale: Literal["original", "moonlight"] = "original",
        rest: str = "adamw(lr=0.003, weight_decay=0.0)",
    ) -> None:
        _scales(lr=lr, weight_decay=weight_decay)
        between(0, 1, momentum=momentum)
        between(1, 101, ns_steps=ns_steps)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.lr, self.momentum, self.form, self.weight_decay = lr, momentum, form, weight_decay
        self.ns_steps, self.scale = ns_steps, scale
        self.rest = build(OPTIMIZERS, rest, precision=precision)

    def make(self, groups: Groups) -> list[Optimizer]:
        groups.refuse_rates("muon's updates have a size of their own")
        others = Groups([], groups.tables, groups.vectors)
        made: list[Optimizer] = []
        if groups.matrices:
            knobs: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "momentum": self.momentum}
            knobs |= {"ns_steps": self.ns_steps, "scale": self.scale, "dtype": self.dtype}
            made.append(MuonOptimizer(groups.matrices, **knobs, nesterov=self.form == "nesterov"))
        return made + (self.rest.make(others) if others.decayed or others.vectors else [])


OPTIMIZERS: dict[str, Callable[..., Rule]] = {
    "sgd": SGD,
    "rmsprop": RMSProp,
    "adagrad": Adagrad,
    "adadelta": Adadelta,
    "adam": Adam,
    "adamw": AdamW,
    "adamax": Adamax,
    "nadam": NAdam,
    "radam": RAdam,
    "lion": Lion,
    "muon": Muon,
}


def make_optimizers(text: str, model: nn.Module, *, precision: str = "fp32") -> list[Optimizer]:
    """The optimizers that `text` describes, over all of a model's parameters; none where it has none, as counts have.
    Groups keep their rate as `base_lr`."""
    spare_the_compiler()
    rule: Rule = build(OPTIMIZERS, text, precision=precision)
    made = rule.make(groups(model)) if any(True for _ in model.parameters()) else []
    check_cover(model, made)
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return made
