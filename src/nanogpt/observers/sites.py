"""Where a model is observed, and what is taken there while it runs.

Every module that has parameters or is an activation, leaf or composite, under its name in `named_modules`, and of gated
units the product (`blocks.3.ffn`: what its matrix `out` reads). A tensor that several modules return has the name of
the innermost. What is called several times in a pass is taken the first time; units count every time. One activation
in several places is several layers, and one that is called as a function is one too (feeds.py has their names).

B batch, T time, U units of a layer, N tokens or places where a layer was used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.activations import Identity
from nanogpt.model.ffn import Gated
from nanogpt.observers.feeds import Feeds, matrix
from nanogpt.observers.rest import PRODUCT, Rest, is_activation, rest_of
from nanogpt.observers.statistics import Rows
from nanogpt.observers.store import Units

NO_SITE = (nn.ModuleList, nn.ModuleDict, nn.Identity, nn.modules.dropout._DropoutNd, Identity)
ROOT = "model"
"""Name of a model that is one module."""


@dataclass(frozen=True)
class Site:
    """A module under observation. `rest`: of an activation."""

    name: str
    module: nn.Module
    activation: bool = False
    gated: bool = False
    function: bool = False


def sites(model: nn.Module) -> list[Site]:
    """The observed modules of a model, in its own order."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, NO_SITE):
            continue
        bends = is_activation(module)
        if bends or next(module.parameters(), None) is not None:
            found.append(Site(name or ROOT, module, bends, isinstance(module, Gated)))
    return found


@dataclass
class Layer:
    """Units of one layer, counted over a pass."""

    site: Site
    rest: Rest
    active: Tensor
    """(U,) places where each is active."""
    places: int
    bias: Tensor | None
    norm: Tensor | None


@dataclass
class Taken:
    """What one forward pass gave."""

    layers: dict[str, Layer] = field(default_factory=dict)
    edges: dict[str, Any] = field(default_factory=dict)
    """Name -> where in the graph the gradient of that activation arrives."""
    _outputs: dict[tuple[int, int, int], str] = field(default_factory=dict)
    """(memory, numbers, version) of every tensor taken -> its name."""
    _kept: list[Tensor] = field(default_factory=list)
    """Every output, so that its memory is not used again within the pass."""


class Watch:
    """The hooks of one pass. `rows`: where activations go; `places`: the numbers of the real tokens among B T, where
    others are padding; `rests`: what is known of activations from earlier passes."""

    def __init__(
        self, found: list[Site], rows: Rows, places: Tensor | None, shape: tuple[int, ...], rests: dict[str, Rest]
    ) -> None:
        self.sites, self.rows, self.places, self.shape, self.rests = found, rows, places, shape, rests
        self.taken = Taken()
        self.feeds = Feeds({id(site.module): site.name for site in found})
        self._trying = False

    @contextmanager
    def attached(self) -> Iterator[Taken]:
        handles = []
        for site in self.sites:
            handles.append(site.module.register_forward_hook(self._hook(site)))
            if site.gated:
                handles.append(site.module.out.register_forward_pre_hook(self._product(site)))  # type: ignore[union-attr]
        try:
            yield self.taken
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, site: Site) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            y = first_tensor(output)
            if y is None:
                return
            x = first_tensor(inputs)
            if site.activation:
                self._units(site, y, x)
            else:
                self._record(site.name, y)
            self.feeds.ran(module, x, y)

        return hook

    def function(self, name: str, module: nn.Module, y: Tensor, x: Tensor) -> None:
        """An activation that was called as a function."""
        if not self._trying:
            self._units(Site(name, module, activation=True, function=True), y, x)

    def _product(self, site: Site) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            y = first_tensor(inputs)
            if y is not None:
                self._units(site, y, None)

        return hook

    def _record(self, name: str, y: Tensor, saturated: float | Tensor = math.nan) -> None:
        taken = self.taken
        key = (y.data_ptr(), y.numel(), y._version)
        if key in taken._outputs or name in taken.edges:
            return
        taken._outputs[key] = name
        taken._kept.append(y)
        taken.edges[name] = torch.autograd.graph.get_gradient_edge(y) if y.requires_grad else None
        self.rows.add("activations", name, self.real(y.detach()), saturated)

    @torch.no_grad()
    def _units(self, site: Site, y: Tensor, x: Tensor | None) -> None:
        made = self.feeds.producer(x)
        name = self.feeds.name(site.name, made, site.function)
        rest = self._rest(name, site.module, x)
        along = self._along(y, x)
        resting = self.real(rest.resting(y))
        U = y.shape[along]
        rested = resting.movedim(along, -1).reshape(-1, U) if resting.ndim == y.ndim else resting.reshape(-1, U)
        places = len(rested)
        active = places - rested.sum(0)
        with torch.enable_grad():
            self._record(name, y, rested.float().mean() if rest.kind == "bounded" else math.nan)
        layer = self.taken.layers.get(name)
        if layer is None:
            bias, norm = self._incoming(site, x, made, U)
            self.taken.layers[name] = Layer(site, rest, active, places, bias, norm)
        elif len(layer.active) == U:
            layer.active, layer.places = layer.active + active, layer.places + places

    def _rest(self, name: str, module: nn.Module, x: Tensor | None) -> Rest:
        if x is None:
            return PRODUCT
        if name not in self.rests:
            self._trying = True  # what is tried is no part of the pass
            self.rests[name] = rest_of(module, x.shape[self._along(x, x)])
            self._trying = False
        return self.rests[name]

    def _along(self, y: Tensor, x: Tensor | None) -> int:
        """The dimension of the units: the channels of what a convolution has made, the last one elsewhere."""
        if y.ndim < 3 or x is None:
            return -1
        convolved = any(isinstance(made, nn.modules.conv._ConvNd) for made in self.feeds.path(x))
        return 1 if convolved or y.ndim > 3 else -1

    def real(self, y: Tensor) -> Tensor:
        """Without padding, where the leading dimensions are those of the tokens."""
        if self.places is None or tuple(y.shape[: len(self.shape)]) != self.shape:
            return y
        return y.flatten(0, len(self.shape) - 1)[self.places]

    def _incoming(
        self, site: Site, x: Tensor | None, made: nn.Module | None, U: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Bias and norm of the incoming weights of each unit, (U,)."""
        path = self.feeds.path(x) if x is not None else []
        if not path or matrix(path[-1]) is None:  # what was computed in between has no name: the last that fits
            parent = site.name if site.gated else site.name.rpartition(".")[0]
            path = [m for m in self._siblings(parent) if _fits(m, U)][-1:]
            path = [made] if not path and made is not None and _fits(made, U) else path
        bias = next((b for m in path if isinstance(b := getattr(m, "bias", None), Tensor)), None)
        weight = matrix(path[-1]) if path else None
        if weight is None:
            return None, None
        square = weight.detach().float().flatten(1).square().sum(1)
        return (None if bias is None else _per_unit(bias.detach().float(), U, torch.mean)), (
            None if (total := _per_unit(square, U, torch.sum)) is None else total.sqrt()
        )

    def _siblings(self, parent: str) -> list[nn.Module]:
        ran = self.feeds.modules()
        return [s.module for s in self.sites if s.name.rpartition(".")[0] == parent and id(s.module) in ran]


def called(module: nn.Module) -> str:
    """What an activation is called: ours by its spec, a function by its name, PyTorch's and others by their class."""
    spec, function = getattr(module, "spec", None), getattr(module, "called", None)
    return str(function or (spec.name if spec is not None else type(module).__name__.lower()))


def _fits(module: nn.Module, U: int) -> bool:
    weight = matrix(module)
    return weight is not None and (len(weight) % U == 0 or U % len(weight) == 0)


def _per_unit(rows: Tensor, U: int, together: Any) -> Tensor | None:
    """One number for each unit, where a unit has several neighbouring rows (maxout) or a row several units (CReLU)."""
    if len(rows) % U == 0:
        return together(rows.view(U, -1), 1)
    return rows.repeat(U // len(rows)) if U % len(rows) == 0 else None


def first_tensor(value: Any) -> Tensor | None:
    """The first floating-point tensor with a dimension in what a module took or returned."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() and value.ndim and value.numel() else None
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return next((found for item in values if (found := first_tensor(item)) is not None), None)


def counted(layers: dict[str, Layer], tokens: int) -> tuple[list[Units], dict[str, Any]]:
    """The units and their arrays. A layer that was used in another number of places than the probe has tokens, as an
    expert or a convolution is, has its share of the tokens; never, and always, stay what they are."""
    units = [
        Units(name, len(layer.active), layer.rest.kind, called(layer.site.module)) for name, layer in layers.items()
    ]
    if not units:
        return [], {}
    active, bias, norm = [], [], []
    for layer in layers.values():
        count, nothing = layer.active, torch.full((len(layer.active),), math.nan, device=layer.active.device)
        if layer.places != tokens:
            share = (count * (tokens / max(1, layer.places))).round().long().clamp(1, max(1, tokens - 1))
            count = torch.where(count == 0, 0, torch.where(count == layer.places, tokens, share))
        active.append(count)
        bias.append(nothing if layer.bias is None else layer.bias)
        norm.append(nothing if layer.norm is None else layer.norm)
    return units, {
        "neurons/active": torch.cat(active).cpu().numpy().astype("uint32"),
        "neurons/bias": torch.cat(bias).half().cpu().numpy(),
        "neurons/norm": torch.cat(norm).half().cpu().numpy(),
    }
