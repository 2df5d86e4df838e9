"""One look at a model: a forward and a backward pass over a fixed batch, uncompiled and apart from training.

    loss -> activations and their gradients, neurons; of a language model also the stream, what it would say at each
    depth, its attention and its output

The model is in evaluation mode (no dropout), but for batch normalisation; nothing of it, and no random state, is
changed. Gradients of parameters are not touched: `torch.autograd.grad` hands back those that are asked for.
"""

from __future__ import annotations

import time
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from nanogpt.model.language_model import LanguageModel
from nanogpt.observers.language import Reading
from nanogpt.observers.probes import Probe, probe_of, probe_of_config
from nanogpt.observers.sites import Taken, Watch, counted, sites
from nanogpt.observers.statistics import Rows
from nanogpt.observers.store import Observation
from nanogpt.observers.undisturbed import eager, undisturbed


def look(model: nn.Module, probe: Probe, step: int = 0, *, weights: bool = True) -> Observation:
    """Look once. weights: also at the parameters and, by the probe's loss, their gradients; a training run has those of
    the real step instead. Raises what the model raises; it is then as it was before, too."""
    started = time.perf_counter()
    model = eager(model)
    with undisturbed(model):
        probe.sites = probe.sites or sites(model)
        watch = Watch(probe.sites, probe.places, probe.shape, probe.rests)
        reading = Reading(model, probe.words) if probe.words and isinstance(model, LanguageModel) else None
        with torch.enable_grad(), probe.autocast(), watch.attached() as taken, reading or nullcontext():
            loss = probe.loss()
        names = [name for name, p in model.named_parameters() if p.requires_grad] if weights else []
        gradients, of_weights = _gradients(model, loss, taken, names)
        seen = _observation(step, taken, watch, gradients, probe)
        if loss is not None:
            seen.arrays["loss"] = np.array(float(loss.detach()), np.float32)
        if reading:
            with torch.no_grad(), probe.autocast():
                reading.into(seen)
        if weights:
            into(seen, "weights", rows_of(dict(model.named_parameters())))
            into(seen, "weight_gradients", rows_of(of_weights))
    seen.facts["seconds"] = round(time.perf_counter() - started, 6)
    return seen


def _gradients(
    model: nn.Module, loss: Tensor | None, taken: Taken, names: list[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of the activations, and of the parameters of those names."""
    if loss is None or not loss.requires_grad:
        return {}, {}
    of = {name: edge for name, edge in taken.edges.items() if edge is not None}
    parameters = dict(model.named_parameters())
    inputs = [*of.values(), *(parameters[name] for name in names)]
    if not inputs:
        return {}, {}
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    first, rest = found[: len(of)], found[len(of) :]
    return (
        {name: g for name, g in zip(of, first, strict=True) if g is not None},
        {name: g for name, g in zip(names, rest, strict=True) if g is not None},
    )


def _observation(step: int, taken: Taken, watch: Watch, gradients: dict[str, Tensor], probe: Probe) -> Observation:
    seen = Observation(step, {}, {})
    into(seen, "activations", taken.activations)
    into(seen, "activation_gradients", rows_of({name: watch.real(g) for name, g in gradients.items()}))
    tokens = probe.tokens or max((layer.places for layer in taken.layers.values()), default=0)
    seen.units, arrays = counted(taken.layers, tokens)
    seen.arrays |= arrays
    seen.facts["tokens"] = tokens
    return seen


def rows_of(tensors: dict[str, Tensor]) -> Rows:
    rows = Rows()
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            rows.add(name, tensor)
    return rows


def into(seen: Observation, kind: str, rows: Rows) -> None:
    """Put the rows of one kind into an observation."""
    names, found, counts = rows.results()
    if names:
        seen.names[kind] = names
        seen.arrays[f"{kind}/moments"], seen.arrays[f"{kind}/histogram"] = found, counts


__all__ = ["Probe", "into", "look", "probe_of", "probe_of_config", "rows_of"]
