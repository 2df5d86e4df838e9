"""Hashed n-grams: which row each n-gram has, by Python's own whole numbers."""

from __future__ import annotations

import random
import re

import pytest
import torch

from nanogpt.classic.window import HashedNGrams
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.language_model import resolve_model
from tests.helpers import VOCAB, count, make, model_config, scrambled, tokens

SEED = random.randrange(10**6)


def row_by_hand(ngram: tuple[int, ...], rows: int) -> int:
    """Its own row where there are enough: the n-gram as a number in base V + 1. Else the upper half of 64 bits, after
    a product by 2^64 / golden ratio for each token, as a signed number."""
    if (VOCAB + 1) ** len(ngram) <= rows:
        return sum(token * (VOCAB + 1) ** place for place, token in enumerate(reversed(ngram)))
    code = 0
    for token in ngram:
        code = (code + token + 1) * 0x9E3779B97F4A7C15 % 2**64
    return ((code - 2**64 if code >= 2**63 else code) >> 32) % rows


@pytest.mark.parametrize("rows", [1, 7, 200, (VOCAB + 1) ** 2, 3000])
def test_a_token_gets_the_vectors_of_its_ngrams(rows: int) -> None:
    model = scrambled(SEED, embed=f"hashed(tokens=4, rows={rows})")
    x, p = tokens(2, 12, SEED), model.state_dict()
    assert p["embed.ngrams.weight"].shape == (3 * rows, model.dim)
    expected = p["embed.weight"][x]
    for b, text in enumerate(x.tolist()):
        for t in range(len(text)):
            for n in (2, 3, 4):
                ngram = tuple(([VOCAB] * n + text[: t + 1])[-n:])  # V stands before the beginning
                expected[b, t] += p["embed.ngrams.weight"][(n - 2) * rows + row_by_hand(ngram, rows)]
    torch.testing.assert_close(model.embed(x, model.flow(x)), expected)


def test_what_training_never_met_adds_nothing_and_what_it_met_learns() -> None:
    model, plain = make(embed="hashed(rows=300)"), make(embed="token")
    x = tokens(2, 9)
    assert torch.equal(model(x), plain(x))  # tables of zeros, and all else has its own random numbers
    model.losses(x[:, :-1], x[:, 1:])["loss"].backward()
    table = model.embed.ngrams
    met = torch.zeros(600, dtype=torch.bool)
    met[table.chosen(table.window(x[:, :-1], model.flow(x[:, :-1])))] = True
    assert torch.equal(table.weight.grad.abs().sum(1) > 0, met)


def test_rows_are_forgotten_whole_and_only_in_training() -> None:
    ngrams = HashedNGrams(5, VOCAB, 3, 4000, forget=0.25)
    torch.nn.init.ones_(ngrams.weight)
    x, flow = tokens(40, 500, SEED), make().flow(tokens(40, 500, SEED))
    assert torch.equal(ngrams.eval()(x, flow), torch.full((40, 500, 5), 2.0))
    y = ngrams.train()(x, flow) * 0.75  # how many of the two are left
    torch.testing.assert_close(y, y[..., :1].expand_as(y))
    for left, share in ((0, 0.25**2), (1, 2 * 0.25 * 0.75), (2, 0.75**2)):
        assert abs(float((y[..., 0].round() == left).float().mean()) - share) < 0.03


def test_hashes_spread_no_worse_than_chance() -> None:
    """Trigrams of 65 characters in 4,096 rows, all and neighbours: chi squared, at most 8 deviations above its mean."""
    rows = 4096
    ids = torch.cartesian_prod(*[torch.arange(65)] * 3).view(1, -1, 3)
    filled = HashedNGrams(1, 65, 3, rows, forget=0).chosen(ids)[0, :, 1] - rows
    for some in (filled, filled[:9000], filled[::65]):
        expected = len(some) / rows
        chi = float((torch.bincount(some, minlength=rows) - expected).square().sum()) / expected
        assert chi - rows < 8 * (2 * rows) ** 0.5


def test_rows_cost_memory_and_no_operations() -> None:
    plain, hashed = (cost(resolve_model(model_config(embed=e))) for e in ("token", "hashed(tokens=3, rows=500)"))
    assert hashed.total - plain.total == 2 * 500 * model_config().dim
    assert hashed.flops == plain.flops
    assert count(make(embed="hashed(tokens=3, rows=500)")) == hashed.total


@pytest.mark.parametrize(
    ("embed", "said"),
    [("hashed(tokens=1)", "tokens=1 must be at least 2"), ("hashed(rows=0)", "rows=0 must be at least 1")],
)
def test_tables_that_cannot_be(embed: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        make(embed=embed)
