"""Which parts cannot go together, and why: every such rule of the house, in one function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.init.schemes import ByRole, Zeros
from nanogpt.init.schemes import DeepNorm as DeepNormScheme
from nanogpt.model.ends import NoHead, TiedHead
from nanogpt.model.norms import BatchNorm
from nanogpt.model.part import Nothing
from nanogpt.model.positions import Position
from nanogpt.model.residuals import LayerScale, ReZero
from nanogpt.parts import is_users, number

if TYPE_CHECKING:
    from nanogpt.model.language_model import LanguageModel


def check_compatible(model: LanguageModel) -> None:
    """Raise UserError for parts that were built, each rightly, but cannot work together."""
    if isinstance(model.head, NoHead) and model.dim != model.vocab_size:
        raise UserError(
            f"model.head=none: the stream itself is the logits, so model.dim={model.dim} must be the vocabulary's "
            f"size, {model.vocab_size}; nearest: model.dim=vocab"
        )
    if isinstance(model.head, TiedHead) and model.scheme.unties:
        raise UserError(
            "model.head=tied: mup makes the head smaller and slower than the embedding as a model gets wider, and one "
            "matrix cannot be both; nearest: model.head=linear"
        )
    table = getattr(model.embed, "weight", None)
    if isinstance(model.head, TiedHead) and isinstance(table, Tensor) and table.shape != (model.vocab_size, model.dim):
        raise UserError(
            f"model.head=tied: the embedding is {table.shape[0]} x {table.shape[1]} numbers, and a head needs "
            f"{model.vocab_size} x {model.dim}; nearest: model.head=linear"
        )
    _check_zeros(model)
    for which, position in enumerate(list[Any](model.position)):
        blocks = [block for block in list[Any](model.blocks) if model._position_of[block.layer] == which]
        _check_position(position, [block.mixer for block in blocks])


def check_rows(model: nn.Module, rows: int, processes: int) -> None:
    """Raise UserError where batch normalisation would see a single text, or only this process's share of a batch.

    rows: texts in one pass of one process.
    """
    if not any(isinstance(module, (BatchNorm, nn.modules.batchnorm._BatchNorm)) for module in model.modules()):
        return
    if processes > 1:
        raise UserError(
            f"model.norm=batchnorm on {processes} processes: each would norm its own rows and keep running statistics "
            "of its own; nearest: one process"
        )
    if rows < 2:
        raise UserError(
            "model.norm=batchnorm needs at least 2 rows in a pass, and train.batch / train.accumulate is 1: it would "
            "norm each text by itself, later tokens included; nearest: train.batch=2 train.accumulate=1"
        )


def _check_zeros(model: LanguageModel) -> None:
    """0 * 0 does not learn: the gradient of each factor is the other."""
    if not _writes_zeros(model.scheme):
        return
    for join in (m for m in model.modules() if isinstance(m, ReZero) or (isinstance(m, LayerScale) and not m.init)):
        raise UserError(
            f"model.layout: residual={join.spec} starts at 0, and model.init={model.scheme.spec.name} lets what it "
            "multiplies start at 0 too, so that neither would ever get a gradient; nearest: model.init=gpt2"
        )


def _writes_zeros(scheme: Any) -> bool:
    """Whether the matrices that write to the stream start at zero."""
    if isinstance(scheme, ByRole):
        return _writes_zeros(scheme._of.get("residual", scheme.rest))
    return isinstance(scheme, Zeros) or (isinstance(scheme, DeepNormScheme) and _writes_zeros(scheme.rest))


def _check_position(position: Position, mixers: list[Any]) -> None:
    """What a position does inside attention needs attention in some layer that has it, and one number of heads."""
    kind, name = type(position), position.spec.name
    biased = kind.bias is not Position.bias
    if not biased and kind.rotate is Position.rotate:
        return
    heads = [{number(part, "heads", 0) for part in mixer.modules()} - {0} for mixer in mixers]
    users = any(is_users(part) for mixer in mixers for part in mixer.modules())
    without = [m for m, found in zip(mixers, heads, strict=True) if not found and not isinstance(m, Nothing)]
    if without and not users and not any(heads):
        raise UserError(
            f"model.position={name} acts inside attention, and model.mixer={without[0].spec.name} has none; "
            "nearest: model.position=none"
        )
    different = sorted(set[int]().union(*heads))
    if biased and number(position, "heads", 0) and len(different) > 1:
        raise UserError(
            f"model.position={name}: its layers have {' and '.join(map(str, different))} heads, and its bias is for "
            f"one number of them; nearest: heads={different[-1]} in each"
        )
