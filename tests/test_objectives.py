"""What is minimised, against torch's own and closed forms; what is reported stays the loss of the text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel
from tests.helpers import VOCAB, make, scrambled, tokens


def fresh(objective: str, **fields: Any) -> tuple[LanguageModel, Tensor, Tensor, Tensor]:
    """A model with random weights, some tokens, targets of which some are not scored, and its logits."""
    seed = int(torch.seed() % 2**31)
    model = scrambled(seed, objective=objective, ffn="mlp(relu)", norm="layernorm", **fields)
    ids, targets = tokens(3, 8, seed), tokens(3, 8, seed + 1)
    targets[0, 5:] = targets[2, :2] = -1
    return model, ids, targets, model(ids).flatten(0, 1)


def test_plain_is_cross_entropy_and_nothing_else() -> None:
    model, ids, targets, logits = fresh("next_token")
    terms = model.losses(ids, targets)
    assert terms.keys() == {"loss", "nll"}
    torch.testing.assert_close(terms["nll"], F.cross_entropy(logits, targets.flatten(), ignore_index=-1))


def test_a_model_in_double_has_its_loss_in_double() -> None:
    model, ids, targets, _ = fresh("next_token(label_smoothing=0.2, z_loss=0.3)")
    terms = model.double().losses(ids, targets)
    assert {term.dtype for term in terms.values()} == {torch.float64}
    wanted = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=-1)
    torch.testing.assert_close(terms["nll"], wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing_is_torchs(smoothing: float) -> None:
    model, ids, targets, logits = fresh(f"next_token(label_smoothing={smoothing})")
    terms = model.losses(ids, targets)
    flat = targets.flatten()
    wanted = F.cross_entropy(logits, flat, ignore_index=-1, label_smoothing=smoothing)
    torch.testing.assert_close(terms["loss"], wanted)
    torch.testing.assert_close(terms["nll"], F.cross_entropy(logits, flat, ignore_index=-1))
    ours, theirs = (torch.autograd.grad(t, model.embed.weight, retain_graph=True)[0] for t in (terms["loss"], wanted))
    torch.testing.assert_close(ours, theirs)


def test_z_loss_is_palms() -> None:
    """c log^2 Z, the mean over scored tokens; Z written out."""
    model, ids, targets, logits = fresh("next_token(z_loss=0.01)", head="linear(bias=zeros)")
    terms = model.losses(ids, targets)
    scored = logits[targets.flatten() >= 0]
    torch.testing.assert_close(terms["z_loss"], 0.01 * scored.exp().sum(1).log().square().mean())
    torch.testing.assert_close(terms["loss"], terms["nll"] + terms["z_loss"])
    terms["loss"].backward()
    shares = scored.softmax(1)  # d loss / d bias_v = mean(p_v - [v is the target] + 2 c log Z p_v)
    hot = F.one_hot(targets.flatten()[targets.flatten() >= 0], VOCAB)
    wanted = (shares - hot + 0.02 * scored.logsumexp(1, keepdim=True) * shares).mean(0)
    torch.testing.assert_close(model.head.linear.bias.grad, wanted.detach())


def test_both_add_up_and_nll_stays_pure() -> None:
    model, ids, targets, logits = fresh("next_token(label_smoothing=0.2, z_loss=0.3)")
    terms = model.losses(ids, targets)
    assert terms.keys() == {"loss", "nll", "smoothing", "z_loss"}
    torch.testing.assert_close(terms["loss"], terms["nll"] + terms["smoothing"] + terms["z_loss"])
    torch.testing.assert_close(terms["nll"], F.cross_entropy(logits, targets.flatten(), ignore_index=-1))


def test_pieces_of_a_batch_add_up() -> None:
    """Micro-batches are divided by the scored tokens of the whole."""
    model, ids, targets, _ = fresh("next_token(label_smoothing=0.2, z_loss=0.3)")
    whole = model.losses(ids, targets)["loss"]
    count = float((targets >= 0).sum())
    pieces = [model.losses(ids[n : n + 1], targets[n : n + 1], count=count)["loss"] for n in range(3)]
    torch.testing.assert_close(torch.stack(pieces).sum(), whole)


@pytest.mark.parametrize("knob", ["label_smoothing=1", "label_smoothing=-0.1", "z_loss=-1"])
def test_wrong_knobs_are_refused(knob: str) -> None:
    with pytest.raises(UserError, match=r"model\.objective: next_token: " + knob.partition("=")[0]):
        make(objective=f"next_token({knob})")
