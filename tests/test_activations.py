"""Activations against closed forms, PyTorch's own, numerical integration and published numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import BSpline
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from nanogpt.activations import ACTIVATIONS
from nanogpt.errors import UserError
from nanogpt.optim.groups import groups
from nanogpt.optim.optimizers import make_optimizers
from nanogpt.parts import build
from tests.helpers import make, tokens

LEARNED = ["prelu", "swish", "snake", "star_relu", "xielu", "kan"]
VECTORS = ["softmax", "sparsemax", "gumbel_softmax", "crelu", "maxout"]
"""Those that are not of one number alone."""
ALONE = sorted(set(ACTIVATIONS) - set(VECTORS))


def act(text: str, dim: int = 1) -> Any:
    """An activation in fp64, in evaluation mode, its parameters at their start; a spline without its noise."""
    part = build(ACTIVATIONS, text.replace("kan", "kan(noise=0)") if text == "kan" else text, dim=dim).double().eval()
    rules = part.rules()
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            parameter.fill_(math.nan)
            rules[name](parameter)
            assert parameter.isfinite().all()
    return part


@torch.no_grad()
def f(text: str, x: float) -> float:
    return float(act(text)(torch.tensor([x], dtype=torch.float64)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


E = math.e
POINTS = {
    # published or computed to six digits elsewhere
    "silu": (-0.268941, 0.731059),
    "swish": (-0.268941, 0.731059),
    "gelu": (-0.158655, 0.841345),
    "gelu_tanh": (-0.158808, 0.841192),
    "quick_gelu": (-0.154204, 0.845796),
    "mish": (-0.303401, 0.865098),
    "selu": (-1.111331, 1.050701),
    "elu": (-0.632121, 1),
    "celu": (-0.632121, 1),
    "softplus": (0.313262, 1.313262),
    # by hand
    "identity": (-1, 1),
    "step": (0, 1),
    "sign": (-1, 1),
    "sigmoid": (1 / (1 + E), E / (1 + E)),
    "hard_sigmoid": (1 / 3, 2 / 3),
    "tanh": (-(E**2 - 1) / (E**2 + 1), (E**2 - 1) / (E**2 + 1)),
    "lecun_tanh": (-1, 1),
    "hardtanh": (-1, 1),
    "softsign": (-0.5, 0.5),
    "arctan": (-math.pi / 4, math.pi / 4),
    "isru": (-(2**-0.5), 2**-0.5),
    "gaussian": (1 / E, 1 / E),
    "sin": (-0.841471, 0.841471),
    "snake": (-1 + 0.841471**2, 1 + 0.841471**2),
    "relu": (0, 1),
    "relu6": (0, 1),
    "relu2": (0, 1),
    "leaky_relu": (-0.01, 1),
    "prelu": (-0.25, 1),
    "rrelu": (-11 / 48, 1),
    "shifted_relu": (-1, 1),
    "threshold_relu": (0, 0),
    "hardshrink": (-1, 1),
    "softshrink": (-0.5, 0.5),
    "tanhshrink": (-0.238406, 0.238406),
    "hardswish": (-1 / 3, 2 / 3),
    "lisht": (0.761594, 0.761594),
    "logsigmoid": (-1.313262, -0.313262),
    "star_relu": (-0.4472, 0.4472),
    "xielu": (0.8 * (1 / E - 1 + 1) - 0.5, 1.3),
    "kan": (-0.268941, 0.731059),
}


@pytest.mark.parametrize("name", ALONE)
def test_values_at_minus_one_and_one(name: str) -> None:
    minus, plus = POINTS[name]
    assert f(name, -1) == pytest.approx(minus, abs=1e-5 if name == "lecun_tanh" else 1e-6)
    assert f(name, 1) == pytest.approx(plus, abs=1e-5 if name == "lecun_tanh" else 1e-6)


@pytest.mark.parametrize(
    ("name", "at", "least"),
    [("silu", -1.278465, -0.278465), ("gelu", -0.751792, -0.169971), ("mish", -1.192431, -0.308843)],
)
def test_where_activations_are_least(name: str, at: float, least: float) -> None:
    found = minimize_scalar(lambda x: f(name, x), bounds=(-3, 0), method="bounded", options={"xatol": 1e-9})
    assert found.fun == pytest.approx(least, abs=1e-6)
    assert found.x == pytest.approx(at, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("hard_sigmoid", F.hardsigmoid),
        ("hardtanh", F.hardtanh),
        ("softsign", lambda x: x / (1 + x.abs())),
        ("isru(alpha=3)", lambda x: x / (1 + 3 * x**2) ** 0.5),
        ("gaussian", lambda x: (-x * x).exp()),
        ("sin(w0=30)", lambda x: (30 * x).sin()),
        ("relu2", lambda x: x.clamp(min=0) ** 2),
        ("relu6", lambda x: x.clamp(0, 6)),
        ("leaky_relu(slope=0.3)", lambda x: F.leaky_relu(x, 0.3)),
        ("prelu(slope=0.3)", lambda x: F.prelu(x, x.new_tensor([0.3]))),
        ("rrelu(lower=0.1, upper=0.5)", lambda x: F.leaky_relu(x, 0.3)),
        ("shifted_relu(shift=0.5)", lambda x: x.clamp(min=-0.5)),
        ("threshold_relu(threshold=0.5)", lambda x: x * (x > 0.5)),
        ("hardshrink(threshold=0.7)", lambda x: x * (x.abs() > 0.7)),
        ("softshrink(threshold=0.7)", lambda x: x.sign() * (x.abs() - 0.7).clamp(min=0)),
        ("tanhshrink", lambda x: x - x.tanh()),
        ("elu(alpha=2)", lambda x: torch.where(x > 0, x, 2 * (x.exp() - 1))),
        ("celu(alpha=2)", lambda x: torch.where(x > 0, x, 2 * ((x / 2).exp() - 1))),
        ("selu", nn.SELU()),
        ("softplus", lambda x: (1 + x.exp()).log()),
        ("logsigmoid", lambda x: x.sigmoid().log()),
        ("hardswish", lambda x: x * (x + 3).clamp(0, 6) / 6),
        ("mish", lambda x: x * (1 + x.exp()).log().tanh()),
        ("lisht", lambda x: x * x.tanh()),
        ("swish(beta=1.702)", lambda x: x / (1 + (-1.702 * x).exp())),
        ("swish(beta=0)", lambda x: x / 2),
        ("snake(a=2)", lambda x: x + (2 * x).sin() ** 2 / 2),
        ("snake(a=0)", lambda x: x),
        ("star_relu(s=2, b=1)", lambda x: 2 * x.clamp(min=0) ** 2 + 1),
        (
            "xielu(positive=0.3, negative=0.9, beta=0.4)",
            lambda x: torch.where(x > 0, 0.3 * x * x, 0.9 * (x.exp() - 1 - x)) + 0.4 * x,
        ),
    ],
)
def test_by_formula_and_pytorchs_own(text: str, theirs: Any) -> None:
    x = torch.randn(50, 4, dtype=torch.float64) * 2
    torch.testing.assert_close(act(text, 4)(x), theirs(x), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("name", ALONE)
def test_far_from_zero_and_its_gradient_are_finite(name: str) -> None:
    x = torch.tensor([-1e4, -90.0, -1e-30, 0.0, 1e-30, 90.0, 1e4], requires_grad=True)
    part = act(name, 7).float()
    y = part(x)
    assert y.dtype == torch.float32 and y.isfinite().all()
    y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert part.bfloat16()(x.detach().bfloat16()).dtype == torch.bfloat16


SMOOTH = ["sigmoid", "tanh", "lecun_tanh", "arctan", "isru", "gaussian", "sin", "softplus", "logsigmoid", "tanhshrink",
          "gelu", "gelu_tanh", "quick_gelu", "silu", "mish", "lisht", "softmax", "prelu(per=shared)",
          "prelu(per=channel)", "swish(per=shared)", "swish(per=channel)", "snake(per=shared)", "snake(per=channel)",
          "star_relu", "xielu", "kan", "kan(order=2, grid=3)", "sparsemax", "crelu", "maxout(k=3)"]  # fmt: skip


@pytest.mark.parametrize("text", SMOOTH)
def test_gradients(text: str) -> None:
    part = act(text, 4)
    x = torch.randn(3, 4 * part.inputs, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in part.named_parameters()]
    values = [(torch.rand_like(p) + 0.3).requires_grad_() for p in part.parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(part, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


# -- gains -----------------------------------------------------------------------------------------------------------


def power(text: str) -> float:
    """E[f(z)^2] of a unit Gaussian: Gauss-Legendre on pieces of 0.1, so that every bend lies on a border."""
    at, weight = np.polynomial.legendre.leggauss(12)
    middle = np.arange(-12, 12, 0.1)[:, None] + 0.05
    z = (middle + 0.05 * at).ravel()
    with torch.no_grad():
        y = act(text)(torch.from_numpy(z)[:, None])[:, 0].numpy()
    return float((y**2 * np.exp(-z * z / 2) * np.tile(0.05 * weight, len(middle))).sum() / math.sqrt(2 * math.pi))


CUSTOMS = {"sigmoid": 1.0, "tanh": 5 / 3, "selu": 0.75}
KNOBS = ["leaky_relu(slope=0.3)", "prelu(slope=-0.5)", "elu(alpha=2)", "celu(alpha=0.5)", "celu(alpha=3)",
         "shifted_relu(shift=0.3)", "shifted_relu(shift=-0.5)", "threshold_relu(threshold=0.3)",
         "threshold_relu(threshold=0)", "hardshrink(threshold=1.5)", "softshrink(threshold=1.5)",
         "softshrink(threshold=0)", "isru(alpha=3)", "isru(alpha=0)", "sin(w0=30)", "sin(w0=0.1)",
         "swish(beta=0)", "swish(beta=1.702)",
         "swish(beta=-4)", "snake(a=5)", "snake(a=0)", "snake(a=0.0009)", "snake(a=0.002)", "star_relu(s=1, b=0)",
         "xielu(positive=0.2, negative=1.5, beta=0.3)"]  # fmt: skip


@pytest.mark.parametrize("text", [n for n in ALONE if n not in {*CUSTOMS, "rrelu"}] + KNOBS)
def test_gains_keep_the_variance_of_a_gaussian(text: str) -> None:
    assert act(text).gain == pytest.approx(power(text) ** -0.5, rel=1e-6)


def test_gains_that_are_a_custom() -> None:
    for name, gain in CUSTOMS.items():
        assert act(name).gain == gain == nn.init.calculate_gain(name)  # type: ignore[arg-type]
    for name, other in (("relu", "relu"), ("identity", "linear")):
        assert act(name).gain == pytest.approx(nn.init.calculate_gain(other))  # type: ignore[arg-type]
    for slope in (0.0, 0.01, 0.25, 1.0):
        expected = nn.init.calculate_gain("leaky_relu", slope)
        assert act(f"leaky_relu(slope={slope})").gain == pytest.approx(expected)
        assert act(f"prelu(slope={slope})").gain == pytest.approx(expected)


def test_gains_of_what_takes_or_gives_several_numbers() -> None:
    assert act("crelu").gain == 2**0.5
    assert act("maxout(k=1)").gain == pytest.approx(1)
    assert act("maxout(k=2)").gain == pytest.approx(1)
    assert act("maxout(k=3)").gain == pytest.approx((1 + math.sqrt(3) / (2 * math.pi)) ** -0.5, rel=1e-6)
    slopes = torch.empty(1000000, dtype=torch.float64).uniform_(0.1, 0.6)
    expected = ((1 + float(slopes.square().mean())) / 2) ** -0.5
    assert act("rrelu(lower=0.1, upper=0.6)").gain == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("text", ["hardshrink(threshold=100)", "sin(w0=0)", "elu(alpha=1e30)", "snake(a=1e30)",
                                  "xielu(positive=1e30)", "celu(alpha=1e-300)", "isru(alpha=1e30)"])  # fmt: skip
def test_a_gain_is_a_number_whatever_the_knobs(text: str) -> None:
    assert 1e-7 < act(text).gain < 1e7


# -- what is special of some -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_limits_of_swish() -> None:
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)[:, None]
    torch.testing.assert_close(act("swish(beta=1e-7)")(x), x / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(act("swish(beta=1e4)")(x), F.relu(x), atol=1e-4, rtol=0)
    torch.testing.assert_close(act("swish(beta=1)")(x), F.silu(x))
    assert float((act("swish(beta=1.702)")(x) - F.gelu(x)).abs().max()) < 0.021
    small = torch.tensor([[1e-3]], dtype=torch.float64)  # x/2 + beta x^2 / 4
    assert float(act("swish(beta=3)")(small)) == pytest.approx(0.5e-3 + 0.75e-6, abs=1e-11)


@pytest.mark.parametrize(("name", "slope"), [("step", 0.5), ("sign", 1.0)])
def test_thresholds_pass_gradients_straight_through(name: str, slope: float) -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.3, 2.0], requires_grad=True)
    y = build(ACTIVATIONS, name)(x)
    assert y.tolist() == ([0, 0, 1, 1, 1] if name == "step" else [-1, -1, 1, 1, 1])
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, slope, slope, slope, 0]


def test_a_random_slope_is_drawn_in_training_only() -> None:
    part = build(ACTIVATIONS, "rrelu(lower=0.2, upper=0.4)").train()
    x = -torch.ones(10000)
    slopes = -part(x)
    assert 0.2 <= float(slopes.min()) < 0.21 and 0.39 < float(slopes.max()) <= 0.4
    assert float(slopes.mean()) == pytest.approx(0.3, abs=0.003)
    torch.testing.assert_close(part.eval()(x), 0.3 * x)
    assert torch.equal(part.train()(-x), -x)


def test_gumbel_noise_draws_by_the_chances_of_softmax() -> None:
    torch.manual_seed(1)
    part = build(ACTIVATIONS, "gumbel_softmax(temperature=0.01)").train()
    x = torch.tensor([0.0, 1.0, 2.0]).expand(20000, 3)
    drawn = part(x)
    torch.testing.assert_close(drawn.sum(-1), torch.ones(20000))
    counts = F.one_hot(drawn.argmax(-1), 3).float().mean(0)
    torch.testing.assert_close(counts, x[0].softmax(-1), atol=0.015, rtol=0)
    warm = build(ACTIVATIONS, "gumbel_softmax(temperature=2)").eval()
    torch.testing.assert_close(warm(x), (x / 2).softmax(-1))


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    part = act("sparsemax")
    x = torch.randn(40, 7, dtype=torch.float64) * 2
    low, high = x.amin(-1, keepdim=True) - 1, x.amax(-1, keepdim=True)
    for _ in range(80):  # tau by bisection: the sum of max(x - tau, 0) falls as tau grows
        tau = (low + high) / 2
        more = (x - tau).clamp(min=0).sum(-1, keepdim=True) > 1
        low, high = torch.where(more, tau, low), torch.where(more, high, tau)
    torch.testing.assert_close(part(x), (x - tau).clamp(min=0))
    assert (part(x) == 0).any() and (part(x) >= 0).all()
    t = torch.linspace(-3, 3, 31, dtype=torch.float64)
    two = part(torch.stack([t, torch.zeros_like(t)], -1))[:, 0]
    torch.testing.assert_close(two, ((t + 1) / 2).clamp(0, 1))  # Martins & Astudillo 2016, section 2.3
    torch.testing.assert_close(part(torch.full((1, 7), 3.0)), torch.full((1, 7), 1 / 7))


def test_softmax_is_over_the_units_of_one_token() -> None:
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(build(ACTIVATIONS, "softmax")(x), x.exp() / x.exp().sum(-1, keepdim=True))


def test_crelu_and_maxout_change_the_width() -> None:
    x = torch.randn(2, 3, 12)
    crelu, maxout = build(ACTIVATIONS, "crelu"), build(ACTIVATIONS, "maxout(k=3)", dim=4)
    assert (crelu.inputs, crelu.outputs, maxout.inputs, maxout.outputs) == (1, 2, 3, 1)
    y = crelu(x)
    assert y.shape == (2, 3, 24)
    torch.testing.assert_close(y[..., :12] - y[..., 12:], x)
    assert (y >= 0).all()
    expected = torch.stack([x[..., 3 * n : 3 * n + 3].max(-1).values for n in range(4)], -1)
    assert torch.equal(maxout(x), expected)


@pytest.mark.parametrize(("grid", "order", "reach"), [(5, 3, 3.0), (1, 1, 1.0), (4, 0, 2.0), (7, 2, 0.5)])
def test_a_spline_is_scipys(grid: int, order: int, reach: float) -> None:
    part = act(f"kan(grid={grid}, order={order}, reach={reach})", 2)
    step = 2 * reach / grid
    knots = -reach + step * np.arange(-order, grid + order + 1)
    x = torch.rand(200, 2, dtype=torch.float64) * 2 * reach - reach
    with torch.no_grad():
        part.w.copy_(torch.tensor([0.0, 2.0]))
        part.c.normal_()
        for unit, w in enumerate((0.0, 2.0)):
            spline = BSpline(knots, part.c.view(2, -1)[unit].numpy(), order)
            expected = torch.from_numpy(spline(x[:, unit].numpy())) + w * F.silu(x[:, unit])
            torch.testing.assert_close(part(x)[:, unit], expected)
        torch.testing.assert_close(part.basis(x).sum(-1), torch.ones_like(x))
        far = torch.tensor([[reach + step * order + 1.0, -9.0]], dtype=torch.float64)
        torch.testing.assert_close(part(far), far * torch.tensor([0.0, 2.0]) * torch.sigmoid(far))


def test_a_spline_starts_near_silu_with_noise() -> None:
    part = build(ACTIVATIONS, "kan(noise=0.2)", dim=4000)
    with torch.no_grad():
        part.rules()["c"](part.c)
        part.rules()["w"](part.w)
    assert float(part.c.detach().std()) == pytest.approx(0.2, rel=0.02)
    assert (part.w == 1).all()


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learned_is_never_decayed(name: str) -> None:
    model = make(ffn=f"mlp({name})", norm="rmsnorm")
    own = [p for n, p in model.named_parameters() if ".act." in n]
    assert own and all(p.ndim == 1 for p in own)
    assert {r for n, r in model.roles().items() if ".act." in n} == {"own"}
    vectors = set(groups(model).vectors)
    assert vectors.issuperset(own)
    for optimizer in make_optimizers("adamw(weight_decay=0.1)", model):
        for group in optimizer.param_groups:
            assert not group["weight_decay"] or not set(own) & set(group["params"])
    model.train().losses(tokens(4, 8), tokens(4, 8, 3))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in own)


def test_sizes_of_what_is_learned() -> None:
    sizes = {"prelu": 6, "prelu(per=shared)": 1, "swish": 1, "swish(per=channel)": 6, "snake": 6, "star_relu": 2,
             "xielu": 2, "kan(grid=4, order=2)": 6 * 7}  # fmt: skip
    for text, size in sizes.items():
        assert sum(p.numel() for p in act(text, 6).parameters()) == size
    assert not any(list(act(name, 6).parameters()) for name in set(ACTIVATIONS) - set(LEARNED))


def test_each_unit_has_its_own_slope() -> None:
    part = act("prelu", 3)
    with torch.no_grad():
        part.a.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x = -torch.ones(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(part(x), x * torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    torch.testing.assert_close(part(x), F.prelu(x.mT, part.a).mT)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_knob_is_written_out_and_every_activation_learns_in_a_model(name: str) -> None:
    part = build(ACTIVATIONS, name, dim=6)
    assert build(ACTIVATIONS, str(part.spec), dim=6).spec == part.spec
    model = make(ffn=f"mlp({name}, hidden=6)", norm="layernorm", init="kaiming")
    model.train().losses(tokens(4, 8), tokens(4, 8, 3))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.blocks[0].ffn.up.weight.grad.any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("maxout(k=0)", "k=0 must be at least 1"),
        ("celu(alpha=0)", "above 0"),
        ("softshrink(threshold=-1)", "nearest: 0"),
        ("rrelu(lower=0.5, upper=0.1)", "lower=0.5 must not be above upper=0.1"),
        ("xielu(negative=0.5)", "negative=0.5 must be above beta=0.5"),
        ("xielu(positive=0)", "above 0"),
        ("gumbel_softmax(temperature=0)", "above 0"),
        ("kan(grid=0)", "nearest: 1"),
        ("kan(reach=0)", "above 0"),
        ("isru(alpha=-1)", "nearest: 0"),
        ("prelu(per=layer)", "channel, shared"),
        ("leakyrelu", "did you mean 'leaky_relu'?"),
    ],
)
def test_knobs_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        build(ACTIVATIONS, text, dim=4)
    assert words in str(caught.value)
