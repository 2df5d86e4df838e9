"""One look: what is in it equals what the same quantity is by its definition, and the model is left as it was."""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from nanogpt.config import compose
from nanogpt.model.language_model import LanguageModel
from nanogpt.observers.language import Words
from nanogpt.observers.look import Probe, look, probe_of_config
from nanogpt.observers.output import calibration, error, tenths
from nanogpt.observers.store import Observation
from tests.helpers import VOCAB, make, scrambled, tokens

T = 8


def words(batch: int = 6, **more: Tensor) -> Words:
    """Tokens and other tokens as targets."""
    return Words(tokens(batch, T, seed=4), tokens(batch, T, seed=5), **more)


def look_at(model: LanguageModel, seen_words: Words, **more: object) -> Observation:
    w = seen_words
    probe = Probe(lambda: model.losses(w.tokens_BT, w.targets_BT, w.mask_BT, w.documents_BT)["loss"], words=w)
    return look(model, probe, **more)


def test_gradients_are_autograds() -> None:
    """Against retain_grad, which needs a backward pass of its own; also of what is changed in place afterwards."""
    model = nn.Sequential(nn.Linear(5, 9), nn.ReLU(inplace=True), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3))
    x, y = torch.randn(20, 5), torch.randint(3, (20,))
    seen = look(model, Probe(lambda: F.cross_entropy(model(x), y)))
    h, outputs = x, []
    for number, layer in enumerate(model):
        h = F.relu(h) if number == 1 else layer(h)
        h.retain_grad()
        outputs.append(h)
    F.cross_entropy(h, y).backward()
    for number, out in enumerate(outputs):
        assert out.grad is not None
        found = seen.table("activation_gradients", "std")[str(number)]
        assert found == pytest.approx(float(out.grad.std(correction=0)), rel=1e-4), number
        assert seen.table("activations", "mean")[str(number)] == pytest.approx(float(out.detach().mean()), abs=1e-6)
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert seen.table("weight_gradients", "norm")[name] == pytest.approx(float(p.grad.norm()), rel=1e-4)
        assert seen.table("weights", "max")[name] == float(p.detach().max())


class Nervous(nn.Module):
    """Random in three ways, with a buffer that is changed and one that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.last = self.last + 1
        return self.drop(self.norm(self.linear(x))) + random.random() + float(np.random.rand()) + torch.rand(())


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed(fails: bool) -> None:
    model, x = Nervous(), torch.randn(6, 4)
    model.norm.eval()
    model.linear.weight.grad = held = torch.ones(4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = dict(model.named_buffers())
    drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    def loss() -> Tensor:
        out = model(x).sum()
        if fails:
            raise RuntimeError("no more memory")
        return out

    if fails:
        with pytest.raises(RuntimeError):
            look(model, Probe(loss))
    else:
        look(model, Probe(loss))
    assert random.getstate() == drawn[0] and np.random.get_state()[1].tolist() == drawn[1]
    assert torch.equal(torch.get_rng_state(), drawn[2])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())
    assert model.linear.weight.grad is held and held.sum() == 16 and model.linear.bias.grad is None
    assert model.training and model.drop.training and not model.norm.training
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]


def test_it_is_the_same_each_time_and_without_dropout() -> None:
    model = scrambled(layout="pre(dropout=0.5)", ffn="mlp(hidden=24)").train()
    one, two = look_at(model, words()), look_at(model, words())
    assert one.arrays.keys() == two.arrays.keys()
    assert all(np.array_equal(one.arrays[k], two.arrays[k], equal_nan=True) for k in one.arrays)
    w = words()
    model.eval()
    assert one.arrays["loss"] == pytest.approx(float(model.losses(w.tokens_BT, w.targets_BT)["loss"].detach()))


def test_stream_and_lens() -> None:
    model, w = scrambled(ffn="mlp(hidden=24)", norm="rmsnorm", n_layers=3, position="learned"), words()
    seen = look_at(model, w)
    states = [model.embed(w.tokens_BT, flow := model.flow(w.tokens_BT)).detach()]
    for block in model.blocks:
        states.append(block(states[-1], flow).detach())
    assert seen.names["stream"] == ["blocks.0", "blocks.1", "blocks.2"]
    for number, (before, after) in enumerate(pairwise(states)):
        added = after - before
        assert seen.arrays["stream/rms"][number] == pytest.approx(float(after.square().mean().sqrt()), rel=1e-5)
        assert seen.arrays["stream/share"][number] == pytest.approx(
            float((added.norm(dim=-1) / before.norm(dim=-1)).mean()), rel=1e-4
        )
        cosine = F.cosine_similarity(added, before, dim=-1).mean()
        assert seen.arrays["stream/cosine"][number] == pytest.approx(float(cosine), abs=1e-5)
        logits = model.logits(model.norm(after)).detach()
        loss = F.cross_entropy(logits.flatten(0, 1), w.targets_BT.flatten())
        assert seen.arrays["lens/loss"][number] == pytest.approx(float(loss), rel=1e-4)
        errors = F.cross_entropy(logits.flatten(0, 1), w.targets_BT.flatten(), reduction="none")
        assert seen.arrays["lens/error"][number] == pytest.approx(stats.sem(errors.numpy()), rel=1e-3)
        assert seen.arrays["lens/tokens"][number].tolist() == logits[0].argmax(-1).tolist()
        assert np.allclose(seen.arrays["lens/chances"][number], logits[0].softmax(-1).amax(-1), rtol=1e-4)
    assert seen.arrays["lens/agree"][-1] == 1
    assert seen.facts["text"] == w.tokens_BT[0].tolist() and seen.facts["targets"] == w.targets_BT[0].tolist()


@pytest.mark.parametrize(
    "mixer", ["attention(heads=2)", "attention(heads=4, kv_heads=2)", "attention(heads=2, window=3, softcap=2.0)"]
)
@pytest.mark.parametrize("position", ["rotary", "alibi"])
def test_attention_by_head(mixer: str, position: str) -> None:
    """The entropy is that of the weights with which values are averaged: with v the identity they come out of it."""
    model, w = scrambled(mixer=mixer, position=position, n_layers=1), words(batch=3)
    seen = look_at(model, w)
    attention = model.blocks[0].mixer
    taken: list[tuple[Tensor, ...]] = []

    def identity(module: nn.Module, inputs: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:
        q, k, _ = inputs
        eye = torch.eye(T).expand(*k.shape[:2], T, T)
        taken.append((q, k))
        return (q, k, eye), kwargs

    attend = attention.attend
    first = attend.register_forward_pre_hook(identity, with_kwargs=True)
    last = attend.register_forward_hook(lambda m, i, o: taken.append((o,)))
    with suppress(RuntimeError):  # the joined heads no longer fit the matrix after them
        model.hidden(model.flow(w.tokens_BT))
    first.remove()
    last.remove()
    weights = taken[-1][0].detach()
    assert weights.shape[-2:] == (T, T) and torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    entropy = torch.special.entr(weights).sum(-1).mean((0, 2))
    assert seen.names["attention"] == [f"blocks.0.mixer:{n}" for n in range(weights.shape[1])]
    assert np.allclose(seen.arrays["attention/entropy"], entropy, atol=1e-4)
    seen_first = weights.gather(-1, (weights > 0).int().argmax(-1, keepdim=True))[..., 0].mean((0, 2))
    assert np.allclose(seen.arrays["attention/first"], seen_first, atol=1e-4)
    assert (seen.arrays["attention/logit"] <= 2 if "softcap" in mixer and position == "rotary" else np.True_).all()


def test_the_largest_attention_logit() -> None:
    model, w = scrambled(mixer="attention(heads=2)", n_layers=1), words(batch=3)
    seen = look_at(model, w)
    block = model.blocks[0]
    x = block.mixer_norm(model.embed(w.tokens_BT, model.flow(w.tokens_BT)))
    q, k = block.mixer.q(x), block.mixer.k(x)
    q, k = (x.detach().view(3, T, 2, 8).transpose(1, 2) for x in (q, k))
    logits = (q @ k.mT / 8**0.5).masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf)
    assert np.allclose(seen.arrays["attention/logit"], logits.amax((0, 2, 3)), rtol=1e-4)


def test_output() -> None:
    counts = torch.randint(1, 1000, (VOCAB,))
    model, w = scrambled(ffn="mlp(hidden=24)"), words(counts_V=counts)
    w.targets_BT[1, 3:] = -1
    seen = look_at(model, w)
    real = w.targets_BT >= 0
    logits = model(w.tokens_BT).detach()[real]
    chances, targets = logits.softmax(-1), w.targets_BT[real]
    loss = F.cross_entropy(logits, targets, reduction="none")
    assert seen.arrays["output/entropy"] == pytest.approx(float(torch.special.entr(chances).sum(1).mean()), rel=1e-5)
    table = seen.arrays["output/calibration"]
    assert table.shape == (15, 3) and table[:, 0].sum() == real.sum()
    sure, said = chances.max(1)
    by_hand = 0.0
    for m in range(15):
        inside = (sure > m / 15) & (sure <= (m + 1) / 15)
        if inside.any():
            distance = sure[inside].mean() - (said == targets)[inside].float().mean()
            by_hand += float(inside.float().mean() * distance.abs())
    assert seen.arrays["output/error"] == pytest.approx(by_hand, abs=1e-5)
    place = real.nonzero()[:, 1]
    for t in range(T):
        count, mean, error = seen.arrays["output/position"][t]
        here = loss[place == t].numpy()
        assert count == len(here) and mean == pytest.approx(here.mean(), rel=1e-4)
        assert error == pytest.approx(stats.sem(here), rel=1e-3, nan_ok=True) if len(here) > 1 else np.isnan(error)
    tenth = torch.from_numpy(tenths(counts.numpy()))
    for n, (count, mean, _) in enumerate(seen.arrays["output/frequency"]):
        inside = tenth[targets] == n
        assert count == inside.sum() and (not count or mean == pytest.approx(float(loss[inside].mean()), rel=1e-4))


def test_a_calibrated_guesser_has_no_error() -> None:
    """Published definition (Guo et al. 2017): who says 0.7 and is right in seven of ten is calibrated."""
    sure = np.repeat([0.3, 0.7], 1000)
    right = np.tile(np.arange(10) < 3, 100), np.tile(np.arange(10) < 7, 100)
    assert error(calibration(sure, np.concatenate(right).astype(float))) == pytest.approx(0, abs=1e-12)
    assert error(calibration(np.full(10, 0.9), np.zeros(10))) == pytest.approx(0.9)


def test_tenths_hold_a_tenth_of_the_text_each() -> None:
    counts = np.random.default_rng().integers(1, 50, 5000)
    tenth = tenths(counts)
    shares = np.bincount(tenth, counts, 10) / counts.sum()
    assert np.allclose(shares, 0.1, atol=0.005)
    assert counts[tenth == 0].min() >= counts[tenth == 9].max(), "the first is the commonest"


@pytest.mark.parametrize(
    "parts",
    [
        {"mixer": "gru", "position": "none"},
        {"layout": "post", "norm": "layernorm"},
        {"layout": "parallel"},
        {"n_layers": 0},
        {"head": "perceptron(hidden=9)", "n_layers": 0},
        {"mixer": "conv(kernel=2)", "position": "none"},
        {"head": "tied"},
        {"dim": "vocab", "head": "none", "mixer": "none", "ffn": "none", "position": "none", "n_layers": 0},
    ],
    ids=str,
)
def test_any_model_of_ours_can_be_looked_at(parts: dict[str, object]) -> None:
    model = make(**parts)
    seen = look_at(model, words())
    assert np.isfinite(seen.arrays["loss"]) and "activations" in seen.names and "output/entropy" in seen.arrays
    for name in ("stream/rms", "lens/loss"):
        assert (name in seen.arrays) == bool(len(model.blocks))


def test_documents_and_padding() -> None:
    mask = torch.arange(T) < torch.tensor([8, 3, 5, 1, 7, 8])[:, None]
    w = words(mask_BT=mask)
    w.targets_BT[~mask] = -1
    for more in (w, words(documents_BT=(torch.arange(T) // 3).expand(6, T))):
        model = scrambled(mixer="attention(heads=2)", ffn="mlp(act=relu, hidden=24)", position="rotary")
        seen = look_at(model, more)
        assert all(np.isfinite(seen.arrays[f"attention/{k}"]).all() for k in ("entropy", "logit", "first"))
        assert (seen.arrays["attention/entropy"] <= np.log(T) + 1e-6).all()
        assert seen.arrays["output/position"][:, 0].sum() == (more.targets_BT >= 0).sum()


@pytest.mark.parametrize("preset", ["gpt-64", "makemore"])
def test_the_probe_of_a_configuration(preset: str, data_dir: object) -> None:
    """Real text, and always the same."""
    small = ["model.n_layers=1"] if preset == "gpt-64" else []
    config = compose(preset, small)
    model, probe, tokenizer = probe_of_config(config)
    again = probe_of_config(config)[1]
    assert probe.words is not None and again.words is not None
    assert torch.equal(probe.words.tokens_BT, again.words.tokens_BT)
    assert 250 <= probe.tokens <= 1100
    seen = look(model, probe)
    assert abs(float(seen.arrays["loss"]) - np.log(tokenizer.vocab_size)) < 1.5
    assert seen.facts["tokens"] == probe.tokens and seen.facts["seconds"] > 0
