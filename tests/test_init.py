"""Initial weights: each scheme against its closed form, measured; every parameter filled once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nanogpt.errors import UserError
from nanogpt.model.init import MATRICES, VECTORS, Kaiming, Normal, fans, initialise, roles
from nanogpt.model.language_model import LanguageModel
from tests.helpers import TINY, VOCAB, make, model_config, tokens

WIDE = {
    "dim": 256,
    "n_layers": 3,
    "vocab_size": 300,
    "context": 64,
    "position": "learned",
    "mixer": "attention(heads=4, bias=all)",
    "norm": "layernorm",
    "layout": "pre",
}


def std(model: LanguageModel, name: str) -> float:
    w = dict(model.named_parameters())[name].detach()
    assert abs(float(w.mean())) < 5 * float(w.std()) / math.sqrt(w.numel()) + 1e-12
    return float(w.std())


def near(value: float) -> object:
    return pytest.approx(value, rel=0.02)


def test_normal() -> None:
    model = make(**WIDE, ffn="mlp(relu)", init="normal(std=0.05)")
    for name in (
        "embed.weight",
        "position.0.weight",
        "blocks.0.mixer.q.weight",
        "blocks.2.mixer.out.weight",
        "blocks.1.ffn.out.weight",
        "head.linear.weight",
    ):
        assert std(model, name) == near(0.05), name


def test_gpt2_scales_what_writes_to_the_stream() -> None:
    model = make(**WIDE, ffn="mlp(relu)", init="gpt2")
    for layer in range(3):
        for name in ("mixer.out", "ffn.out"):
            assert std(model, f"blocks.{layer}.{name}.weight") == near(0.02 / math.sqrt(2 * 3))
        assert std(model, f"blocks.{layer}.ffn.up.weight") == near(0.02)
    assert std(model, "position.0.weight") == near(0.02)


@pytest.mark.parametrize(
    ("act", "gain"), [("relu", 2**0.5), ("tanh", 5 / 3), ("identity", 1), ("sigmoid", 1), ("relu2", 1.5**-0.5)]
)
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_kaiming_has_the_gain_of_what_feeds_it(act: str, gain: float, distribution: str) -> None:
    model = make(**WIDE, ffn=f"mlp({act}, hidden=700)", init=f"kaiming(distribution={distribution}, embedding=0.7)")
    assert std(model, "blocks.0.ffn.up.weight") == near(1 / math.sqrt(256))
    assert std(model, "blocks.0.ffn.out.weight") == near(gain / math.sqrt(700))
    assert std(model, "blocks.0.mixer.q.weight") == near(1 / math.sqrt(256))
    assert std(model, "head.linear.weight") == near(1 / math.sqrt(256))
    assert std(model, "embed.weight") == near(0.7)
    w = model.blocks[0].ffn.out.weight.detach()
    if distribution == "uniform":
        assert float(w.abs().max()) <= math.sqrt(3) * gain / math.sqrt(700)
    else:
        assert float(w.abs().max()) > 3 * gain / math.sqrt(700)


def test_kaiming_fan_out() -> None:
    model = make(**WIDE, ffn="mlp(relu, hidden=700)", init="kaiming(mode=fan_out)")
    assert std(model, "blocks.0.ffn.up.weight") == near(1 / math.sqrt(700))
    assert std(model, "blocks.0.ffn.out.weight") == near(2**0.5 / math.sqrt(256))


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_xavier(distribution: str) -> None:
    model = make(**WIDE, ffn="mlp(relu, hidden=700)", init=f"xavier(distribution={distribution})")
    for name in ("up", "out"):
        assert std(model, f"blocks.0.ffn.{name}.weight") == near(math.sqrt(2 / (256 + 700)))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (4, 6, 3, 2)])
def test_fans_are_pytorchs(shape: tuple[int, ...]) -> None:
    assert fans(torch.empty(shape)) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


def test_kaiming_keeps_the_signal_through_30_layers_and_xaviers_variance_loses_it() -> None:
    """He et al. 2015, section 2.2, on bare ReLU layers: factor 1 against 2^(-30/2)."""
    x = torch.randn(256, 256)
    for gain, expected in ((2**0.5, 1.0), (1.0, 2.0**-15)):
        y = x
        for seed in range(30):
            w = torch.empty(256, 256)
            Kaiming().fill("hidden", w, gain, torch.Generator().manual_seed(seed))
            y = torch.relu(y @ w.T) if seed else y @ w.T
        ratio = float((y.square().mean() / x.square().mean()).sqrt())
        assert expected / 3 < ratio < expected * 3


def test_zero_output_starts_at_ln_v_as_the_identity() -> None:
    model = make(dim=24, ffn="swiglu", mixer="attention(heads=2)", norm="rmsnorm", init="zero_output")
    ids = tokens(4, 8)
    assert model.losses(ids, tokens(4, 8, 3))["nll"].item() == pytest.approx(math.log(VOCAB), abs=1e-6)
    assert (
        not model.head.linear.weight.any()
        and not model.blocks[0].ffn.out.weight.any()
        and not model.blocks[1].mixer.out.weight.any()
    )
    flow = model.flow(ids)
    x = model.embed(ids, flow)
    assert torch.equal(model.blocks[0](x, flow), x)
    assert std(
        make(**WIDE, ffn="mlp(relu)", init="zero_output(rest=normal(std=0.3))"), "blocks.0.ffn.up.weight"
    ) == near(0.3)


@pytest.mark.parametrize("name", TINY)
def test_vectors_start_at_zero_and_one_and_each_parameter_has_one_role(name: str) -> None:
    model = make(**TINY[name])
    known = model.roles()
    assert list(known) == [k for k, _ in model.named_parameters()]
    for key, parameter in model.named_parameters():
        assert known[key] in (*MATRICES, *VECTORS)
        if known[key] in VECTORS:
            assert parameter.ndim == 1
            assert (parameter == (1 if known[key] == "scale" else 0)).all()
        else:
            assert parameter.ndim == 2


def test_roles_by_name() -> None:
    known = make(**TINY["gpt2"]).roles()
    assert known["embed.weight"] == "embedding"
    assert known["position.0.weight"] == "position"
    assert known["blocks.0.mixer.q.weight"] == known["blocks.1.ffn.up.weight"] == "hidden"
    assert known["blocks.0.mixer.out.weight"] == known["blocks.1.ffn.out.weight"] == "residual"
    assert known["norm.weight"] == "scale"
    assert known["norm.bias"] == known["blocks.0.mixer.q.bias"] == "bias"
    assert make(**TINY["llama"]).roles()["head.linear.weight"] == "head"


def test_one_seed_agrees_wherever_name_and_shape_agree() -> None:
    a = dict(
        make(
            3, position="rotary", ffn="swiglu", mixer="attention(heads=2)", norm="rmsnorm", n_layers=4
        ).named_parameters()
    )
    b = dict(
        make(
            3, position="learned", ffn="mlp", mixer="attention(heads=4, bias=all)", norm="layernorm"
        ).named_parameters()
    )
    same = [k for k in a.keys() & b.keys() if a[k].shape == b[k].shape]
    assert {"embed.weight", "blocks.1.mixer.q.weight", "head.linear.weight"} <= set(same)
    assert all(torch.equal(a[k], b[k]) for k in same)


def test_names_seeds_and_nothing_global_decide_the_weights() -> None:
    torch.manual_seed(1)
    a = make(3, mixer="attention(heads=2)")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    b = make(3, mixer="attention(heads=2)")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    c = make(4, mixer="attention(heads=2)")
    assert not torch.equal(a.embed.weight, c.embed.weight)
    assert not torch.equal(a.blocks[0].mixer.q.weight, a.blocks[0].mixer.k.weight)
    assert not torch.equal(a.blocks[0].mixer.q.weight, a.blocks[1].mixer.q.weight)


class Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.lost = nn.Parameter(torch.empty(3))


def test_a_parameter_without_a_rule_fails_naming_it() -> None:
    model = LanguageModel(model_config())
    model.blocks[1].extra = Forgetful()
    with pytest.raises(UserError, match=r"blocks\.1\.extra\.lost has no rule .*Forgetful needs a method"):
        model.initialise(1)


def test_a_rule_that_fills_nothing_or_nonsense_fails() -> None:
    model = LanguageModel(model_config())
    for value in (math.nan, math.inf):
        model.embed.rules = lambda v=value: {"weight": lambda w: w.fill_(v)}
        with pytest.raises(UserError, match=r"embed\.weight"):
            model.initialise(1)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(3, 4), {"weight": "hidden", "bias": "bias"}),
        (nn.Embedding(3, 4), {"weight": "embedding"}),
        (nn.LayerNorm(3), {"weight": "scale", "bias": "bias"}),
        (nn.RMSNorm(3), {"weight": "scale"}),
        (nn.BatchNorm1d(3), {"weight": "scale", "bias": "bias"}),
        (nn.Conv1d(3, 4, 2), {"weight": "hidden", "bias": "bias"}),
    ],
)
def test_pytorchs_own_modules_are_known(module: nn.Module, expected: dict[str, str]) -> None:
    assert {k: r.name for k, r in roles(module).items()} == expected
    initialise(module, Normal(std=0.5), 1)
    assert all(p.isfinite().all() for p in module.parameters())
