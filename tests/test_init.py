"""Initial weights: each scheme against its closed form, measured; every parameter filled once."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import truncnorm
from torch import Tensor, nn

from benchmarks import coordinate_check
from nanogpt.errors import UserError
from nanogpt.init.base import initialise
from nanogpt.init.roles import MATRICES, VECTORS, Role, fans, roles
from nanogpt.init.schemes import CUT_STD, SCHEMES, Kaiming, Normal
from nanogpt.model.language_model import LanguageModel
from nanogpt.parts import build
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
            Kaiming().fill(Role("hidden", gain), w, torch.Generator().manual_seed(seed))
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


# ---- against torch.nn.init


def drawn(text: str, role: Role, shape: tuple[int, ...]) -> Tensor:
    w = torch.full(shape, math.nan)
    scheme = build(SCHEMES, text, dim=256, n_layers=3)
    scheme.fill(role, w, torch.Generator().manual_seed(torch.seed() % 2**31))
    return w


RELU, TANH, LEAKY = math.sqrt(2), 5 / 3, math.sqrt(2 / (1 + 0.25**2))
AFTER_RELU, BEFORE_TANH = Role("hidden", gain=RELU), Role("hidden", gain=9.0, then=TANH)
THEIRS = {
    "kaiming": (AFTER_RELU, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")),
    "kaiming(distribution=uniform)": (AFTER_RELU, lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu")),
    "kaiming(mode=fan_out)": (AFTER_RELU, lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu")),
    "kaiming(mode=fan_out, distribution=uniform, gain=after)": (
        BEFORE_TANH,
        lambda w: nn.init.kaiming_uniform_(w, mode="fan_out", nonlinearity="tanh"),
    ),
    "kaiming(gain=after)": (BEFORE_TANH, lambda w: nn.init.kaiming_normal_(w, nonlinearity="tanh")),
    "kaiming(gain=before)": (
        Role("residual", gain=LEAKY),
        lambda w: nn.init.kaiming_normal_(w, a=0.25, nonlinearity="leaky_relu"),
    ),
    "kaiming(gain=none)": (BEFORE_TANH, lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear")),
    "kaiming(mode=average)": (AFTER_RELU, lambda w: nn.init.xavier_normal_(w, gain=RELU)),
    "xavier": (BEFORE_TANH, nn.init.xavier_normal_),
    "xavier(distribution=uniform)": (BEFORE_TANH, nn.init.xavier_uniform_),
    "xavier(gain=after)": (BEFORE_TANH, lambda w: nn.init.xavier_normal_(w, gain=TANH)),
    "xavier(gain=before, distribution=uniform)": (AFTER_RELU, lambda w: nn.init.xavier_uniform_(w, gain=RELU)),
    "lecun": (AFTER_RELU, lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear")),
    "lecun(distribution=uniform)": (AFTER_RELU, lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear")),
    "truncated(std=0.3, cut=3)": (AFTER_RELU, lambda w: nn.init.trunc_normal_(w, std=0.3, a=-0.9, b=0.9)),
    "pytorch": (AFTER_RELU, lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5))),
    "orthogonal": (AFTER_RELU, lambda w: nn.init.orthogonal_(w, RELU)),
}


@pytest.mark.parametrize("shape", [(600, 700), (120, 100, 7, 5)])
@pytest.mark.parametrize("text", THEIRS)
def test_the_same_distribution_as_torchs(text: str, shape: tuple[int, ...]) -> None:
    role, fill = THEIRS[text]
    ours, theirs = drawn(text, role, shape), fill(torch.empty(shape))
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.01)
    where = (torch.linspace(0.05, 0.95, 19) * ours.numel()).long()
    gap = (ours.flatten().sort().values[where] - theirs.flatten().sort().values[where]).abs().max() / theirs.std()
    assert gap < 0.03  # five standard errors
    if "uniform" in text or "truncated" in text or text == "pytorch":
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.01)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (30, 6, 5)])
def test_orthogonal_is(shape: tuple[int, ...]) -> None:
    for gain, text in ((3.0, "orthogonal"), (5.0, "orthogonal(gain=after)"), (1.0, "orthogonal(gain=none)")):
        w = drawn(text, Role("hidden", 3.0, 5.0), shape).flatten(1)
        small = w @ w.T if shape[0] <= w.shape[1] else w.T @ w
        torch.testing.assert_close(small, gain**2 * torch.eye(len(small)), atol=1e-5 * gain**2, rtol=0)
        scheme = build(SCHEMES, text, dim=1, n_layers=1)
        assert float(w.std()) == pytest.approx(scheme.std(Role("hidden", 3.0, 5.0), w), rel=0.05)


@pytest.mark.parametrize("name", ["kaiming", "xavier", "lecun"])
def test_a_truncated_one_has_the_variance_and_no_outlier(name: str) -> None:
    """CUT_STD against scipy, which has the closed form of the truncated normal distribution."""
    assert pytest.approx(float(truncnorm(-2, 2).std()), rel=1e-12) == CUT_STD
    normal, cut = (drawn(f"{name}(distribution={d})", AFTER_RELU, (600, 800)) for d in ("normal", "truncated"))
    assert float(cut.std()) == pytest.approx(float(normal.std()), rel=0.01)
    assert float(cut.abs().max()) <= 2 * float(normal.std()) / CUT_STD * 1.01 < float(normal.abs().max())


def test_gain_before_and_after() -> None:
    """Of what feeds a matrix, and of what follows it (contract of nanogpt.model.linear.Linear)."""
    model = make(**WIDE, ffn="mlp(tanh, hidden=700)", init="xavier(gain=after)")
    model.blocks[0].ffn.up.then = 2.5
    model.initialise(3)
    assert std(model, "blocks.0.ffn.up.weight") == near(2.5 * math.sqrt(2 / 956))
    assert std(model, "blocks.0.ffn.out.weight") == near(math.sqrt(2 / 956))


# ---- biases, roles, nesting


def test_biases_are_zero_or_drawn_or_pytorchs() -> None:
    def bias(init: str, name: str = "blocks.0.ffn.up") -> Tensor:
        model = make(**WIDE, ffn="mlp(relu, bias=zeros)", init=init)
        return dict(model.named_parameters())[f"{name}.bias"].detach()

    for scheme in SCHEMES:
        if scheme != "pytorch":
            assert not bias(scheme).any()
    assert float(bias("normal(std=0.1, bias=0.7)").std()) == pytest.approx(0.7, rel=0.1)
    assert float(bias("pytorch").abs().max()) == pytest.approx(1 / math.sqrt(256), rel=0.02)
    assert float(bias("pytorch", "blocks.0.ffn.out").abs().max()) == pytest.approx(1 / math.sqrt(1024), rel=0.04)
    assert not bias("pytorch", "norm").any()


def test_by_role_gives_each_its_own_and_a_bias_goes_with_its_matrix() -> None:
    init = (
        "by_role(rest=normal(std=0.5, bias=0.25), embedding=normal(std=2), position=zeros, "
        "residual=xavier, head=normal(std=0.03, bias=0.125))"
    )
    model = make(**WIDE, ffn="mlp(relu, bias=zeros, hidden=700)", head="linear(bias=zeros)", init=init)
    assert std(model, "embed.weight") == near(2)
    assert not model.position[0].weight.any()
    assert std(model, "blocks.0.ffn.up.weight") == near(0.5)
    assert std(model, "blocks.0.mixer.q.weight") == near(0.5)
    assert std(model, "blocks.0.ffn.out.weight") == near(math.sqrt(2 / 956))
    assert std(model, "head.linear.weight") == near(0.03)
    assert float(model.blocks[1].ffn.up.bias.detach().std()) == pytest.approx(0.25, rel=0.15)
    assert float(model.head.linear.bias.detach().std()) == pytest.approx(0.125, rel=0.25)
    assert not model.blocks[1].ffn.out.bias.any()
    assert str(model.scheme.spec).startswith("by_role(rest=normal(std=0.5, bias=0.25), embedding=normal(std=2.0,")
    assert "hidden=rest, residual=xavier(" in str(model.scheme.spec)


def test_deepnorm_scales_all_but_queries_and_keys() -> None:
    beta = (8 * 3) ** -0.25
    model = make(**WIDE, ffn="mlp(relu, hidden=700)", init="deepnorm")
    square = math.sqrt(2 / 512)
    assert std(model, "blocks.0.mixer.q.weight") == near(square)
    assert std(model, "blocks.2.mixer.k.weight") == near(square)
    assert std(model, "blocks.1.mixer.v.weight") == near(beta * square)
    assert std(model, "blocks.1.mixer.out.weight") == near(beta * square)
    for name in ("up", "out"):
        assert std(model, f"blocks.1.ffn.{name}.weight") == near(beta * math.sqrt(2 / 956))
    assert std(model, "head.linear.weight") == near(math.sqrt(2 / 556))
    assert std(make(**WIDE, init="deepnorm(rest=normal(std=1))"), "blocks.0.mixer.v.weight") == near(beta)


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_the_saved_text_builds_the_same_again(name: str) -> None:
    written = str(make(init=name, ffn="mlp").scheme.spec)
    one, two = make(init=name, ffn="mlp"), make(init=written, ffn="mlp")
    assert str(two.scheme.spec) == written
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# ---- muP


def test_mup_is_table_3() -> None:
    """Var: 1 / fan_in and, for the head, 1 / fan_in^2 (times base); Adam's rate 1 / fan_in (times base) but for tables
    and vectors."""
    model = make(**WIDE, ffn="mlp(relu, hidden=512, bias=zeros)", init="mup(base=32, embedding=0.4)")
    assert std(model, "blocks.0.mixer.q.weight") == near(1 / 16)
    assert std(model, "blocks.0.ffn.out.weight") == near(math.sqrt(2 / 512))
    assert std(model, "head.linear.weight") == near(math.sqrt(32) / 256)
    assert std(model, "embed.weight") == near(0.4)
    wide = {n for n, role in model.roles().items() if role in ("hidden", "residual", "head")}
    assert model.rates() == {n: 1 / 8 if n in wide else 1.0 for n, _ in model.named_parameters()}
    assert len(wide) == 3 * 6 + 1


def test_mup_leaves_what_does_not_get_wider() -> None:
    """A filter for each number reads `kernel` numbers at any width: to table 3 it is a vector, as a norm's gain is."""
    deep, dense = (make(init="mup(base=4)", mixer=f"conv(kernel=3, groups={groups})").rates() for groups in (16, 1))
    assert deep["blocks.0.mixer.weight"] == 1.0 and dense["blocks.0.mixer.weight"] == 0.25


def test_mup_at_its_base_is_kaiming() -> None:
    one, two = (make(init=init, ffn="swiglu", mixer="attention(heads=2)") for init in ("mup(base=16)", "kaiming"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert set(one.rates().values()) == {1.0}


@pytest.mark.parametrize("init", ["mup", "by_role(rest=mup)", "zero_output(rest=mup(base=8))", "deepnorm(rest=mup)"])
def test_mup_refuses_a_tied_head_and_keeps_its_rates_when_nested(init: str) -> None:
    with pytest.raises(UserError, match=r"model\.head=tied: mup .* one matrix cannot be both"):
        make(init=init, head="tied")
    assert len(set(make(init=init, ffn="mlp").rates().values())) == 2


def test_other_schemes_leave_the_learning_rate() -> None:
    for name in SCHEMES.keys() - {"mup"}:
        assert set(make(init=name, ffn="mlp").rates().values()) == {1.0}


def test_the_coordinate_check() -> None:
    """After a few steps of Adam: without muP activations have moved by more in the wider model, with it by as much."""
    random = torch.Generator().manual_seed(torch.seed() % 2**31)
    text = [tuple(torch.randint(65, (2, 4, 32), generator=random)) for _ in range(3)]
    slopes = {}
    for name, init in coordinate_check.INITS.items():
        sizes = {width: coordinate_check.measure(init, width, 1, text, 65, steps=(1, 2)) for width in (64, 256)}
        slopes[name] = [
            coordinate_check.slope(coordinate_check.points(sizes, f"block {block}", step))
            for block in (1, 2, 3)
            for step in (1, 2)
        ]
    assert min(slopes["standard"]) > 0.55
    assert max(map(abs, slopes["mup"])) < 0.4
