"""Gradients derived by hand, beside autograd's."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from nanogpt.autograd import ninja
from nanogpt.autograd.lecture import ByHand, initial, stepwise


@pytest.mark.parametrize("name", ninja.PARTS)
def test_the_gradient_by_hand_is_autograd_s(name: str) -> None:
    row = ninja.compare(name, random.randrange(2**32))
    assert row["result"] < 1e-12 and max(row["gradients"].values()) < 1e-12 * max(1.0, row["largest"])
    assert row["largest"] > 1e-3  # there was something to compare
    floats = [key for key in ninja.PARTS[name].inputs if key != "ids"]
    assert list(row["gradients"]) == floats
    assert len(ninja.PARTS[name].__doc__ or "") > 100  # the derivation


def test_a_wrong_gradient_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ninja.LayerNorm, "backward", lambda g, z, r, w: (r * g * w, (g * z).sum((0, 1)), g.sum((0, 1))))
    row = ninja.compare("layer norm", 1)
    assert row["gradients"]["x"] > 1e-3 and row["gradients"]["w"] < 1e-12


def test_the_table_has_a_dozen_parts() -> None:
    rows = ninja.table()
    assert len(rows) == 12 and all(row["difference"] < 1e-13 < 1e-5 > row["difference_fp32"] for row in rows)


def test_every_step_of_the_lecture_s_network() -> None:
    """Its table says 0 for most steps and 5e-9 for the fused ones, in float32."""
    assert sum(w.numel() for w in initial(10, 64, torch.Generator()).values()) == 4137
    seed = random.randrange(2**32)
    single, double = stepwise(seed), stepwise(seed, torch.float64)
    assert len(single) == 26 and max(single.values()) < 1e-6 and max(double.values()) < 1e-14


def test_the_network_from_parts_has_autograd_s_gradients() -> None:
    generator = torch.Generator().manual_seed(random.randrange(2**32))
    weights = initial(10, 200, generator, torch.float64)
    assert sum(w.numel() for w in weights.values()) == 12_297
    windows, targets = torch.randint(27, (32, 3), generator=generator), torch.randint(27, (32,), generator=generator)
    loss, by_hand = ByHand(weights).loss(windows, targets)
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    mixed = F.linear(leaves["table"][windows].flatten(1), leaves["W1"], leaves["b1"])
    normed = F.batch_norm(mixed, None, None, leaves["scale"], leaves["shift"], training=True)
    theirs = F.cross_entropy(F.linear(normed.tanh(), leaves["W2"], leaves["b2"]), targets)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-12)
    for (name, mine), his in zip(by_hand.items(), torch.autograd.grad(theirs, list(leaves.values())), strict=True):
        torch.testing.assert_close(mine, his, rtol=1e-9, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}")
