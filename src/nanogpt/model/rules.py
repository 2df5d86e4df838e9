"""Which parts cannot go together, and why: every such rule of the house, in one function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanogpt.errors import UserError
from nanogpt.model.ends import NoHead

if TYPE_CHECKING:
    from nanogpt.model.language_model import LanguageModel


def check_compatible(model: LanguageModel) -> None:
    """Raise UserError for parts that were built, each rightly, but cannot work together."""
    if isinstance(model.head, NoHead) and model.dim != model.vocab_size:
        raise UserError(
            f"model.head=none: the stream itself is the logits, so model.dim={model.dim} must be the vocabulary's "
            f"size, {model.vocab_size}; nearest: model.dim=vocab"
        )
