"""What every part of a model shares, and what travels beside the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nanogpt.spec import Spec

Rule: TypeAlias = "str | Callable[[Tensor], Any]"


@dataclass
class Cache:
    """What a model remembers of the tokens that it has read, so that the next one costs one step.

    Each part with memory has one state in `states`, at its own `slot`; it owns the state's shape.
    """

    states: list[Any]
    capacity: int
    length: int = 0
    """Columns filled so far, padding included."""
    mask_BS: Tensor | None = None
    """True where a column holds a real token; None when all do."""


@dataclass
class Flow:
    """What travels beside the residual stream through one forward pass. B batch, T new tokens, S all tokens seen."""

    tokens_BT: Tensor
    positions_BT: Tensor
    """Place of each token in its own text: padding and earlier documents are not counted."""
    mask_BT: Tensor | None = None
    """True where there is a token, False where there is padding; None when there is no padding."""
    documents_BT: Tensor | None = None
    """Number of the document that a token belongs to; None when a row is one document."""
    cache: Cache | None = None
    position: list[Any] = field(default_factory=list)
    """The position part of each layer."""
    shared: dict[Any, Any] = field(default_factory=dict)
    """What one layer hands to a later one: first-layer values, shared keys and values."""
    losses: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Auxiliary losses by (name, layer): keyed, so that recomputing a layer does not count it twice."""
    memo: dict[Any, Any] = field(default_factory=dict)
    """Worked out once a pass and used by many layers: masks, rotary angles."""

    def state(self, part: Any) -> Any:
        """The memory of this part, or None when nothing is remembered."""
        return None if self.cache is None else self.cache.states[part.slot]

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    @property
    def columns(self) -> tuple[int, int]:
        """First and last column (exclusive) that the new tokens take in the cache."""
        start = 0 if self.cache is None else self.cache.length
        return start, start + self.tokens_BT.shape[1]

    def visible(self, window: int = 0) -> Tensor | None:
        """(B or 1, 1, T, S) True where a new token may look at a seen one; None where plain causality says it all.

        A token sees itself and what came before: in its own document, not padding, and within the last
        `window` tokens (0: all of them). A padding token sees itself, so that no row is empty.
        """
        return self.once(("visible", window), lambda: self._visible(window))

    def _visible(self, window: int) -> Tensor | None:
        start, end = self.columns
        mask_BS = self.mask_BT if self.cache is None else self.cache.mask_BS
        plain = mask_BS is None and self.documents_BT is None and (not window or end <= window)
        if plain and (start == 0 or end - start == 1):
            return None
        device = self.tokens_BT.device
        query_T1 = torch.arange(start, end, device=device)[:, None]
        key_S = torch.arange(end, device=device)
        visible = (key_S <= query_T1)[None]
        if window:
            visible = visible & (query_T1 - key_S < window)
        if self.documents_BT is not None:
            visible = visible & (self.documents_BT[:, :, None] == self.documents_BT[:, None, :])
        if mask_BS is not None:
            visible = visible & mask_BS[:, None, :end] | (query_T1 == key_S)
        return visible[:, None]


class Part(nn.Module):
    """A part of a model. A plain nn.Module will do as well; this one answers what a parent may ask.

    `slot` is this part's place in the cache, given out by the model to parts that have `new_state`.
    """

    slot: int
    spec: Spec
    together: tuple[str, ...] = ()
    """Children, matrices that read the same vectors: with weights converted for writing they multiply as one."""
    loops = False
    """Whether it goes through the tokens one by one: a compiler would unroll that loop, for minutes."""

    def rules(self) -> dict[str, Rule]:
        """How each of its own parameters starts: a role (see init/roles.py) or a function that fills it."""
        return {}

    def flops(self, tokens: int, context: int) -> float:
        """Floating-point operations of one forward pass over `tokens` tokens in windows of `context`."""
        return sum(flops(child, tokens, context) for child in self.children())


class Nothing(Part):
    """A mixer or ffn that adds nothing to the stream."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return x_BTD.new_zeros(())


def flops(module: nn.Module, tokens: int, context: int) -> float:
    """As `Part.flops`, for any module: a matrix of n weights costs 2 n operations a token; then its children's."""
    if isinstance(module, Part):
        return module.flops(tokens, context)
    if isinstance(module, nn.Linear):
        return 2.0 * module.weight.numel() * tokens
    return sum(flops(child, tokens, context) for child in module.children())
