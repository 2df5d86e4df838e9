"""Update rules. Each is a small part that makes torch optimizers for the groups of a model.

torch's own where it has them, fused into one kernel where that pays; Muon is ours (muon.py). `make` answers a list:
Muon leaves what is not a hidden matrix to an AdamW of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nanogpt.errors import UserError
from nanogpt.optim.groups import Groups, check_cover, groups
from nanogpt.optim.muon import Muon as MuonOptimizer
from nanogpt.parts import at_least, between, build


class Rule(Protocol):
    """What every update rule answers."""

    def make(self, groups: Groups) -> list[Optimizer]: ...


def _split(groups: Groups, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for torch: what is decayed and what is not."""
    both: list[tuple[list[Tensor], float]] = [(groups.decayed, weight_decay), (groups.vectors, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in both if params]


LARGEST = 1e18
"""Beyond it the product of two knobs would no longer be a float32, and torch would raise whatever it does then."""


def _scales(**knobs: float) -> None:
    """Refuse factors that are negative or beyond all reason."""
    at_least(0, **knobs)
    for name, value in knobs.items():
        if value > LARGEST:
            raise UserError(f"{name}={value} must be at most {LARGEST}; nearest: {LARGEST}")


class SGD:
    """Gradient descent, with momentum: `sgd(lr=0.1, momentum=0.9, form=nesterov)`."""

    def __init__(self, *, lr: float = 0.1, momentum: float = 0.0, form: Literal["classic", "nesterov"] = "classic",
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        _scales(lr=lr, weight_decay=weight_decay)
        between(0, 1, momentum=momentum)
        if form == "nesterov" and not momentum:
            raise UserError("form=nesterov looks ahead along the momentum: it needs momentum, as in momentum=0.9")
        self.lr, self.momentum, self.form, self.weight_decay = lr, momentum, form, weight_decay

    def make(self, groups: Groups) -> list[Optimizer]:
        nesterov = self.form == "nesterov"
        params = _split(groups, self.weight_decay)
        return [torch.optim.SGD(params, lr=self.lr, momentum=self.momentum, nesterov=nesterov, foreach=True)]


class RMSProp:
    """Each weight's step divided by the running size of its gradient (Hinton 2012)."""

    def __init__(self, *, lr: float = 1e-3, decay: float = 0.99, eps: float = 1e-8, momentum: float = 0.0,
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        _scales(lr=lr, eps=eps, weight_decay=weight_decay)
        between(0, 1, decay=decay, momentum=momentum)
        self.lr, self.decay, self.eps, self.momentum, self.weight_decay = lr, decay, eps, momentum, weight_decay

    def make(self, groups: Groups) -> list[Optimizer]:
        params = _split(groups, self.weight_decay)
        knobs: dict[str, Any] = {"lr": self.lr, "alpha": self.decay, "eps": self.eps, "momentum": self.momentum}
        return [torch.optim.RMSprop(params, **knobs, foreach=True)]


class Adam:
    """Kingma and Ba 2015 (arXiv:1412.6980); weight decay, if any, is part of the gradient."""

    torch_class: type[Optimizer] = torch.optim.Adam

    def __init__(self, *, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        _scales(lr=lr, eps=eps, weight_decay=weight_decay)
        between(0, 1, beta1=beta1, beta2=beta2)
        self.lr, self.beta1, self.beta2, self.eps, self.weight_decay = lr, beta1, beta2, eps, weight_decay

    def make(self, groups: Groups) -> list[Optimizer]:
        params = _split(groups, self.weight_decay)
        fused = all(p.device.type != "meta" for group in params for p in group["params"])  # meta has no kernels
        return [self.torch_class(params, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=fused)]  # type: ignore[call-arg]


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    torch_class = torch.optim.AdamW

    def __init__(self, *, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.95, eps: float = 1e-8,
                 weight_decay: float = 0.1) -> None:  # fmt: skip
        super().__init__(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)


class Muon:
    """Muon for the matrices inside the blocks; `rest` for embeddings, head, gains and biases.

    Newton-Schulz runs in the run's precision: it is matrix products, and bf16 was shown to be enough for it.
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
        at_least(1, ns_steps=ns_steps)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.lr, self.momentum, self.form, self.weight_decay = lr, momentum, form, weight_decay
        self.ns_steps, self.scale = ns_steps, scale
        self.rest = build(OPTIMIZERS, rest, precision=precision)

    def make(self, groups: Groups) -> list[Optimizer]:
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
    "adam": Adam,
    "adamw": AdamW,
    "muon": Muon,
}


def make_optimizers(text: str, model: nn.Module, *, precision: str = "fp32") -> list[Optimizer]:
    """The optimizers that `text` describes, over all of a model's parameters. Groups keep their rate as `base_lr`."""
    made: list[Optimizer] = build(OPTIMIZERS, text, precision=precision).make(groups(model))
    check_cover(model, made)
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return made
