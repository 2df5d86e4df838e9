"""One look at a model: a forward and a backward pass over a fixed batch, uncompiled and apart from training.

    loss -> activations and their gradients, neurons; of a language model also the stream, what it would say at each
    depth, its attention and its output

The model is in evaluation mode (no dropout), but for batch normalisation; nothing of it, and no random state, is
changed. Gradients of parameters are not touched: `torch.autograd.grad` hands back those that are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from nanogpt.model.language_model import LanguageModel
from nanogpt.observers.functions import Functions, unseen
from nanogpt.observers.language import Reading
from nanogpt.observers.probes import Probe, probe_of, probe_of_config
from nanogpt.observers.sites import Taken, Watch, counted, sites
from nanogpt.observers.statistics import Rows
from nanogpt.observers.store import KINDS, Observation
from nanogpt.observers.undisturbed import eager, undisturbed


def look(
    model: nn.Module, probe: Probe, step: int = 0, *, weights: bool = True, rows: Rows | None = None
) -> Observation:
    """Look once. weights: also at the parameters and, by the probe's loss, their gradients; a training run has those of
    the real step instead, and `rows` are what was seen around it. Raises what the model raises; it is then as it was
    before, too."""
    started = time.perf_counter()
    model, rows, seen = eager(model), rows or Rows(), Observation(step, {}, {})
    with undisturbed(model):
        probe.sites = probe.sites or sites(model)
        watch = Watch(probe.sites, rows, probe.places, probe.shape, probe.rests)
        reading = Reading(model, probe.words) if probe.words and isinstance(model, LanguageModel) else None
        known = {id(site.module) for site in probe.sites if site.activation}
        functions = Functions(model, known, watch.function) if probe.functions else nullcontext()
        with torch.enable_grad(), probe.autocast(), watch.attached() as taken, reading or nullcontext(), functions:
            loss = probe.loss()
        probe.functions = any(layer.site.function for layer in taken.layers.values())
        parameters = dict(model.named_parameters()) if weights else {}
        _gradients(loss, taken, parameters, watch, rows)
        if loss is not None:
            seen.arrays["loss"] = np.array(float(loss.detach()), np.float32)
        if reading:
            with torch.no_grad(), probe.autocast():
                reading.into(seen)
        for name, parameter in parameters.items():
            rows.add("weights", name, parameter)
    into(seen, rows)
    tokens = probe.tokens or max((layer.places for layer in taken.layers.values()), default=0)
    seen.units, arrays = counted(taken.layers, tokens)
    seen.arrays |= arrays
    if dark := unseen(model):
        seen.facts["unseen"] = dark
    seen.facts |= {"tokens": tokens, "seconds": round(time.perf_counter() - started, 6)}
    return seen


def _gradients(loss: Tensor | None, taken: Taken, parameters: Mapping[str, Tensor], watch: Watch, rows: Rows) -> None:
    """Of the activations, and of these parameters."""
    if loss is None or not loss.requires_grad:
        return
    inputs = [("activation_gradients", name, edge) for name, edge in taken.edges.items() if edge is not None]
    inputs += [("weight_gradients", name, p) for name, p in parameters.items() if p.requires_grad]
    if not inputs:
        return
    found = torch.autograd.grad(loss, [one for _, _, one in inputs], allow_unused=True)
    for (kind, name, _), gradient in zip(inputs, found, strict=True):
        if gradient is not None:
            rows.add(kind, name, watch.real(gradient) if kind == "activation_gradients" else gradient)


def into(seen: Observation, rows: Rows) -> None:
    """Put rows into an observation, kind by kind."""
    found = rows.results()
    for kind in KINDS:
        if kind in found:
            seen.names[kind], seen.arrays[f"{kind}/moments"], seen.arrays[f"{kind}/histogram"] = found[kind]


__all__ = ["Probe", "into", "look", "probe_of", "probe_of_config"]
