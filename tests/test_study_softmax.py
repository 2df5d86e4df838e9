"""The softmax laboratory's closed forms, against autograd, other formulas and draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from nanogpt.study.builtin.softmax import alternatives, calibration, categorical, gumbel, sampling, scale, twins


@pytest.fixture
def z_NV(rng: torch.Generator) -> torch.Tensor:
    return 2 * torch.randn(20, 7, generator=rng, dtype=torch.double)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.default_rng().integers(2**40)))


# ---- scale


@pytest.mark.parametrize("T", [0.3, 1.0, 4.0])
def test_entropy_rises_by_the_variance_of_the_logits_over_t_cubed(z_NV: torch.Tensor, T: float) -> None:
    step = 1e-4 * T
    slope = (scale.entropy(z_NV, T + step) - scale.entropy(z_NV, T - step)) / (2 * step)
    p = (z_NV / T).softmax(1)
    variance = (p * z_NV.square()).sum(1) - (p * z_NV).sum(1).square()
    assert slope.numpy() == pytest.approx((variance / T**3).numpy(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("T", [0.5, 1.0, 3.0])
def test_norms_of_gradients_are_autograds(z_NV: torch.Tensor, T: float) -> None:
    row = z_NV[0]
    jacobian = torch.autograd.functional.jacobian(lambda z: (z / T).softmax(0), row)
    assert float(scale.jacobian_norm(row, T)) == pytest.approx(float(jacobian.norm()), rel=1e-6)
    y = torch.tensor([3])
    z = row.clone().requires_grad_()
    F.cross_entropy(z[None] / T, y).backward()
    assert z.grad is not None
    assert float(scale.loss_gradient_norm(row[None], y, T)) == pytest.approx(float(z.grad.norm()), rel=1e-9)


# ---- Gumbel


def test_gumbel_noise_has_its_mean_and_its_variance(rng: torch.Generator) -> None:
    drawn = gumbel.gumbel((200_000,), rng)
    assert float(drawn.mean()) == pytest.approx(np.euler_gamma, abs=6 * gumbel.STD / 200_000**0.5)
    assert float(drawn.var()) == pytest.approx(math.pi**2 / 6, rel=0.05)


def test_what_gaussian_noise_samples() -> None:
    assert gumbel.gaussian_shares((0.0, 1.0, 2.0)) == pytest.approx([0.0825, 0.2609, 0.6567], abs=6e-5)
    two = gumbel.gaussian_shares((0.0, 0.7), std=1.3)
    assert two[1] == pytest.approx(stats.norm.cdf(0.7 / (1.3 * 2**0.5)), abs=1e-8)


def test_plackett_and_luce_are_draws_without_replacement(rng: torch.Generator) -> None:
    p = np.array([0.1, 0.2, 0.3, 0.4])
    orders = gumbel.plackett_luce(p, 2)
    assert sum(orders.values()) == pytest.approx(1)
    assert orders[3, 0] == pytest.approx(0.4 * 0.1 / 0.6)
    drawn = torch.multinomial(torch.from_numpy(p).repeat(40_000, 1), 2, replacement=False, generator=rng).tolist()
    counts = np.array([sum(tuple(row) == order for row in drawn) for order in orders])
    assert gumbel.fit(counts, np.array(list(orders.values()))) > 1e-6


# ---- alternatives


def test_a_nest_is_a_softmax_at_one_end_and_one_alternative_at_the_other() -> None:
    even = torch.tensor([0.4, 1.1, 1.1]).double().softmax(0).tolist()
    assert alternatives.nested(0.4, 1.1, 2, 1.0) == pytest.approx(even)
    car = 1 / (1 + math.exp(1.1 - 0.4))
    assert alternatives.nested(0.4, 1.1, 2, 1e-6) == pytest.approx((car, (1 - car) / 2, (1 - car) / 2), abs=1e-5)


def test_the_likeness_is_found_again_from_the_shares_it_makes() -> None:
    shares = torch.tensor(alternatives.nested(0, 0, 2, 0.37), dtype=torch.double)
    assert alternatives.likeliest(shares * 1e6) == pytest.approx(0.37, abs=1e-3)


# ---- categorical


def test_labels_as_shares_are_the_usual_cross_entropy_where_there_is_one_label(z_NV: torch.Tensor) -> None:
    y = torch.arange(20) % 7
    loss = categorical.softmax_loss(z_NV, F.one_hot(y, 7).double())
    assert float(loss) == pytest.approx(float(F.cross_entropy(z_NV, y)))


def test_platts_numbers_are_found_again(rng: torch.Generator) -> None:
    scores = torch.randn(4000, 10, generator=rng, dtype=torch.double)
    y = (torch.rand(scores.shape, generator=rng, dtype=torch.double) < (1.7 * scores - 0.6).sigmoid()).double()
    assert categorical.platt(scores, y) == pytest.approx((1.7, -0.6), abs=0.15)


def test_f1_counts_all_labels_together() -> None:
    z = torch.tensor([[2.0, -2.0, 2.0], [2.0, 2.0, -2.0]])
    y = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert categorical.f1(z, y, 0.5) == pytest.approx(2 * 3 / (4 + 4))


def test_a_softmax_of_one_word_out_of_two_says_how_often_it_is_used() -> None:
    shares, fitted = categorical.puppy()
    assert fitted == pytest.approx(shares, abs=1e-4)


# ---- twins


def test_only_old_words_between_others_become_new_ones() -> None:
    text = "Thou art; if thou wilt, thy thyself hath\nthee thou'rt"
    assert twins.modern(text) == "Thou art; if you wilt, your thyself has\nthee thou'rt"


def test_what_comes_back() -> None:
    p = np.array([[0.2, 0.3, 0.5], [0.1, 0.5, 0.4]])
    measured, masked = twins.returned(p)
    assert measured == pytest.approx((0.3 + 0.3) / 0.8)
    assert masked == pytest.approx((0.2 / 0.7 - 0.2 + 0.1 / 0.5 - 0.1) / 0.8)


# ---- calibration


def test_the_temperature_that_was_put_in_comes_out(rng: torch.Generator) -> None:
    z = 2 * torch.randn(40_000, 5, generator=rng)
    y = torch.multinomial(z.softmax(1), 1, generator=rng)[:, 0]
    T = calibration.fitted(1.8 * z, y)
    assert pytest.approx(1.8, rel=0.05) == T
    before, after = calibration.score(1.8 * z, y, 1.0), calibration.score(1.8 * z, y, T)
    assert after[0] < 0.02 < before[0]
    assert after[1] == before[1] == pytest.approx(float((z.argmax(1) == y).double().mean()))
    assert after[2] < before[2]


# ---- sampling


def test_distinct_counts_pairs_once() -> None:
    assert sampling.distinct([["a", "b", "a", "b"], ["a", "b"]]) == pytest.approx(2 / 4)


def test_self_bleu_is_one_where_all_texts_are_alike_and_small_where_none_is() -> None:
    same = [["to", "be", "or", "not"]] * 3
    assert sampling.self_bleu(same) == pytest.approx(1)
    other = [[f"{row}{place}" for place in range(4)] for row in range(3)]
    assert sampling.self_bleu(other) == pytest.approx((0.5 / 4 * 0.5 / 3 * 0.5 / 2) ** (1 / 3))
    half = [["a", "b", "c", "d"], ["a", "b", "x", "y"]]
    assert sampling.self_bleu(half, longest=1) == pytest.approx(0.5)


@pytest.mark.parametrize("knob", sampling.KNOBS)
def test_each_knob_is_turned_one_way(knob: str, z_NV: torch.Tensor) -> None:
    from nanogpt.generate import distribution

    spread = [float(torch.special.entr(distribution(z_NV, how)).sum(1).mean()) for how in sampling.KNOBS[knob]]
    assert spread == sorted(spread)
