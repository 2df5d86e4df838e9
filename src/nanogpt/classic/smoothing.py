"""Smoothings: how counts become probabilities, and what an n-gram that was never seen gets.

All are a mixture over levels. With h_k the last k tokens, p_0 = 1 / V and `value` a number of the seen (k+1)-gram,

    p(w | h) = w_0 / V + sum_k  w_{k+1}(h) value_{k+1}(h_k w)

so a smoothing is fitted once: it gives each n-gram its value, and then only answers the weights of a context.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nanogpt.classic.counts import Table, count, lookup, rows_ending_at
from nanogpt.model.part import Part
from nanogpt.parts import at_least, between


class Smoothing(Part):
    """Tables of counts -> a value for each n-gram, and the weights of the levels in a context."""

    share_0: Tensor
    mix_0: Tensor

    def __init__(self, *, order: int, vocab_size: int) -> None:
        super().__init__()
        self.order, self.vocab_size = order, vocab_size

    def values(self, tables: list[Table], ids: Tensor, starts: Tensor | None) -> list[Tensor]:
        """The values of each table's n-grams, in float64."""
        raise NotImplementedError

    def weights(self, rows: list[Tensor], lengths_N: Tensor) -> Tensor:
        """(N, order + 1): of 1/V and of each level. rows: of the context of each length 1, 2, ..., (N,), -1 where it
        was never seen. lengths_N: how many tokens of context there are, order - 1 but for a text's beginning."""
        raise NotImplementedError

    def keep(self, name: str, level: int, values: Tensor) -> None:
        self.register_buffer(f"{name}_{level}", values)

    def of(self, name: str, level: int, rows: Tensor, unseen: float) -> Tensor:
        """What is kept for a context of this length; `unseen` where there is none."""
        kept: Tensor = getattr(self, f"{name}_{level}")
        if not len(kept):
            return torch.full_like(rows, unseen, dtype=kept.dtype)
        return torch.where(rows < 0, unseen, kept[rows.clamp(min=0)])


class Add(Smoothing):
    """p(w | h) = (c(h w) + k) / (c(h) + k V), h the last order - 1 tokens (fewer at a text's beginning).

    k: what is added to each count: 1 is Laplace's rule, 0 the maximum-likelihood estimate, which gives an n-gram that
    was never seen probability 0 (the n-gram model then says the smallest number there is). A context that was never
    seen has 1 / V for each token. Lidstone 1920; Karpathy's makemore 2022.
    """

    def __init__(self, *, order: int, vocab_size: int, k: float = 1.0) -> None:
        super().__init__(order=order, vocab_size=vocab_size)
        at_least(0, k=k)
        self.k = k
        for length in range(order):  # of 1 / V, by context
            self.keep("share", length, torch.ones(1 if length == 0 else 0))

    def values(self, tables: list[Table], ids: Tensor, starts: Tensor | None) -> list[Tensor]:
        values = []
        for length, table in enumerate(tables):
            added = self.k * self.vocab_size
            total = table.sums(table.counts).double()
            share = torch.where(total > 0, added / (total + added).clamp(min=1e-300), 1.0)
            self.keep("share", length, share.to(self.share_0.dtype))
            values.append(table.counts / (total + added)[table.context].clamp(min=1e-300))
        return values

    def weights(self, rows: list[Tensor], lengths_N: Tensor) -> Tensor:
        empty = torch.zeros_like(lengths_N)
        shares = [self.of("share", n, r, 1.0) for n, r in enumerate([empty, *rows])]
        share = torch.stack(shares, 1).gather(1, lengths_N[:, None])
        level = torch.nn.functional.one_hot(lengths_N + 1, self.order + 1).to(share.dtype)
        level[:, :1] = share
        return level


class KneserNey(Smoothing):
    """p_k(w | h) = max(c(h w) - D(c), 0) / c(h) + lambda(h) p_{k-1}(w | h'), h' = h without its first token.

    Interpolated. Below the highest level c(h w) is not how often h w was seen but after how many different tokens
    (with nothing before it: how often); p_0 = 1 / V; lambda(h) is what was taken away.
    discounts: "three" takes D_1, D_2, D_3+ from counts of 1, 2, 3 and more: Y = n_1 / (n_1 + 2 n_2),
    D_i = i - (i + 1) Y n_{i+1} / n_i, n_i being how many n-grams of the level have count i ("modified"); "one" takes Y
    from all. Where the text is so small that some n_i is 0: 0.5, 1 and 1.5, or 0.5 (KenLM's fallback).
    Kneser & Ney 1995; Chen & Goodman 1998, section 3; Heafield et al. 2013 for beginnings.
    """

    def __init__(self, *, order: int, vocab_size: int, discounts: Literal["three", "one"] = "three") -> None:
        super().__init__(order=order, vocab_size=vocab_size)
        self.discounts = discounts
        for length in range(order):
            self.keep("share", length, torch.ones(1 if length == 0 else 0))

    def values(self, tables: list[Table], ids: Tensor, starts: Tensor | None) -> list[Tensor]:
        values = []
        for length, table in enumerate(tables):
            counts = table.counts
            if length + 1 < len(tables):
                counts = torch.bincount(tables[length + 1].suffix, minlength=len(counts)) + table.first
            total = table.sums(counts).double()
            kept = (counts - self._discounts(counts)[counts.clamp(max=3)]).clamp(min=0)
            share = torch.where(total > 0, 1 - table.sums(kept) / total.clamp(min=1), 1.0)
            self.keep("share", length, share.to(self.share_0.dtype))
            values.append(kept / total.clamp(min=1)[table.context])
        return values

    def _discounts(self, counts: Tensor) -> Tensor:
        """(4,): of a count of 0, 1, 2, and 3 or more."""
        n = torch.bincount(counts, minlength=5)[:5].double()
        y = n[1] / (n[1] + 2 * n[2])
        if self.discounts == "one":
            found = y.repeat(3) if n[1] * n[2] > 0 else n.new_tensor([0.5, 0.5, 0.5])
        else:
            found = torch.stack([i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)])
            if not (n[1:] > 0).all() or not (found > 0).all():
                found = n.new_tensor([0.5, 1.0, 1.5])
        return torch.cat([n.new_zeros(1), found])

    def weights(self, rows: list[Tensor], lengths_N: Tensor) -> Tensor:
        empty = torch.zeros_like(lengths_N)
        levels, left = [], None
        for length, row in reversed(list(enumerate([empty, *rows]))):
            share = self.of("share", length, row, 1.0)
            left = torch.ones_like(share) if left is None else left
            levels.append(left)
            left = left * share
        assert left is not None
        return torch.stack([left, *reversed(levels)], 1)


class Interpolated(Smoothing):
    """p(w | h) = a_0(q) / V + a_1(q) f(w) + a_2(q) f(w | h_1) + ... + a_n(q) f(w | h_{n-1}), f = c(h w) / c(h).

    Deleted interpolation: the weights depend on how often the context was seen, q = ceil(-log((1 + c(h)) / T)), T
    tokens in all, and are fitted by EM on held-out text; then all of the text is counted. f after a context that was
    never seen is that of the shorter context. held_out: share of the training text at its end on which the weights
    are fitted. rounds: of EM. Jelinek & Mercer 1980; Bengio et al. 2003, section 3.3 (its trigram).
    """

    def __init__(self, *, order: int, vocab_size: int, held_out: float = 0.1, rounds: int = 30) -> None:
        super().__init__(order=order, vocab_size=vocab_size)
        between(0.001, 1, held_out=held_out)
        at_least(1, rounds=rounds)
        self.held_out, self.rounds = held_out, rounds
        for length in range(order):
            self.keep("bin", length, torch.full((1 if length == 0 else 0,), -1))
            self.keep("mix", length, torch.eye(length + 2)[:1])  # one row a bin, the last for contexts never seen

    def values(self, tables: list[Table], ids: Tensor, starts: Tensor | None) -> list[Tensor]:
        cut, bins = self._cut(ids, starts), _bin(torch.zeros(1), len(ids)).item() + 2
        dtype = self.mix_0.dtype
        some = count(ids[: cut + 1], None if starts is None else starts[starts <= cut], self.order, self.vocab_size)
        values = self._frequencies(some, len(ids))
        rest = ids[cut:], None if starts is None else starts[starts >= cut] - cut
        for length in range(self.order):
            scored = self._scored(some[: length + 1], values[: length + 1], *rest)
            self.keep("mix", length, self._em(*scored, int(bins)).to(dtype))
        return self._frequencies(tables, len(ids))

    def _cut(self, ids: Tensor, starts: Tensor | None) -> int:
        """Where the held-out text begins: a token, or the start of a document."""
        cut = int((1 - self.held_out) * len(ids))
        if starts is not None:
            cut = int(starts[int(torch.searchsorted(starts, cut))])
        return min(max(cut, 1), len(ids) - 2)

    def _frequencies(self, tables: list[Table], total: int) -> list[Tensor]:
        """Keep each context's bin; relative frequencies."""
        values = []
        for length, table in enumerate(tables):
            sums = table.sums(table.counts).double()
            self.keep("bin", length, torch.where(sums > 0, _bin(sums, total), -1))
            values.append(table.counts / sums.clamp(min=1)[table.context])
        return values

    def _scored(
        self, tables: list[Table], values: list[Tensor], ids: Tensor, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Of each token: the bin of its longest context, (N,), and what each level gives it, (N, levels + 1)."""
        keys = [t.keys for t in tables[1:]]
        contexts = [r[0, :-1] for r in rows_ending_at(keys[:-1], ids[None], self.vocab_size)][: len(keys)]
        last = ids[1:]
        level = [torch.full(last.shape, 1 / self.vocab_size, dtype=torch.double, device=ids.device), values[0][last]]
        bins = self.of("bin", 0, torch.zeros_like(last), -1)
        for length, (row, key, value) in enumerate(zip(contexts, keys, values[1:], strict=True), 1):
            found = lookup(key, row * self.vocab_size + last)
            bins = self.of("bin", length, row, -1).long()
            given = torch.where(found < 0, 0.0, value[found.clamp(min=0)])
            level.append(torch.where(bins < 0, level[-1], given))
        inside = torch.ones_like(last, dtype=torch.bool)
        if starts is not None:  # tokens whose whole context is of their own document
            place = torch.arange(len(last), device=ids.device)
            place = place - starts[torch.searchsorted(starts, place, right=True) - 1]
            inside = place + 1 >= len(keys)
        return bins[inside], torch.stack(level, 1)[inside]

    def _em(self, bins: Tensor, given: Tensor, n_bins: int) -> Tensor:
        """(n_bins, levels + 1) weights under which the held-out text is likeliest; equal where nothing tells."""
        bins = torch.where(bins < 0, n_bins - 1, bins)
        mix = torch.full((n_bins, given.shape[1]), 1 / given.shape[1], dtype=given.dtype, device=given.device)
        seen = torch.bincount(bins, minlength=n_bins)[:, None]
        for _ in range(self.rounds):
            share = mix[bins] * given
            share = share / share.sum(1, keepdim=True)
            sums = torch.zeros_like(mix).index_add_(0, bins, share)
            mix = torch.where(seen > 0, sums / seen.clamp(min=1), mix)
        return mix

    def weights(self, rows: list[Tensor], lengths_N: Tensor) -> Tensor:
        bins = [self.of("bin", n, r, -1).long() for n, r in enumerate([torch.zeros_like(lengths_N), *rows])]
        found = torch.zeros(len(lengths_N), self.order + 1, dtype=self.mix_0.dtype, device=lengths_N.device)
        for length, own in enumerate(bins):
            mix: Tensor = getattr(self, f"mix_{length}")
            here = mix[torch.where(own < 0, len(mix) - 1, own)]
            here = torch.nn.functional.pad(here, (0, self.order + 1 - here.shape[1]))
            found = torch.where((lengths_N == length)[:, None], here, found)
        levels = list(found.unbind(1))
        for length in range(self.order - 1, 0, -1):  # for a context that was never seen, the shorter one speaks
            seen = bins[length] >= 0
            levels[length] = torch.where(seen, levels[length], levels[length] + levels[length + 1])
            levels[length + 1] = torch.where(seen, levels[length + 1], 0.0)
        return torch.stack(levels, 1)


def _bin(counts: Tensor, total: int) -> Tensor:
    return (-((1 + counts.double()) / total).log()).ceil().clamp(min=0).long()


SMOOTHINGS = {"add": Add, "kneser_ney": KneserNey, "interpolated": Interpolated}
