"""What is observed under which name, and which neurons are dead: planted in known places, exactly those are found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nanogpt.activations import ACTIVATIONS
from nanogpt.observers.look import Probe, look
from nanogpt.observers.rest import is_activation, rest_of
from nanogpt.observers.sites import sites
from nanogpt.observers.store import Observation
from nanogpt.parts import build
from tests.helpers import make, scrambled, tokens

TOKENS, UNITS = 300, 20


def seen_of(model: nn.Module, x: Tensor) -> Observation:
    return look(model, Probe(lambda: model(x).square().mean()))


def test_names_are_the_models_and_each_tensor_is_seen_once() -> None:
    model = scrambled(ffn="swiglu(hidden=24)", norm="rmsnorm", mixer="attention(heads=2, qk_norm=rmsnorm)")
    ids = tokens(3, 8)
    seen = look(model, Probe(lambda: model.losses(ids, ids)["loss"]))
    block = ["mixer_norm", "mixer.q", "mixer.q_norm", "mixer.k", "mixer.k_norm", "mixer.v", "mixer.out", "ffn_norm",
             "ffn.gate", "ffn.up", "ffn.act", "ffn", "ffn.out"]  # fmt: skip
    want = ["embed"]
    for layer in (0, 1):
        want += [f"blocks.{layer}.{name}" for name in block] + [f"blocks.{layer}"]
    want += ["norm", "head.linear"]
    assert sorted(seen.names["activations"]) == sorted(want)
    assert sorted(seen.names["activation_gradients"]) == sorted(want), "gradients arrive at all of them"
    assert seen.names["weights"] == [name for name, _ in model.named_parameters()]
    assert [u.name for u in seen.units] == [f"blocks.{n}.{name}" for n in (0, 1) for name in ("ffn.act", "ffn")]


def test_containers_and_what_does_nothing_are_left_out() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Identity(), nn.ReLU())
    model = nn.Sequential(inner, nn.ModuleList([nn.Linear(4, 4)])[0], nn.Flatten())
    assert [s.name for s in sites(model) if s.activation] == ["0.3"]
    seen = seen_of(model, torch.randn(5, 4))
    assert seen.names["activations"] == ["0.0", "0.3", "1"]


def planted(act: nn.Module, dead: list[int], bias: float, scale: float = 1.0) -> nn.Sequential:
    """A layer whose units are alive, but for some that this bias keeps down whatever comes in."""
    linear = nn.Linear(8, UNITS)
    with torch.no_grad():
        linear.weight.normal_()
        linear.bias.zero_()
        linear.bias[dead] = bias
        linear.weight[dead] *= scale
    return nn.Sequential(linear, act, nn.Linear(UNITS, 2))


class Own(nn.Module):
    """An activation that nobody has heard of."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) ** 1.5


@pytest.mark.parametrize(
    ("act", "bias", "kind"),
    [
        (nn.ReLU(), -99.0, "rectified"),
        (nn.ReLU(inplace=True), -99.0, "rectified"),
        (Own(), -99.0, "rectified"),
        (nn.Hardswish(), -99.0, "rectified"),
        (nn.Tanh(), 99.0, "bounded"),
        (nn.Tanh(), -99.0, "bounded"),
        (nn.Sigmoid(), 99.0, "bounded"),
        (nn.Hardtanh(), 99.0, "bounded"),
        (nn.ReLU6(), 99.0, "bounded"),
        (nn.ReLU6(), -99.0, "bounded"),
        (nn.GELU(), -99.0, "smooth"),
        (nn.SiLU(), -99.0, "smooth"),
        (nn.ELU(), -99.0, "smooth"),
    ],
    ids=lambda value: str(value),
)
def test_planted_dead_units_are_found_exactly(act: nn.Module, bias: float, kind: str) -> None:
    dead = sorted(np.random.default_rng().choice(UNITS, 5, replace=False).tolist())
    model = planted(act, dead, bias)
    seen = seen_of(model, torch.randn(TOKENS, 8))
    assert [(u.name, u.count, u.kind) for u in seen.units] == [("1", UNITS, kind)]
    assert np.flatnonzero(seen.active("1") == 0).tolist() == dead
    assert seen.facts["tokens"] == TOKENS
    linear = model[0]
    assert isinstance(linear, nn.Linear)
    assert np.allclose(seen.arrays["neurons/bias"], linear.bias.detach(), rtol=1e-3)
    assert np.allclose(seen.arrays["neurons/norm"], linear.weight.detach().norm(dim=1), rtol=1e-3)


def test_how_often_each_unit_is_active() -> None:
    """Counted by hand, rarely and always included."""
    model = planted(nn.ReLU(), [0, 1], 99.0)
    with torch.no_grad():
        model[0].bias[2:4] = -7.0
    x = torch.randn(TOKENS, 8)
    seen = seen_of(model, x)
    count = (model[0](x) > 0).sum(0)
    assert np.array_equal(seen.arrays["neurons/active"], count.numpy())
    assert (seen.active("1")[:2] == 1).all()


def test_tanh_counts_as_the_lecture_does() -> None:
    model, x = planted(nn.Tanh(), [], 0.0, 1.0), torch.randn(TOKENS, 8)
    seen = seen_of(model, x)
    share = (model[0](x).tanh().abs() > 0.97).float().mean()
    assert 0.1 < share < 0.9
    assert seen.table("activations", "saturated")["1"] == pytest.approx(float(share), abs=1e-6)
    assert np.isnan(seen.table("activations", "saturated")["0"])


@pytest.mark.parametrize("ffn", ["mlp(act=relu, hidden=24, bias=zeros)", "reglu(hidden=24)", "swiglu(hidden=24)",
                                 "bilinear(hidden=24)", "clamped_swiglu(hidden=24)"])  # fmt: skip
def test_planted_in_a_language_model(ffn: str) -> None:
    model, ids = make(ffn=ffn, norm="rmsnorm"), tokens(40, 8)
    with torch.no_grad():
        if ffn.startswith("mlp"):
            name, dead = "blocks.1.ffn.act", [2, 3, 17]
            model.blocks[1].ffn.up.bias[dead] = -99.0
        elif ffn.startswith("clamped"):  # (u + 1) keeps a unit open where only up is zero
            name, dead = "blocks.1.ffn", [2, 3, 17]
            model.blocks[1].ffn.gate.weight[dead] = 0.0
        else:
            name, dead = "blocks.1.ffn", [2, 3, 17]
            model.blocks[1].ffn.up.weight[dead] = 0.0
    seen = look(model, Probe(lambda: model.losses(ids, ids)["loss"], tokens=320))
    for units in seen.units:
        assert np.flatnonzero(seen.active(units.name) == 0).tolist() == (dead if units.name == name else []), units
    norms = dict(zip([u.name for u in seen.units], np.split(seen.arrays["neurons/norm"], len(seen.units)), strict=True))
    up = model.blocks[1].ffn.up.weight.detach().norm(dim=1)
    assert np.allclose(norms[name], up, rtol=1e-2)
    gate = getattr(model.blocks[1].ffn, "gate", None)
    if "blocks.1.ffn.act" in norms and gate is not None:
        assert np.allclose(norms["blocks.1.ffn.act"], gate.weight.detach().norm(dim=1), rtol=1e-2)


def test_units_of_a_convolution_are_its_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv1d(1, 1, 1))
    model = model[:3]
    with torch.no_grad():
        model[1].bias[4] = -99.0
    x = torch.randn(7, 3, 5, 5)
    seen = look(model, Probe(lambda: model(x).mean(), tokens=7))
    assert np.flatnonzero(seen.active("2") == 0).tolist() == [4]
    assert ((seen.active("2") > 0) & (seen.active("2") <= 1)).sum() == 5, "a share of the probe's examples"
    assert seen.arrays["neurons/bias"][4] == -99, "what keeps a unit down after a norm is the norm's bias"
    assert np.allclose(seen.arrays["neurons/norm"], model[0].weight.detach().flatten(1).norm(dim=1), rtol=1e-3)
    flat = nn.Sequential(nn.Conv1d(2, 6, 3), nn.Tanh())
    assert [(u.name, u.count) for u in seen_of(flat, torch.randn(4, 2, 9)).units] == [("1", 6)]


def test_several_inputs_or_outputs_a_unit() -> None:
    for act, units in (("maxout(k=2)", 24), ("crelu", 48)):
        model, ids = scrambled(ffn=f"mlp(act='{act}', hidden=24)", n_layers=1), tokens(4, 8)
        seen = look(model, Probe(lambda: model.losses(ids, ids)["loss"]))  # noqa: B023
        square = model.blocks[0].ffn.up.weight.detach().square().sum(1)
        rows = square.view(24, -1).sum(1).sqrt().repeat(units // 24)
        assert seen.units[0].count == units
        assert np.allclose(seen.arrays["neurons/norm"], rows, rtol=1e-2)


def test_padding_is_not_looked_at() -> None:
    """A unit that is active on padding alone is dead, and the statistics are those of the tokens."""
    model, ids = make(ffn="mlp(act=relu, hidden=24)"), tokens(5, 8)
    mask = torch.arange(8) < torch.tensor([8, 3, 5, 1, 7])[:, None]
    targets = torch.where(mask, ids, -1)
    places = mask.flatten().nonzero().flatten()
    probe = Probe(lambda: model.losses(ids, targets, mask)["loss"], tokens=24, places=places, shape=(5, 8))
    seen = look(model, probe)
    inside = model.embed(ids, model.flow(ids, mask))[mask].detach()
    assert seen.table("activations", "std")["embed"] == pytest.approx(float(inside.std(correction=0)), rel=1e-4)
    assert seen.arrays["activations/histogram"][0].sum() == 24 * 16
    assert seen.arrays["neurons/active"].max() <= 24


def test_a_part_that_runs_for_every_token() -> None:
    """A recurrent activation is called once a time step: its units are counted over all of them."""
    model, ids = scrambled(mixer="rnn(act=relu)", position="none", n_layers=1, ffn="none"), tokens(6, 8)
    seen = look(model, Probe(lambda: model.losses(ids, ids)["loss"], tokens=48))
    states = []
    act = model.blocks[0].mixer.act
    handle = act.register_forward_hook(lambda m, i, o: states.append(o > 0))
    model(ids)
    handle.remove()
    assert np.array_equal(seen.arrays["neurons/active"], torch.stack(states).sum((0, 1)).numpy())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_of_ours_is_known_for_what_it_is(name: str) -> None:
    act = build(ACTIVATIONS, name, dim=8)
    for parameter in act.parameters():
        nn.init.constant_(parameter, 0.3)
    act.eval()
    assert is_activation(act) == (name != "identity")
    kinds = {
        "bounded": "sigmoid hard_sigmoid tanh lecun_tanh hardtanh softsign arctan isru gaussian relu6",
        "rectified": "step sign relu relu2 shifted_relu threshold_relu hardshrink softshrink hardswish star_relu",
    }
    kind = next((kind for kind, names in kinds.items() if name in names.split()), "smooth")
    assert rest_of(act, 8 * act.inputs).kind == kind


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * x + 1


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.abs().mean()


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.relu() + y


class Swish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


@pytest.mark.parametrize(
    ("make_module", "bends"),
    [(Scaled, False), (Mixed, False), (Two, False), (Swish, True), (Own, True), (lambda: nn.LayerNorm(4), False),
     (lambda: nn.Softmax(-1), False), (nn.Flatten, False), (lambda: nn.Linear(4, 4), False), (nn.Mish, True)],
)  # fmt: skip
def test_anyones_activation_is_known_by_trying_it(make_module: Callable[[], nn.Module], bends: bool) -> None:
    assert is_activation(make_module()) == bends
