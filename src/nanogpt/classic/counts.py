"""Counts of n-grams as sorted tables: what n-gram models are made of.

The table of level k holds every k-gram that was seen, as one number: key = (row of its first k-1 tokens in the table
of level k-1) * V + its last token. Sorted, so a look-up is a binary search, and the continuations of a context are
neighbours; and no key outgrows 64 bits, whatever the order and the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Table:
    """The n_k distinct k-grams of a text, in the order of their keys."""

    keys: Tensor
    """(n_k,)"""
    counts: Tensor
    """(n_k,) how often each was seen"""
    context: Tensor
    """(n_k,) row of the first k-1 tokens in the table below; 0 at level 1, where the context is empty"""
    contexts: int
    """Rows of the table below: how many contexts there could be."""
    suffix: Tensor
    """(n_k,) row of the last k-1 tokens in the table below; 0 at level 1"""
    first: Tensor
    """(n_k,) how often it was seen with nothing before it: at the beginning of a text"""

    def sums(self, values: Tensor) -> Tensor:
        """The values of each context's continuations, added up: (n_k,) -> (contexts,)."""
        return torch.zeros(self.contexts, dtype=values.dtype, device=values.device).index_add_(0, self.context, values)


def count(ids: Tensor, starts: Tensor | None, order: int, vocab_size: int) -> list[Table]:
    """Tables of level 1 to `order`, of all tokens that follow another. ids (n,); starts: first token of each document.

    A document's start is the last token of the one before too: what it follows and what follows it never meet.
    """
    V, last = vocab_size, ids[1:]
    place = _places(ids, starts)[:-1]
    once = torch.bincount(last, minlength=V)
    none = torch.zeros(V, dtype=torch.long, device=ids.device)
    tables = [Table(torch.arange(V, device=ids.device), once, none, 1, none, none)]
    gram, context = last, ids[:-1]  # row of the gram that ends at t + 1; row of the one that ends at t
    for level in range(2, order + 1):
        seen = place + 1 >= level - 1  # so many tokens of the same text there must be
        keys, row, counts = torch.unique(context[seen] * V + last[seen], return_inverse=True, return_counts=True)
        suffix = torch.empty_like(keys)
        suffix[row] = gram[seen]
        first = torch.bincount(row[place[seen] + 1 == level - 1], minlength=len(keys))
        tables.append(Table(keys, counts, keys // V, len(tables[-1].keys), suffix, first))
        gram = torch.full_like(last, -1)
        gram[seen] = row
        context = torch.cat([gram.new_full((1,), -1), gram[:-1]])
    return tables


def _places(ids: Tensor, starts: Tensor | None) -> Tensor:
    """Place of each token in its own text."""
    place = torch.arange(len(ids), device=ids.device)
    if starts is None:
        return place
    return place - starts[torch.searchsorted(starts, place, right=True) - 1]


def lookup(keys: Tensor, wanted: Tensor) -> Tensor:
    """Row of each wanted key, -1 where it was never seen."""
    if not len(keys):
        return torch.full_like(wanted, -1)
    row = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[row] == wanted, row, -1)


def rows_ending_at(keys: list[Tensor], tokens_BT: Tensor, vocab_size: int) -> list[Tensor]:
    """Row of the k-gram that ends at each token, (B, T) for each of k = 1, 2, ...; -1 where it was never seen.

    keys: of the tables from level 2.
    """
    rows = [tokens_BT]
    for table in keys:
        before = torch.cat([tokens_BT.new_full((len(tokens_BT), 1), -1), rows[-1][:, :-1]], 1)
        found = lookup(table, before * vocab_size + tokens_BT)
        rows.append(torch.where(before < 0, -1, found))
    return rows
