"""What theory says of a model's first pass: the variance of activations and of gradients, from the weights alone.

The model runs once, and beside each tensor travels what mean-field theory knows of it: its second moment, its mean, and
the covariance of one unit at two tokens (Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, 1611.01232). A
matrix of n inputs multiplies the second moment by n Var[w] (He et al. 2015, arXiv:1502.01852, eq. 5), and backwards by
n_out Var[w] (eq. 13); an activation does what it does to a Gaussian (gaussian.py); a norm makes it 1; branches add up;
attention averages. No layout, no part and no scheme is known here by its name.

Assumed: weights are independent with mean 0 and the variance that they have; inputs of an activation are Gaussian; what
meets in a sum or a product is independent; the gradient is independent of the activations. Where an operation is not
known to these rules, what comes after it is not predicted (NaN).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nanogpt.observers.rules import RULES
from nanogpt.observers.signals import Matrix, Pass, Signal
from nanogpt.observers.undisturbed import undisturbed


@dataclass
class Theory:
    """What is predicted; dictionaries are by the module that puts it out."""

    variance: dict[str, float] = field(default_factory=dict)
    gradient: dict[str, float] = field(default_factory=dict)
    """Variance of the gradient of the mean loss."""
    dead: dict[str, float] = field(default_factory=dict)
    """Share of an activation's units."""
    saturated: dict[str, float] = field(default_factory=dict)
    """Share of a bounded activation's outputs."""
    alike: dict[str, float] = field(default_factory=dict)
    """Correlation of an activation's input at two tokens."""
    entropy: dict[str, float] = field(default_factory=dict)
    """Of attention weights, nats."""
    matrices: list[Matrix] = field(default_factory=list)
    loss: float = math.nan
    """Of the first pass, nats a token: E[log sum exp] of V independent Gaussian logits."""
    logits: float = math.nan
    """Variance of the logits."""


def predict(
    model: nn.Module,
    run: Callable[[], Tensor],
    targets: Tensor,
    powers: Mapping[str, float] | None = None,
) -> Theory:
    """Theory of the pass `run`, which puts out logits (..., V), and of the gradient of its mean loss.

    targets: ids, any shape; -1 is not scored. powers: second moments of parameters by name, as another scheme would
    draw them, instead of what they have. The model and the random state are left as they were.
    """
    assumed = {id(p): powers[name] for name, p in model.named_parameters() if powers and name in powers}
    scored = targets[targets >= 0]
    walk = Pass(RULES, {id(p): name for name, p in model.named_parameters()}, assumed, scored.numel())
    signals: dict[str, Signal] = {}
    with undisturbed(model), walk.attached(model, signals), torch.no_grad(), walk:
        logits = run()
    last = walk.known(logits)
    if last is None:
        return Theory(matrices=list(walk.matrices.values()))
    V, N = logits.shape[-1], max(1, scored.numel())
    loss, residue = first_loss(last.variance, V)
    alike = float((scored.unique(return_counts=True)[1].double() / N).square().sum())
    last.gradient, last.common = residue / V / N**2, max(0.0, alike - 1 / V) / V / N**2
    walk.back()
    acts = {name: s.act for name, s in signals.items() if s.act and s.act.module and s.act.module is _at(model, name)}
    entropy = {id(signal): value for signal, value in walk.entropies}
    return Theory(
        variance={name: s.variance for name, s in signals.items()},
        gradient={name: s.gradient for name, s in signals.items()},
        dead={name: act.dead for name, act in acts.items() if math.isfinite(act.dead)},
        saturated={name: act.saturated for name, act in acts.items() if math.isfinite(act.saturated)},
        alike={name: act.alike for name, act in acts.items()},
        entropy={n.removesuffix(".attend"): entropy[id(s)] for n, s in signals.items() if id(s) in entropy},
        matrices=list(walk.matrices.values()),
        loss=loss,
        logits=last.variance,
    )


def first_loss(variance: float, vocab_size: int) -> tuple[float, float]:
    """(E[-log p_y], E[|p - y|^2]) of a softmax over V independent logits of this variance, y one of them by chance."""
    if not math.isfinite(variance):
        return math.nan, math.nan
    rows = max(8, min(512, 2**21 // vocab_size))
    z = torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(0)).double() * math.sqrt(variance)
    z -= z.mean(1, keepdim=True)  # E[z_y] is 0: known, so not sampled
    p = z.softmax(1)
    return float(z.logsumexp(1).mean()), float(1 + p.square().sum(1).mean() - 2 / vocab_size)


def _at(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name) if name else model
