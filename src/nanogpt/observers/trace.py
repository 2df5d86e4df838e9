"""By hand: every activation of one pass by its name.

import nanogpt as ng
model = ng.load("runs/mine")
seen = ng.trace(model, "To be")
seen["blocks.2.ffn"], seen["blocks.0.mixer.attend.weights"], seen.logits

B batch, T time, H heads, S keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.errors import UserError, nearest
from nanogpt.model.attention import Attend
from nanogpt.observers.attention import weighed
from nanogpt.observers.layers import layers_of
from nanogpt.observers.sites import first_tensor, sites
from nanogpt.observers.undisturbed import device_of, eager, undisturbed

WEIGHTS = ".weights"
"""What attention weights are called after the name of their module, (B, H, T, S)."""


class Trace(Mapping[str, Tensor]):
    """Activations by the names of their modules, in the order in which they came out; of a module that ran several
    times, the first. Those called as functions have the observers' names, `layers.0.relu@linear1`, and so has a module
    that several matrices feed, `act@fc2`. `logits`: what the whole model returned; `tokens`: what it read, where it was
    a text."""

    def __init__(self, found: dict[str, Tensor], logits: Tensor, tokens: Tensor | None) -> None:
        self._found, self.logits, self.tokens = found, logits, tokens

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._found:
            raise UserError(f"no activation '{name}'{nearest(name, self._found)}")
        return self._found[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._found.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        rows = (f"{name:<40} {' x '.join(map(str, x.shape))}" for name, x in self._found.items())
        return "\n".join([f"Trace of {len(self)} activations", *rows])


@torch.no_grad()
def trace(model: Any, text: Any) -> Trace:
    """Run a model once, in evaluation mode and without a trace on it, and return every activation by name.

    model: a loaded run (`ng.load`), a language model, or any torch.nn.Module. text: for a loaded run a text; else token
    ids, a list or a tensor (T,) or (B, T), or whatever tensors the module takes (a tuple is several arguments).
    UserError where a text is given to what has no tokenizer.
    """
    module, inputs = module_of(model), _inputs(model, text)
    found: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        if name not in found:
            found[name] = x.detach().clone()  # a later part may write into it

    def hook(name: str) -> Any:
        def ran(one: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if (x := first_tensor(output)) is not None:
                keep(name, x)
                if isinstance(one, Attend) and name + WEIGHTS not in found:
                    found[name + WEIGHTS] = _weights(*args[:2], **kwargs)

        return ran

    with undisturbed(module), ExitStack() as stack:
        observed = sites(module)
        layers = {id(site.module) for site in observed if site.activation}
        for name, one in module.named_modules():
            if name and id(one) not in layers:
                stack.callback(one.register_forward_hook(hook(name), with_kwargs=True).remove)
        stack.enter_context(layers_of(module, observed, keep))
        try:
            out = module(*inputs)
        except IndexError as error:  # PyTorch's words for an id that no row of a table has
            raise UserError(f"trace: {error}{_range(module)}") from None
    logits = first_tensor(out)
    if logits is None:
        raise UserError(f"trace: {type(module).__name__} returned no tensor")
    tokens = inputs[0] if isinstance(inputs[0], Tensor) and not inputs[0].is_floating_point() else None
    return Trace(found, logits.detach(), tokens)


def _weights(q_BHTE: Tensor, k_BKSE: Tensor, *, visible: Tensor | None, bias: Tensor | None, scale: Any,
             softcap: float = 0.0, **_: Any) -> Tensor:  # fmt: skip
    rows = torch.arange(q_BHTE.shape[2], device=q_BHTE.device)
    return weighed(q_BHTE, k_BKSE, rows, visible=visible, bias=bias, scale=scale, softcap=softcap).softmax(-1)


def module_of(model: Any) -> nn.Module:
    """The module itself: of a loaded run its model, of a compiled one what was compiled."""
    found = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(found, nn.Module):
        raise UserError(f"a {type(model).__name__} is neither a torch.nn.Module nor a loaded run")
    return eager(found)


def _inputs(model: Any, text: Any) -> tuple[Any, ...]:
    module = module_of(model)
    device = device_of(module)
    if isinstance(text, str):
        tokenizer = getattr(model, "tokenizer", None)
        if tokenizer is None:
            raise UserError("trace: a text needs a tokenizer, which a loaded run has (ng.load); give token ids instead")
        text = tokenizer.encode(text).tolist()
        if not text:
            raise UserError("trace: an empty text has no tokens")
    if isinstance(text, tuple):
        return tuple(x.to(device) if isinstance(x, Tensor) else x for x in text)
    if isinstance(text, Sequence):
        try:
            text = torch.tensor(text)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"trace: {str(text)[:60]} is no list of token ids ({error})") from None
    if text is None or (isinstance(text, Tensor) and not text.numel()):
        raise UserError(f"trace: {'None' if text is None else 'an empty list'} has no tokens")
    if isinstance(text, Tensor) and text.ndim == 1 and not text.is_floating_point():
        text = text[None]
    return (text.to(device) if hasattr(text, "to") else text,)


def _range(module: nn.Module) -> str:
    size = getattr(module, "vocab_size", None)
    return f"; token ids are from 0 to {size - 1}" if isinstance(size, int) else ""
