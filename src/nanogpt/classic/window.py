"""What an embedding sees of the tokens before: the last N of a token's own text, and tables for each N of them.

B batch, T tokens, D dim, V vocabulary, N tokens in a window, R rows of a table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.kernels.dropout import dropout
from nanogpt.model.part import Flow, Part, Rule

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
"""2^64 divided by the golden ratio, as a signed number: products by it spread their high bits evenly, however close
the factors are (Knuth, volume 3, section 6.4)."""


class LastTokens:
    """The last N - 1 real tokens of each row, oldest first, (B, N - 1); None before the first pass."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None


class Window(Part):
    """The ids of the last N tokens of the same text, up to and with each one, oldest first: tokens_BT -> (B, T, N).

    blank: the id that stands before a text's first token, and for all that padding sees.
    """

    def __init__(self, tokens: int, blank: int) -> None:
        super().__init__()
        self.tokens, self.blank = tokens, blank

    def new_state(self, batch: int, capacity: int) -> LastTokens:
        return LastTokens()

    def forward(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        seen_BTN = self._seen(tokens_BT, flow)
        ago_N = torch.arange(self.tokens - 1, -1, -1, device=tokens_BT.device)
        own_BTN = flow.positions_BT[..., None] >= ago_N  # what lies further back is another text, padding, or nothing
        if flow.mask_BT is not None:
            own_BTN = own_BTN & flow.mask_BT[..., None]  # padding sees nothing: above all not the token after it
        return torch.where(own_BTN, seen_BTN, self.blank)

    def _seen(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        """The last N real tokens of the row, up to and with each one, (B, T, N); ids before its first are arbitrary."""
        B, T = tokens_BT.shape
        past, memory = self.tokens - 1, flow.state(self)
        before = None if memory is None else memory.ids
        ids_BS = torch.cat([tokens_BT.new_zeros(B, past) if before is None else before, tokens_BT], 1)
        if flow.mask_BT is None:
            windows_BTN, last_BP = ids_BS.unfold(1, self.tokens, 1), ids_BS[:, T:]
        else:
            real_BS = F.pad(flow.mask_BT, (past, 0), value=True)
            ids_BS = ids_BS.gather(1, (~real_BS).long().argsort(dim=1, stable=True))  # padding goes to the end
            number_BT = flow.mask_BT.cumsum(1)  # real tokens of this pass up to each
            first_BT = (number_BT - 1).clamp(min=0)
            columns_N = torch.arange(self.tokens, device=tokens_BT.device)
            windows_BTN = ids_BS.gather(1, (first_BT[..., None] + columns_N).flatten(1)).unflatten(1, (T, self.tokens))
            last_BP = ids_BS.gather(1, number_BT[:, -1:] + columns_N[:past])
        if memory is not None:
            memory.ids = last_BP
        return windows_BTN


class HashedNGrams(Part):
    """Sum over n = 2 ... N of a row of table n, which the last n tokens choose: tokens_BT -> (B, T, D).

    Where a table has a row for each n-gram that there can be, each has its own; else the row is a hash of it, and
    n-grams share rows by chance. A text's beginning is an n-gram too, with blanks before it. Tables start at zero: what
    training never met adds nothing. A lookup costs next to nothing, however many rows there are. Of a text that is read
    several times they soon know every n-gram by heart: `forget` is the share of rows that are left out while training,
    each alone and whole, so that the model learns to do without them too.
    """

    def __init__(self, dim: int, vocab_size: int, tokens: int, rows: int, forget: float) -> None:
        super().__init__()
        self.window = Window(tokens, vocab_size)
        self.ids, self.rows, self.forget = vocab_size + 1, rows, forget
        self.weight = nn.Parameter(torch.empty((tokens - 1) * rows, dim))

    def rules(self) -> dict[str, Rule]:
        return {"weight": nn.init.zeros_}

    def forward(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        x_BTnD = F.embedding(self.chosen(self.window(tokens_BT, flow)), self.weight)
        kept_BTn = dropout(torch.ones_like(x_BTnD[..., :1]), self.forget, self.training)
        return (x_BTnD * kept_BTn).sum(2)

    def chosen(self, ids_BTN: Tensor) -> Tensor:
        """Row of each n-gram in all tables put together, those of n = 2 first: (B, T, N - 1)."""
        N, chosen = ids_BTN.shape[2], []
        for n in range(2, N + 1):
            row_BT = torch.zeros_like(ids_BTN[..., 0])
            exact = self.ids**n <= self.rows
            for at in range(N - n, N):
                row_BT = row_BT * self.ids + ids_BTN[..., at] if exact else (row_BT + ids_BTN[..., at] + 1) * GOLDEN
            chosen.append((row_BT if exact else (row_BT >> 32) % self.rows) + (n - 2) * self.rows)
        return torch.stack(chosen, 2)

    def flops(self, tokens: int, context: int) -> float:
        return 0.0
