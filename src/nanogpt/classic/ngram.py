"""Language models that are counted, not trained: n-grams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanogpt.classic.counts import count, rows_ending_at
from nanogpt.classic.smoothing import SMOOTHINGS, Smoothing
from nanogpt.errors import UserError
from nanogpt.model.part import Flow, Part
from nanogpt.parts import between, build


@dataclass
class History:
    """The last tokens of each row, (B, order - 1)."""

    tokens_BM: Tensor


class NGram(Part):
    """log p(next token | the last order - 1 tokens of its own text), from counts: tokens_BT -> (B, T, V).

    The stream is the log-probabilities, so it goes with dim=vocab, n_layers=0, head=none, and has no weights to train:
    `fit` counts the training text. At a text's beginning the context is shorter; a document begins with
    <|endoftext|>, which is the context of its first token. A probability of 0, which only add(k=0) gives, is written
    as the smallest number of its format (87 nats in fp32), so that every loss is finite.
    order: tokens of an n-gram, the predicted one counted: 2 is the bigram. smoothing: of `nanogpt.classic.smoothing`:
    add(k), kneser_ney(discounts), interpolated(held_out). Shannon 1948; Jelinek & Mercer 1980; Chen & Goodman 1998.
    """

    values_1: Tensor

    def __init__(self, *, dim: int, vocab_size: int, order: int = 3, smoothing: str = "kneser_ney") -> None:
        super().__init__()
        between(1, 33, order=order)
        if dim != vocab_size:
            raise UserError(
                f"the stream is one number for each token, so model.dim={dim} must be the vocabulary's size, "
                f"{vocab_size}; nearest: model.dim=vocab"
            )
        self.order, self.vocab_size = order, vocab_size
        self.smoothing: Smoothing = build(SMOOTHINGS, smoothing, order=order, vocab_size=vocab_size)
        self.register_buffer("values_1", torch.zeros(vocab_size))
        for level in range(2, order + 1):
            self.register_buffer(f"keys_{level}", torch.zeros(0, dtype=torch.long))
            self.register_buffer(f"values_{level}", torch.zeros(0))

    def fit(self, ids: np.ndarray, starts: np.ndarray | None) -> str:
        """Count a text. starts: place of the <|endoftext|> before each document, and of the last one; None: one
        stream. Returns what was found, in a line."""
        device, dtype = self.values_1.device, self.values_1.dtype
        tokens = torch.from_numpy(ids.astype(np.int64)).to(device)
        begins = None if starts is None else torch.from_numpy(starts.astype(np.int64)).to(device)
        tables = count(tokens, begins, self.order, self.vocab_size)
        values = self.smoothing.values(tables, tokens, begins)
        for level, (table, value) in enumerate(zip(tables, values, strict=True), 1):
            if level > 1:
                setattr(self, f"keys_{level}", table.keys)
            setattr(self, f"values_{level}", value.to(dtype))
        found = ", ".join(f"{int((t.counts > 0).sum()):,} {n}-grams" for n, t in enumerate(tables, 1))
        return f"{len(tokens) - 1:,} tokens: {found}"

    def new_state(self, batch: int, capacity: int) -> History:
        return History(torch.zeros(batch, self.order - 1, dtype=torch.long, device=self.values_1.device))

    def forward(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        B, T = tokens_BT.shape
        lengths_BT = (flow.positions_BT + 1).clamp(max=self.order - 1).expand(B, T)
        rows = [torch.where(lengths_BT >= n, row, -1).flatten() for n, row in enumerate(self._rows(tokens_BT, flow), 1)]
        weights = self.smoothing.weights(rows, lengths_BT.flatten())
        p = weights[:, :1] / self.vocab_size + weights[:, 1:2] * self.values_1
        for level, row in enumerate(rows, 2):
            self._add_level(p, level, row, weights[:, level])
        return p.clamp_(min=torch.finfo(p.dtype).tiny).log_().view(B, T, self.vocab_size)

    def _rows(self, tokens_BT: Tensor, flow: Flow) -> list[Tensor]:
        """Row of the context of each length 1 ... order - 1 that ends at each token, (B, T)."""
        B, M = len(tokens_BT), self.order - 1
        state: History | None = flow.state(self)
        before = tokens_BT.new_zeros(B, M) if state is None else state.tokens_BM
        mask_BT = flow.mask_BT
        if mask_BT is None:
            history, column = torch.cat([before, tokens_BT], 1), None
        else:  # the real tokens side by side, and where each of them stands now
            beside = tokens_BT.gather(1, mask_BT.long().argsort(dim=1, descending=True, stable=True))
            history, column = torch.cat([before, beside], 1), (mask_BT.cumsum(1) - 1).clamp(min=0)
        if state is not None:
            seen = tokens_BT.shape[1] if mask_BT is None else mask_BT.sum(1, keepdim=True)
            state.tokens_BM = history.gather(1, seen + torch.arange(M, device=history.device).expand(B, M))
        keys = [getattr(self, f"keys_{level}") for level in range(2, self.order)]
        rows = [row[:, M:] for row in rows_ending_at(keys, history, self.vocab_size)][:M]
        return rows if column is None else [row.gather(1, column) for row in rows]

    def _add_level(self, p_NV: Tensor, level: int, row_N: Tensor, weight_N: Tensor) -> None:
        """Add weight times value for the continuations of each context: they are neighbours in the table."""
        V, keys = self.vocab_size, getattr(self, f"keys_{level}")
        here = (row_N >= 0).nonzero()[:, 0]
        begin, end = (torch.searchsorted(keys, (row_N[here] + n) * V) for n in (0, 1))
        many = end - begin
        at = torch.arange(int(many.sum()), device=keys.device) + torch.repeat_interleave(end - many.cumsum(0), many)
        place = torch.repeat_interleave(here, many)
        values: Tensor = getattr(self, f"values_{level}")
        p_NV.view(-1).index_add_(0, place * V + keys[at] % V, weight_N[place] * values[at])
