"""One pass on the meta device, where there are shapes and no numbers: what a part of the user's gets wrong in
`forward` is said in one line before any data is read."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.model.part import Nothing
from nanogpt.parts import field, is_users, number


def rehearse(model: Any) -> None:
    """Run the losses of a few tokens through a model on the meta device. Raises UserError, naming the field."""
    parts = [(path, m) for path, m in model.named_modules() if hasattr(m, "spec")]  # not what a user's part is made of
    handles = [part.register_forward_hook(_shape_check(path, model)) for path, part in parts]
    try:
        with torch.device("meta"), torch.no_grad():
            rows = 1 if model.context > 1 else 2  # batch normalisation needs two tokens
            tokens_BT = torch.zeros(rows, min(model.context, 8), dtype=torch.long)
            model.losses(tokens_BT, tokens_BT)
    except UserError:
        raise
    except Exception as error:
        if "meta" not in str(error).lower():  # else it needs numbers, or an operation without shapes: cannot be told
            _blame(model, error)
    finally:
        for handle in handles:
            handle.remove()


def _shape_check(path: str, model: Any) -> Callable[[nn.Module, Any, Any], None]:
    """A hook for the part at this path; it says nothing where the shape of the output is the part's own affair."""
    last = path.rpartition(".")[2]
    widths = {"embed": model.dim, "head": model.vocab_size}

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if not inputs:  # called with names
            return
        if path in widths:
            wanted = (*inputs[0].shape[:2], widths[path])
        elif last == "act":
            *lead, width = inputs[0].shape
            wanted = (*lead, width * number(module, "outputs", 1) // max(1, number(module, "inputs", 1)))
        elif (last in ("mixer", "ffn") or last.endswith("norm")) and not isinstance(module, Nothing):
            wanted = tuple(inputs[0].shape)
        else:
            return
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if got != wanted:
            with field(_field(path)):
                raise UserError(f"{_name(module)} must give a tensor of shape {wanted}; it gives {got}")

    return hook


def _blame(model: Any, error: Exception) -> None:
    """Say whose error it is: of the innermost part of the user's at work, or of what one of them gave to the others."""
    parts = {id(m): (path, m) for path, m in model.named_modules() if is_users(m)}
    what = f"{type(error).__name__}: {error}"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        path, part = parts.get(id(frame.f_locals.get("self")), ("", None))
        if part is not None:
            with field(_field(path)):
                raise UserError(f"{_name(part)}, line {line}: {what}") from error
    if not parts:
        raise error
    fields = ", ".join(dict.fromkeys(_field(path) for path, _ in parts.values()))
    names = ", ".join(dict.fromkeys(_name(part) for _, part in parts.values()))
    with field(fields):
        raise UserError(f"{names}: the rest of the model cannot work with what it gives: {what}") from error


def _field(path: str) -> str:
    """`blocks.0.mixer_norm` -> `model.norm`: the setting that put a module where it is."""
    first, *rest = path.split(".")
    if first == "blocks":
        first = rest[1] if len(rest) > 1 else "layout"
        first = "norm" if first.endswith("norm") else first if first in ("mixer", "ffn") else "layout"
    return f"model.{first}"


def _name(module: nn.Module) -> str:
    return str(getattr(getattr(module, "spec", None), "name", type(module).__name__))
