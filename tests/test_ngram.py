"""N-grams: against dictionaries of counts written here, and numbers that others computed."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt.classic.ngram import NGram
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel
from tests.helpers import make, model_config

V = 7
Probability = Any


def documents(seed: int, many: int = 30) -> list[list[int]]:
    """Random texts, each between two zeros."""
    dice = random.Random(seed)
    return [[0, *(dice.choice([1, 1, 2, 3, 4, 4, 5]) for _ in range(dice.randint(0, 9))), 0] for _ in range(many)]


def joined(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ids, starts = [0], [0]
    for text in texts:
        ids += text[1:]
        starts.append(len(ids) - 1)
    return np.array(ids, np.uint16), np.array(starts)


def counted(texts: list[list[int]], order: int, smoothing: str) -> LanguageModel:
    model = make(dim="vocab", n_layers=0, vocab_size=V, context=64, embed=f"ngram({order}, {smoothing})", head="none")
    embed: Any = model.embed
    embed.fit(*joined(texts)) if len(texts) > 1 else embed.fit(np.array(texts[0]), None)
    return model


def grams(texts: list[list[int]], order: int) -> list[Counter[tuple[int, ...]]]:
    """How often each was seen, of each length."""
    found: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order)]
    for text in texts:
        for i in range(1, len(text)):
            for length in range(min(order, i + 1)):
                found[length][tuple(text[i - length : i + 1])] += 1
    return found


def add(texts: list[list[int]], order: int, k: float) -> Probability:
    seen = grams(texts, order)

    def p(token: int, context: tuple[int, ...]) -> float:
        total = sum(seen[len(context)][*context, w] for w in range(V))
        return (seen[len(context)][*context, token] + k) / (total + k * V) if total + k else 1 / V

    return p


def kneser_ney(texts: list[list[int]], order: int, one: bool) -> Probability:
    """Chen & Goodman 1998, as written there, with dictionaries."""
    seen = grams(texts, order)
    for length in range(order - 1):
        before: dict[tuple[int, ...], set[int]] = defaultdict(set)
        first: Counter[tuple[int, ...]] = Counter()
        for text in texts:
            for i in range(max(1, length), len(text)):
                gram = tuple(text[i - length : i + 1])
                if i - length > 0:
                    before[gram].add(text[i - length - 1])
                else:
                    first[gram] += 1
        seen[length] = Counter({g: len(before[g]) + first[g] for g in before.keys() | first.keys()})
    discounts = []
    for table in seen:
        n = [sum(c == i for c in table.values()) for i in range(5)]
        if one:
            d = [n[1] / (n[1] + 2 * n[2])] * 3 if n[1] * n[2] else [0.5] * 3
        elif all(n[1:]) and all(i - (i + 1) * n[1] / (n[1] + 2 * n[2]) * n[i + 1] / n[i] > 0 for i in (1, 2, 3)):
            y = n[1] / (n[1] + 2 * n[2])
            d = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
        else:
            d = [0.5, 1.0, 1.5]
        discounts.append(d)

    def p(token: int, context: tuple[int, ...]) -> float:
        shorter = p(token, context[1:]) if context else 1 / V
        follow = {w: seen[len(context)][*context, w] for w in range(V) if seen[len(context)][*context, w]}
        if not follow:
            return shorter
        taken = {w: min(c, discounts[len(context)][min(c, 3) - 1]) for w, c in follow.items()}
        mine = follow.get(token, 0) - taken.get(token, 0)
        return (mine + sum(taken.values()) * shorter) / sum(follow.values())

    return p


def expected(p: Probability, text: list[int], order: int) -> torch.Tensor:
    """log p of every token after each place of a text."""
    places = [tuple(text[max(0, i - order + 2) : i + 1]) if order > 1 else () for i in range(len(text))]
    rows = [[max(p(w, context), 1.1754943508222875e-38) for w in range(V)] for context in places]
    return torch.tensor(rows, dtype=torch.double).log()


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("smoothing", "reference"),
    [
        ("add(k=1)", lambda texts, order: add(texts, order, 1)),
        ("add(k=0.01)", lambda texts, order: add(texts, order, 0.01)),
        ("add(k=0)", lambda texts, order: add(texts, order, 0)),
        ("kneser_ney", lambda texts, order: kneser_ney(texts, order, False)),
        ("kneser_ney(discounts=one)", lambda texts, order: kneser_ney(texts, order, True)),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_as_with_dictionaries(order: int, smoothing: str, reference: Any, stream: bool) -> None:
    seed = order + 10 * stream
    texts = documents(seed)
    if stream:
        texts = [[token for text in texts for token in text[1:]]]
    p, model = reference(texts, order), counted(texts, order, smoothing)
    for text in documents(seed + 100, 8):
        logits = model(torch.tensor([text]))[0]
        torch.testing.assert_close(logits.double(), expected(p, text, order), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits.exp().sum(-1), torch.ones(len(text)))


def test_modified_discounts_are_used_where_counts_suffice() -> None:
    """Not only the fallback: a text with counts of 1, 2, 3 and 4 at the highest level."""
    texts = documents(5, 200)
    n1, n2, n3, n4 = (sum(c == i for c in grams(texts, 4)[3].values()) for i in (1, 2, 3, 4))
    assert n1 > n2 > n3 > n4 > 0
    three, one = (counted(texts, 4, s)(torch.tensor([[0, 1, 4, 1]])) for s in ("kneser_ney", "kneser_ney(one)"))
    assert (three - one).abs().max() > 1e-3


def test_documents_never_meet() -> None:
    """No n-gram runs from one document into the next, which a stream of the same tokens has."""
    texts = [[0, 1, 2, 0], [0, 3, 4, 0]]
    apart = counted(texts, 3, "add(k=0)")(torch.tensor([[2, 0]])).exp()
    assert apart[0, 1].tolist() == pytest.approx([1 / V] * V)  # (2, 0) is the end of the first, and nothing follows it
    joined_up = counted([[0, 1, 2, 0, 3, 4, 0]], 3, "add(k=0)")(torch.tensor([[2, 0]])).exp()
    assert joined_up[0, 1, 3] == pytest.approx(1)


@pytest.mark.parametrize("smoothing", ["add(k=0.1)", "kneser_ney", "interpolated"])
def test_pieces_padding_and_packing_change_nothing(smoothing: str) -> None:
    model = counted(documents(3), 4, smoothing)
    row = torch.tensor([0, 1, 2, 4, 1, 1, 3])
    whole = model(row[None])[0]
    cache = model.new_cache(1, 16)
    pieces = [model(row[None, a:b], cache=cache)[0] for a, b in ((0, 3), (3, 4), (4, 7))]
    torch.testing.assert_close(torch.cat(pieces), whole)
    padded = torch.stack([torch.cat([torch.tensor([5, 5]), row]), torch.cat([row, torch.tensor([5, 5])])])
    mask = torch.tensor([[0, 0, *[1] * 7], [*[1] * 7, 0, 0]]).bool()
    cache = model.new_cache(2, 16)
    logits = model(padded, mask, cache=cache)
    torch.testing.assert_close(logits[0, 2:], whole)
    torch.testing.assert_close(logits[1, :7], whole)
    after = model(torch.tensor([[2], [2]]), cache=cache)[:, 0]
    torch.testing.assert_close(after, model(torch.cat([row, torch.tensor([2])])[None])[0, -1].expand(2, V))
    packed = model(torch.cat([row, row[:4]])[None], documents_BT=torch.tensor([[0] * 7 + [1] * 4]))[0]
    torch.testing.assert_close(packed[7:], whole[:4])


def test_interpolated_weights_are_those_of_em() -> None:
    """Against EM written with loops, on the text that it held out."""
    dice = random.Random(1)
    ids = [dice.choice([1, 1, 1, 2, 3, 3, 4, 5, 6]) for _ in range(600)]
    model = counted([ids], 2, "interpolated(held_out=0.25, rounds=7)")
    cut, total = int(0.75 * 600), 600
    some = grams([ids[: cut + 1]], 2)
    follow = {a: sum(some[1][a, b] for b in range(V)) for a in range(V)}
    bin_of = {a: math.ceil(-math.log((1 + follow[a]) / total)) for a in range(V)}
    weights = {b: [1 / 3] * 3 for b in bin_of.values()}
    for _ in range(7):
        shares: dict[int, list[list[float]]] = defaultdict(list)
        for a, b in zip(ids[cut:], ids[cut + 1 :], strict=False):
            f = [1 / V, some[0][b,] / cut, some[1][a, b] / follow[a]]
            joint = [w * x for w, x in zip(weights[bin_of[a]], f, strict=True)]
            shares[bin_of[a]].append([j / sum(joint) for j in joint])
        for b, rows in shares.items():
            weights[b] = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    full = grams([ids], 2)
    for a in range(1, V):
        after = sum(full[1][a, b] for b in range(V))
        w = weights[math.ceil(-math.log((1 + after) / total))]
        want = [w[0] / V + w[1] * full[0][b,] / 599 + w[2] * full[1][a, b] / after for b in range(V)]
        assert model(torch.tensor([[a]]))[0, 0].exp().tolist() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_interpolated_sums_to_one_also_after_contexts_never_seen(order: int) -> None:
    model = counted(documents(2), order, "interpolated")
    logits = model(torch.tensor([[0, 6, 6, 5, 1, 0, 3, 6]]))
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(1, 8))


def test_before_counting_every_token_is_as_likely() -> None:
    for smoothing in ("add", "kneser_ney", "interpolated"):
        model = make(dim="vocab", n_layers=0, embed=f"ngram(3, {smoothing})", head="none")
        assert model(torch.tensor([[1, 2, 3]])).exp().flatten().tolist() == pytest.approx([1 / 13] * 39)
        assert not list(model.parameters())


def test_keys_of_high_orders_and_large_vocabularies_do_not_overflow() -> None:
    """17,905^5 is more than 64 bits: the keys are places in the table below, not codes of words."""
    ids = np.random.default_rng(1).integers(0, 17_905, 3000)
    model = NGram(dim=17_905, vocab_size=17_905, order=7, smoothing="add(k=0)")
    assert "2,994 7-grams" in model.fit(ids, None)
    flow = make(dim="vocab", n_layers=0, vocab_size=17_905, context=64, embed="ngram(1)", head="none").flow
    row = torch.from_numpy(ids[100:110])[None]
    assert model(row, flow(row))[0].argmax(-1)[5:-1].tolist() == ids[106:110].tolist()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"nearest: model\.dim=vocab"):
        LanguageModel(model_config(n_layers=0, embed="ngram", head="none"))
    for bad in ("ngram(order=0)", "ngram(smoothing=add(k=-1))", "ngram(smoothing=interpolated(held_out=1))"):
        with pytest.raises(UserError, match="nearest"):
            LanguageModel(model_config(dim="vocab", n_layers=0, embed=bad, head="none"))


def names(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    words = (data_dir / "corpora/names.txt").read_text().splitlines()
    return joined([[0, *(ord(c) - 96 for c in word), 0] for word in words])


@pytest.mark.parametrize(("order", "k", "loss"), [(2, 0, 2.454014), (2, 1, 2.454577), (3, 0, 2.1857), (3, 1, 2.2126)])
def test_counts_of_names(data_dir: Path, order: int, k: float, loss: float) -> None:
    """makemore's first lecture and its exercise: the whole of the data."""
    ids, starts = names(data_dir)
    model = make(dim="vocab", n_layers=0, vocab_size=27, context=1, embed=f"ngram({order}, add({k}))", head="none")
    embed: Any = model.embed
    embed.fit(ids, starts)
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    document = torch.from_numpy(np.searchsorted(starts, np.arange(len(ids) - 1), side="right"))[None]
    given = model(tokens[:, :-1], None, document)[0].gather(1, tokens[0, 1:, None])
    assert -float(given.double().mean()) == pytest.approx(loss, abs=0.6e-6 if order == 2 else 0.5e-4)


@pytest.mark.parametrize(
    ("order", "k", "train", "val"),
    [(1, 1, 3.3091, 3.3473), (2, 1, 0, 2.4819), (3, 0.1, 0, 2.0458), (5, 0.01, 0, 1.7704)],
)
def test_counts_of_shakespeare(data_dir: Path, order: int, k: float, train: float, val: float) -> None:
    text = np.frombuffer((data_dir / "corpora/tinyshakespeare.txt").read_bytes(), np.uint8)
    _, ids = np.unique(text, return_inverse=True)
    cut = int(0.9 * len(ids))
    model = make(dim="vocab", n_layers=0, vocab_size=65, context=1, embed=f"ngram({order}, add({k}))", head="none")
    embed: Any = model.embed
    embed.fit(ids[:cut], None)
    for part, loss in ((ids[:cut], train), (ids[cut:], val))[not train :]:  # train takes seconds, so once
        tokens = torch.from_numpy(part)[None]
        assert float(model.losses(tokens[:, :-1], tokens[:, 1:])["nll"]) == pytest.approx(loss, abs=0.6e-4)
