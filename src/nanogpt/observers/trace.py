"""By hand: every activation of one pass by its name, and passes with one of them replaced.

import nanogpt as ng
model = ng.load("runs/mine")
seen = ng.trace(model, "To be")
seen["blocks.2.ffn"], seen["blocks.0.mixer.attend.weights"], seen.logits
with ng.ablate(model, "blocks.2.ffn"):
    ng.trace(model, "To be").logits

B batch, T time, H heads, S keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nanogpt.errors import UserError, nearest
from nanogpt.model.attention import Attend
from nanogpt.observers.attention import weighed
from nanogpt.observers.sites import first_tensor
from nanogpt.observers.undisturbed import device_of, eager, undisturbed

WEIGHTS = ".weights"
"""What attention weights are called after the name of their module, (B, H, T, S)."""


class Trace(Mapping[str, Tensor]):
    """Activations by the names of their modules, in the order in which they came out; of a module that ran several
    times, the first. `logits`: what the whole model returned; `tokens`: what it read, where it was a text."""

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
    module, inputs = _module(model), _inputs(model, text)
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(one: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = first_tensor(output)
            if x is None or name in found:
                return
            found[name] = x.detach().clone()  # a later part may write into it
            if isinstance(one, Attend):
                found[name + WEIGHTS] = _weights(*args[:2], **kwargs)

        return hook

    with undisturbed(module), ExitStack() as stack:
        for name, one in module.named_modules():
            if name:
                stack.callback(one.register_forward_hook(keep(name), with_kwargs=True).remove)
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


@contextmanager
def patch(model: Any, activations: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, these modules return these tensors, whatever they compute: `with ng.patch(model, {"blocks.0": x}): ...`.

    Each must have the shape of what it replaces, or one that broadcasts to it. UserError for a name that no module
    has, and, when the model runs, for a wrong shape.
    """
    module = _module(model)

    def put(name: str, new: Tensor) -> Any:
        def hook(one: nn.Module, args: Any, output: Any) -> Any:
            old = first_tensor(output)
            if old is None:
                raise UserError(f"patch: {name} returns no tensor to replace")
            try:
                shaped = new.to(old.device, old.dtype).expand(old.shape)
            except RuntimeError:
                raise UserError(
                    f"patch: {name} is {_shape(old)} here, and what it should become is {_shape(new)}"
                ) from None
            return _replaced(output, old, shaped)

        return hook

    if not isinstance(activations, Mapping):
        raise UserError(f"patch: the second argument must be {{name: tensor}}, not a {type(activations).__name__}")
    with ExitStack() as stack:
        for name, new in activations.items():
            if not isinstance(new, Tensor):
                raise UserError(f"patch: {name} must become a tensor, not {type(new).__name__}")
            stack.callback(_named(module, name).register_forward_hook(put(name, new)).remove)
        yield


@contextmanager
def ablate(model: Any, *names: str, by: Literal["zero", "mean"] = "zero") -> Iterator[None]:
    """Within, these modules return nothing of what they compute: zeros, or of each unit its mean over all tokens of
    the pass (all but the last dimension). UserError for a name that no module has."""
    if by not in ("zero", "mean"):
        raise UserError(f"ablate: by={by!r}: not one of its words{nearest(str(by), ['zero', 'mean'])}")
    module = _module(model)

    def hook(one: nn.Module, args: Any, output: Any) -> Any:
        old = first_tensor(output)
        if old is None:
            return output
        empty = torch.zeros_like(old) if by == "zero" else old.mean(tuple(range(old.ndim - 1)), keepdim=True)
        return _replaced(output, old, empty.expand(old.shape))

    with ExitStack() as stack:
        for name in names:
            stack.callback(_named(module, name).register_forward_hook(hook).remove)
        yield


def _module(model: Any) -> nn.Module:
    """The module itself: of a loaded run its model, of a compiled one what was compiled."""
    found = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(found, nn.Module):
        raise UserError(f"a {type(model).__name__} is neither a torch.nn.Module nor a loaded run")
    return eager(found)


def _inputs(model: Any, text: Any) -> tuple[Any, ...]:
    module = _module(model)
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


def _named(module: nn.Module, name: str) -> nn.Module:
    if not isinstance(name, str):
        raise UserError(f"the name of a module is a string, not a {type(name).__name__}; nearest: one of ng.trace's")
    known = dict(module.named_modules())
    if not name or name not in known:
        raise UserError(f"no module '{name}'{nearest(name, filter(None, known))}")
    return known[name]


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """The same output with its first tensor exchanged."""
    if output is old:
        return new
    if isinstance(output, Mapping):
        return type(output)({key: new if value is old else value for key, value in output.items()})  # type: ignore[call-arg]
    return type(output)(new if value is old else value for value in output)


def _shape(x: Tensor) -> str:
    return " x ".join(map(str, x.shape)) or "a number"
