"""How a network starts: what is measured before training beside what theory predicts, and a verdict in words.

`examine` is what `nanogpt init` shows; `warnings_at_start` the few lines that training says by itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nanogpt.model.language_model import LanguageModel
from nanogpt.observers.checks.case import layer_of
from nanogpt.observers.checks.cures import Cures
from nanogpt.observers.language import Words
from nanogpt.observers.store import Observation
from nanogpt.observers.theory import Theory, predict
from nanogpt.observers.undisturbed import device_of
from nanogpt.observers.verdict import Fault, Numbers, act_name, condition, judge, pace

LINES = 3
"""Faults that are said when training starts."""
LEARNED = 0.5
"""Nats below ln V: such a model has been trained, and is not judged as one that was just drawn."""


@dataclass(frozen=True)
class Start:
    """A network before its first step."""

    measured: Numbers
    predicted: Numbers
    theory: Theory
    chain: list[str]
    """The same thing at every depth: blocks, or else activations."""
    chance: float
    """ln V, the loss of who knows nothing; NaN where there is no vocabulary."""
    faults: list[Fault]
    """Worst first; [] is a healthy start."""

    def as_dict(self) -> dict[str, Any]:
        names = dict.fromkeys([*self.measured.variance, *self.measured.dead, *self.measured.entropy])
        paces = {
            f"{what}{whose}": plain(pace(getattr(numbers, kind), self.chain, down=kind == "gradient")[0])
            for what, kind in (("activations", "variance"), ("gradients", "gradient"))
            for whose, numbers in (("", self.measured), ("_predicted", self.predicted))
        }
        return {
            "verdict": self.faults[0].level if self.faults else "good",
            "loss": plain(self.measured.loss),
            "loss_predicted": plain(self.predicted.loss),
            "ln_vocab": plain(self.chance),
            "factor_a_layer": paces,
            "depth": self.chain,
            "modules": [{"name": name, **self.row(name)} for name in names],
            "matrices": [
                {
                    "name": m.name,
                    "n_in": m.n_in,
                    "n_out": m.n_out,
                    "variance": m.variance,
                    "after": act_name(m),
                    "condition": condition(m),
                    "forward": plain(m.forward),
                    "backward": plain(m.backward),
                    "xavier": 2 / (m.n_in + m.n_out),
                }
                for m in self.theory.matrices
            ],
            "findings": [fault.as_dict() for fault in self.faults],
        }

    def row(self, name: str) -> dict[str, float | None]:
        """What is known of one module; None is unknown."""
        found = {
            "variance": self.measured.variance.get(name),
            "variance_predicted": self.predicted.variance.get(name),
            "gradient": self.measured.gradient.get(name),
            "gradient_predicted": self.predicted.gradient.get(name),
            "dead": self.measured.dead.get(name),
            "dead_predicted": self.predicted.dead.get(name),
            "saturated": self.measured.saturated.get(name),
            "saturated_predicted": self.predicted.saturated.get(name),
            "entropy": self.measured.entropy.get(name),
            "entropy_predicted": self.predicted.entropy.get(name),
        }
        return {key: None if value is None else plain(value) for key, value in found.items()}


def examine(model: nn.Module, seen: Observation, words: Words | None = None, theory: Theory | None = None) -> Start:
    """Judge a start by an observation before the first step.

    words: the batch that was observed, so that theory speaks of the same text; by default a short one of random tokens.
    theory: one that is known already, or an empty one to save the time. A module that is not ours is judged without.
    """
    if theory is None and isinstance(model, LanguageModel):
        theory = predict(model, *a_pass(model, words))
    theory = theory or Theory()
    measured, chain, chance = numbers_of(seen), chain_of(seen), ln_vocab(model)
    faults = judge(measured, chain, chance, theory)
    return Start(measured, Numbers.predicted(theory), theory, chain, chance, faults)


def warnings_at_start(model: nn.Module, seen: Observation, words: Words | None = None) -> list[str]:
    """What training says by itself before its first step: [] where the start is sound, else at most LINES lines, each
    with what to change. It costs nothing where nothing is wrong."""
    measured, chain, chance = numbers_of(seen), chain_of(seen), ln_vocab(model)
    if measured.loss < chance - LEARNED or not judge(measured, chain, chance, Theory()):
        return []
    start = examine(model, seen, words)
    if isinstance(model, LanguageModel):
        from nanogpt.observers.remedy import by_theory  # builds on this file

        faults = by_theory(model, start).faults
    else:
        acts = [units.act for units in seen.units]
        cures = Cures({}, max(acts, key=acts.count, default=""))
        faults = [replace(fault, cure=cures.initialisation()) for fault in start.faults]
    return [f"start      {fault}" for fault in faults[:LINES]]


def a_pass(model: LanguageModel, words: Words | None = None) -> tuple[Callable[[], Tensor], Tensor]:
    """A pass over a text and its targets; by default over a few random tokens."""
    if words is not None:
        return lambda: model(words.tokens_BT, words.mask_BT, words.documents_BT), words.targets_BT
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocab_size, (1, min(model.context, 64) + 1), generator=generator).to(device_of(model))
    return lambda: model(tokens[:, :-1]), tokens[:, 1:]


def numbers_of(seen: Observation) -> Numbers:
    """What was measured."""
    sizes = {kind: seen.table(kind, "std") for kind in ("activations", "activation_gradients")}
    heads: dict[str, list[float]] = {}
    entropy = seen.arrays.get("attention/entropy", np.zeros(0))
    for name, value in zip(seen.names.get("attention", []), entropy.tolist(), strict=False):
        heads.setdefault(name.partition(":")[0], []).append(value)
    loss = float(seen.arrays.get("loss", math.nan))
    known = "loss" not in seen.arrays or math.isfinite(loss)
    return Numbers(
        {name: std**2 for name, std in sizes["activations"].items()},
        {name: std**2 for name, std in sizes["activation_gradients"].items()},
        {units.name: float((seen.active(units.name) == 0).mean()) for units in seen.units if units.count},
        {name: share for name, share in seen.table("activations", "saturated").items() if math.isfinite(share)},
        {name: statistics.fmean(values) for name, values in heads.items()},
        loss,
        known and all(map(math.isfinite, sizes["activations"].values())),
    )


def chain_of(seen: Observation) -> list[str]:
    """The same thing at every depth, by the rows of the observation: blocks, or else activations, or else numbers. Not
    what the model puts out: its gradient is the loss's own, and of another size by nature."""
    rows = seen.names.get("activations", [])
    layers: dict[str, str] = {}
    for name in rows:
        layer = layer_of(name)
        if layer.rpartition(".")[2].isdigit() and layers.get(layer) != layer:
            layers[layer] = name  # the block itself where it has a row, else the last of what is in it
    blocks = [row for layer, row in layers.items() if layer.startswith("blocks.")]
    units = [units.name for units in seen.units if units.name in rows]
    return blocks if len(blocks) > 1 else units if len(units) > 1 else list(layers.values())[:-1]


def ln_vocab(model: nn.Module) -> float:
    size = getattr(model, "vocab_size", 0)
    return math.log(size) if isinstance(size, int) and size > 0 else math.nan


def plain(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None
