"""Sampling: against recomputation without a cache, brute-force distributions and counted frequencies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from nanogpt.errors import UserError
from nanogpt.generate import Sampling, choose, distribution, generate, stream
from nanogpt.kernels import prepared as preparing
from nanogpt.kernels.prepared import Prepared, prepared
from nanogpt.model.language_model import LanguageModel
from tests.helpers import TINY, VOCAB, scrambled

GREEDY = Sampling(temperature=0)
MODELS: dict[str, dict[str, Any]] = TINY | {
    "window": {"mixer": ["attention(heads=2, window=3)", "attention(heads=2)"], "position": "rotary", "ffn": "mlp"},
    "none": {"mixer": "attention(heads=2)", "ffn": "mlp", "norm": "rmsnorm"},
    "bigram": {"n_layers": 0, "dim": VOCAB, "head": "none"},
    "alibi": {"mixer": "attention(heads=4, kv_heads=2)", "ffn": "geglu", "norm": "rmsnorm", "position": "alibi"},
    "lstm": {"mixer": "lstm", "ffn": "mlp", "norm": "layernorm"},
}
PROMPTS = [[3], [1, 2, 3, 4, 5], [7, 7], list(range(12)), [12] * 8]


@torch.no_grad()
def naive(model: LanguageModel, prompt: list[int], n: int) -> list[int]:
    """The likeliest tokens by reading the last `context` tokens anew for each, up to the first near tie."""
    row = list(prompt)
    while len(row) < len(prompt) + n:
        best = model(torch.tensor([row[-model.context :]]))[0, -1].topk(2)
        if best.values[0] - best.values[1] < 1e-3:
            break
        row.append(int(best.indices[0]))
    return row[len(prompt) :]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_the_naive_loop_beyond_the_context_too(name: str) -> None:
    model = scrambled(**MODELS[name])
    compared = 0
    for prompt, batched in zip(PROMPTS, generate(model, PROMPTS, 14, GREEDY), strict=True):
        expected = naive(model, prompt, 14)
        compared += len(expected)
        assert generate(model, [prompt], 14, GREEDY)[0][: len(expected)] == expected
        assert batched[: len(expected)] == expected
    assert compared > 40


def test_logits_beyond_the_context_are_those_of_the_last_window() -> None:
    """Tokens can agree by luck: the numbers themselves."""
    for name in ("gpt2", "llama"):
        model, row, seen = scrambled(**TINY[name]), [1, 2, 3], []
        true_next = model.next_logits
        model.next_logits = lambda *a, f=true_next, s=seen, **k: s.append(f(*a, **k)) or s[-1]  # type: ignore[method-assign]
        new = generate(model, [row], 14, GREEDY)[0]
        with torch.no_grad():
            for n, logits in enumerate(seen):
                window = (row + new[:n])[-model.context :]
                torch.testing.assert_close(logits, model(torch.tensor([window]))[:, -1], atol=1e-4, rtol=1e-3)
        assert len(seen) == 14


@pytest.mark.parametrize("name", ["llama", "gpt2", "bigram"])
def test_a_row_does_not_depend_on_its_company(name: str) -> None:
    model, how = scrambled(**MODELS[name]), Sampling(temperature=0.8, top_p=0.95, seed=5)
    together = generate(model, PROMPTS, 15, how)
    assert together == [generate(model, [p], 15, how)[0] for p in PROMPTS]
    assert together[::-1] == generate(model, PROMPTS[::-1], 15, how)


def test_seeds_repeat_and_differ_and_the_global_dice_are_left_alone() -> None:
    model = scrambled(**TINY["llama"])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a = generate(model, [[1]], 30, Sampling(seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    assert a == generate(model, [[1]], 30, Sampling(seed=3))
    assert a != generate(model, [[1]], 30, Sampling(seed=4))
    generate(model, [[1]], 1, Sampling(seed=2**63 - 1))


def test_the_model_comes_back_as_it_was() -> None:
    model = scrambled(**TINY["gpt"])
    for training in (True, False):
        model.train(training)
        assert generate(model, [[1]], 4, GREEDY) == generate(model, [[1]], 4, GREEDY)  # no dropout
        assert model.training is training
        steps = stream(model, [[1]], 4, GREEDY)
        next(steps)
        steps.close()
        assert model.training is training


def test_stopping() -> None:
    model = scrambled(**TINY["llama"])
    free = generate(model, PROMPTS, 12, GREEDY)
    calls: list[int] = []

    def stopped(new: list[int]) -> bool:
        calls.append(len(new))
        return len(new) >= 3 or new[-1] == free[0][0]

    short = generate(model, PROMPTS, 12, GREEDY, stopped)
    for whole, cut in zip(free, short, strict=True):
        assert cut == whole[: len(cut)]
        ends = [n for n, t in enumerate(whole[:3], 1) if t == free[0][0] or n == 3]
        assert len(cut) == ends[0]
    assert max(calls) <= 3
    assert generate(model, PROMPTS, 0, GREEDY) == [[]] * len(PROMPTS)


def brute(logits: list[float], how: Sampling) -> list[float]:
    """The definition, one token at a time, in Python."""
    top = max(logits)
    e = [math.exp((z - top) / how.temperature) for z in logits]
    p = [x / sum(e) for x in e]
    order = sorted(range(len(p)), key=lambda i: -p[i])
    keep = set(order)
    if how.top_k:
        keep &= {i for i in order if p[i] >= p[order[min(how.top_k, len(p)) - 1]]}
    if how.min_p:
        keep &= {i for i in order if p[i] >= how.min_p * p[order[0]]}
    if how.top_p < 1:
        total, inside = 0.0, set()
        for i in order:
            if total < how.top_p:
                inside.add(i)
            total += p[i]
        keep &= inside
    norm = sum(p[i] for i in keep)
    return [p[i] / norm if i in keep else 0.0 for i in range(len(p))]


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 3.0, 1e5])
@pytest.mark.parametrize(
    "cuts",
    [
        {},
        {"top_k": 1},
        {"top_k": 3},
        {"top_k": 99},
        {"top_p": 0.5},
        {"top_p": 0.9},
        {"top_p": 1e-9},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"top_k": 4, "top_p": 0.8, "min_p": 0.05},
    ],
)
def test_distributions_by_brute_force(temperature: float, cuts: dict[str, Any]) -> None:
    how = Sampling(temperature=temperature, **cuts)
    logits = torch.randn(5, VOCAB, dtype=torch.float64) * 2
    expected = torch.tensor([brute(row, how) for row in logits.tolist()])
    found = distribution(logits, how)
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-5, rtol=1e-3)
    assert torch.equal(found > 0, expected > 0) or temperature == 0.1  # where fp32 may round a share to nothing


def test_frequencies_are_the_distribution() -> None:
    how = Sampling(temperature=0.8, top_p=0.97, seed=torch.seed() % 2**32)
    logits = torch.randn(1, VOCAB)
    p = distribution(logits, how)[0]
    dice = [torch.Generator().manual_seed(how.seed)]
    drawn = torch.stack([choose(logits, how, dice)[0] for _ in range(5000)])
    counts = torch.bincount(drawn, minlength=VOCAB)
    assert not counts[p == 0].any()
    big = p * 5000 >= 5
    share = p[big].double() / p[big].double().sum()
    assert chisquare(counts[big].numpy(), (share * counts[big].sum()).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45, 1e-300, 5e-324])
def test_small_temperatures_approach_the_likeliest(temperature: float) -> None:
    logits = torch.randn(20, VOCAB) * 3
    p = distribution(logits, Sampling(temperature=temperature))
    assert p.isfinite().all()
    dice = [torch.Generator().manual_seed(n) for n in range(20)]
    sure = logits.topk(2).values.diff().abs()[:, 0] > 0.05
    assert torch.equal(choose(logits, Sampling(temperature=temperature), dice)[sure], logits.argmax(-1)[sure])


def test_large_logits_do_not_overflow() -> None:
    p = distribution(torch.tensor([[1e30, 0.0, -1e30], [1e4, 1e4, 0.0]]), Sampling(temperature=0.01))
    torch.testing.assert_close(p, torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"temperature": -1}, "temperature=-1 must be from 0 to 1e+06; nearest: 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": -1}, "nearest: 0"),
        ({"top_p": 1.5}, "nearest: 1"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_p": math.nan}, "top_p=nan"),
        ({"min_p": 2}, "nearest: 1"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**64}, "seed="),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        Sampling(**wrong)
    assert words in str(caught.value)


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_a_prompt_must_have_a_token(prompts: list[list[int]]) -> None:
    with pytest.raises(UserError, match="prompt"):
        generate(scrambled(), prompts, 3)


# ---- weights made ready


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices are prepared as large ones are, and laid out anew at the second product."""
    monkeypatch.setattr(preparing, "WORTH", 0)
    monkeypatch.setattr(preparing, "PACK_FROM", 2)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", MODELS)
def test_prepared_weights_write_the_same_text(name: str) -> None:
    model = scrambled(**MODELS[name])
    ready = prepared(model)
    kinds = {type(p) for p in ready.parameters() if p.ndim == 2}
    assert kinds <= {Prepared} and not any(isinstance(p, Prepared) for p in model.parameters())
    ids = torch.randint(VOCAB, (3, 8))
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(ready(ids), model(ids), atol=1e-5, rtol=1e-4)
    for prompt, new in zip(PROMPTS, generate(model, PROMPTS, 14, GREEDY), strict=True):
        expected = naive(model, prompt, 14)
        assert new[: len(expected)] == expected


def matrix(n_out: int, n_in: int) -> tuple[torch.nn.Linear, torch.Tensor]:
    """A layer and inputs, with one row of zeros and one of large numbers."""
    layer = torch.nn.Linear(n_in, n_out)
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = 0.0, layer.weight[1] * 1e4
    return layer, torch.randn(3, 2, n_in)


def bf16(x: torch.Tensor) -> np.ndarray:
    """Rounded to the nearest number of 8 bits of mantissa, by its bits."""
    bits = x.numpy().astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def int8(weight: torch.Tensor) -> np.ndarray:
    """Each row as whole numbers of steps, 127 of which are its largest number, the step in bf16."""
    steps = bf16(weight.abs().amax(1, keepdim=True) / 127)
    steps[steps == 0] = 1
    return np.clip(np.round(weight.numpy() / steps), -127, 127) * steps


@pytest.mark.parametrize("shape", [(5, 7), (33, 64), (8, 100), (48, 16), (1, 1)])
@pytest.mark.parametrize(("precision", "rounded"), [("bf16", bf16), ("int8", int8)])
def test_lower_precisions_are_what_they_say(shape: tuple[int, int], precision: Any, rounded: Any) -> None:
    layer, x = matrix(max(2, shape[0]), shape[1])
    with torch.no_grad():
        y = prepared(layer, precision)(x)
        weight, bias = rounded(layer.weight), layer.bias.double().numpy()
    terms = np.abs(bf16(x)) @ np.abs(weight).T
    assert y.dtype == torch.float32
    assert (np.abs(y.numpy() - (bf16(x) @ weight.T + bias)) <= 2.0**-8 * terms + 1e-6).all()
    plain = x.double().numpy() @ layer.weight.detach().double().numpy().T + bias
    apart = np.abs(y.numpy() - plain).max()
    assert apart > 1e-5 or shape == (1, 1)  # it did round


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_what_reads_the_same_vectors_multiplies_as_one(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    part = scrambled(**TINY["llama"]).blocks[0].mixer
    names = ("q", "k", "v")
    calls: list[int] = []
    kind = {"bf16": preparing.BF16, "int8": preparing.Int8}[precision]
    multiply = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, x, b: calls.append(len(self.weight)) or multiply(self, x, b))
    ready, x = prepared(part, precision), torch.randn(2, 3, part.q.in_features)
    with torch.no_grad():
        alone = {name: prepared(getattr(part, name), precision)(x) for name in names}
        calls.clear()
        for order in (names, names[::-1]):
            for name in order:
                y = getattr(ready, name)(x)
                torch.testing.assert_close(y, alone[name])
                y.zero_()  # what is done with a result must not show in the next pass
        assert calls == [sum(y.shape[-1] for y in alone.values())] * 2
        first = ready.q(x)
        x.mul_(2)
        torch.testing.assert_close(ready.k(x), prepared(part.k, precision)(x))  # not of what x was before
        torch.testing.assert_close(first, alone["q"])


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_writing_in_lower_precision(precision: Any) -> None:
    model = scrambled(**TINY["gpt2"])  # tied: the table is looked up as it was
    ready = prepared(model, precision)
    ids = torch.randint(VOCAB, (2, 8))
    with torch.no_grad():
        near, exact = ready(ids), model(ids)
        assert torch.equal(ready.embed(ids, ready.flow(ids)), model.embed(ids, model.flow(ids)))
    assert 1e-4 < (near - exact).abs().max() < 0.1
    text = generate(model, PROMPTS, 12, GREEDY, precision=precision)
    assert [len(row) for row in text] == [12] * len(PROMPTS)
    assert text == generate(ready, PROMPTS, 12, GREEDY)
    assert prepared(ready).embed.weight is ready.embed.weight


def test_an_unknown_precision() -> None:
    with pytest.raises(UserError, match=r"precision=int9; did you mean 'int8'"):
        generate(scrambled(), [[1]], 3, precision="int9")  # type: ignore[arg-type]
