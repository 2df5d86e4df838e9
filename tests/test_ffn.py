"""Feed-forward parts against their formulas, their widths and gains against their papers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.model.ffn import FFNS
from nanogpt.model.language_model import resolve_model
from nanogpt.parts import build
from tests.helpers import count, make, model_config, scrambled, tokens


def randomised(text: str, dim: int) -> Any:
    part = build(FFNS, text, dim=dim, layer=0).double()
    for parameter in part.parameters():
        nn.init.normal_(parameter)
    return part


def matrix(x: Tensor, linear: nn.Linear) -> Tensor:
    return x @ linear.weight.T + (0 if linear.bias is None else linear.bias)


def test_the_sizes_of_feed_forwards() -> None:
    assert build(FFNS, "mlp", dim=12).hidden == 48
    for dim, multiple, hidden in (
        (4096, 256, 11008),
        (5120, 256, 13824),
        (6656, 256, 17920),
        (8192, 256, 22016),
        (768, 8, 2048),
        (64, 4, 172),
    ):
        for name in ("swiglu", "clamped_swiglu"):
            assert build(FFNS, f"{name}(multiple_of={multiple})", dim=dim).hidden == hidden


@pytest.mark.parametrize(
    ("act", "hidden"), [("relu", 96), ("crelu", 64), ("maxout", 64), ("maxout(k=3)", 48), ("maxout(k=1)", 96)]
)
def test_an_mlp_costs_the_same_whatever_its_activation_takes_and_gives(act: str, hidden: int) -> None:
    part = build(FFNS, f"mlp({act})", dim=24)
    assert part.hidden == hidden
    assert count(part) == 8 * 24 * 24
    assert part.flops(1, 8) == 2 * count(part)
    given = build(FFNS, f"mlp({act}, hidden=10)", dim=24)
    assert given.hidden == 10 and given.spec.knobs["hidden"] == 10
    assert part(torch.randn(2, 3, 24), None).shape == given(torch.randn(2, 3, 24), None).shape == (2, 3, 24)


@pytest.mark.parametrize(
    ("act", "f"),
    [
        ("relu", lambda h: h.clamp(min=0)),
        ("crelu", lambda h: torch.cat([h.clamp(min=0), (-h).clamp(min=0)], -1)),
        ("maxout(k=3)", lambda h: h.unflatten(-1, (-1, 3)).max(-1).values),
        ("sin(w0=2)", lambda h: (2 * h).sin()),
        ("softmax", lambda h: h.exp() / h.exp().sum(-1, keepdim=True)),
    ],
)
@pytest.mark.parametrize("bias", ["none", "zeros"])
def test_mlp_and_dense_by_formula(act: str, f: Any, bias: str) -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    mlp = randomised(f"mlp({act}, hidden=6, bias={bias})", 4)
    torch.testing.assert_close(mlp(x, None), matrix(f(matrix(x, mlp.up)), mlp.out))
    dense = randomised(f"dense({act}, bias={bias})", 4)
    assert dense(x, None).shape == x.shape
    torch.testing.assert_close(dense(x, None), f(matrix(x, dense.up)))
    assert [k for k, _ in dense.named_parameters()] == ["up.weight"] + ["up.bias"] * (bias == "zeros")


@pytest.mark.parametrize(
    ("name", "gate"),
    [
        ("glu", torch.sigmoid),
        ("bilinear", lambda x: x),
        ("reglu", lambda x: x.clamp(min=0)),
        ("swiglu", lambda x: x * torch.sigmoid(x)),
        ("geglu", lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2),
        ("glu(mish)", lambda x: x * (1 + x.exp()).log().tanh()),
    ],
)
def test_gated_units_by_formula(name: str, gate: Any) -> None:
    text = name.replace("(mish)", "(act=mish, hidden=5, bias=zeros)")
    unit = randomised(text if "(" in text else f"{name}(hidden=5, bias=zeros)", 4)
    x = torch.randn(3, 4, dtype=torch.float64)
    hidden = gate(matrix(x, unit.gate)) * matrix(x, unit.up)
    torch.testing.assert_close(unit(x, None), matrix(hidden, unit.out))


@pytest.mark.parametrize("knobs", ["", "limit=0.5, ", "limit=2, alpha=1, "])
def test_the_clamped_gate_of_gpt_oss(knobs: str) -> None:
    unit = randomised(f"clamped_swiglu({knobs}hidden=50, bias=zeros)", 4)
    limit = 0.5 if "0.5" in knobs else 2 if "2" in knobs else 7
    alpha = 1 if "alpha" in knobs else 1.702
    x = torch.randn(20, 4, dtype=torch.float64) * 4
    gate, up = matrix(x, unit.gate), matrix(x, unit.up)
    assert (gate > limit).any() and (gate < -limit).any() and (up.abs() > limit).any()  # each clamp has work
    gate, up = torch.where(gate > limit, limit, gate), up.clamp(-limit, limit)
    torch.testing.assert_close(unit(x, None), matrix(gate / (1 + (-alpha * gate).exp()) * (up + 1), unit.out))


@pytest.mark.parametrize("text", ["glu(crelu)", "glu(maxout)", "swiglu(act=maxout(k=3))", "bilinear(act=crelu)"])
def test_a_gate_has_as_many_numbers_as_what_it_gates(text: str) -> None:
    with pytest.raises(UserError, match="nearest: mlp") as caught:
        build(FFNS, text, dim=8, layer=0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dense(crelu)", "does not divide dim=7"),
        ("dense(hidden=3)", "no knob 'hidden'"),
        ("mlp(dropout=1)", "below 1"),
        ("mlp(bias=on)", "none, zeros"),
        ("dense(bias=on)", "none, zeros"),
        ("clamped_swiglu(bias=on)", "none, zeros"),
        ("swiglu(dropout=-1)", "at least 0"),
        ("clamped_swiglu(limit=0)", "above 0"),
        ("clamped_swiglu(act=silu)", "no knob 'act'"),
        ("mlp(maxout(k=0))", "k=0 must be at least 1"),
    ],
)
def test_feed_forwards_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(FFNS, text, dim=7, layer=0)


@pytest.mark.parametrize("name", ["mlp(relu, ", "glu(", "clamped_swiglu("])
def test_dropout_of_the_hidden_numbers(name: str) -> None:
    plain, part = (build(FFNS, f"{name}hidden=20000{d})", dim=1) for d in ("", ", dropout=0.3"))
    for parameter in plain.parameters():
        nn.init.uniform_(parameter, 1, 2)
    part.load_state_dict(plain.state_dict())
    x = torch.ones(1, 1)
    seen: list[Tensor] = []
    part.out.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    plain.out.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    torch.testing.assert_close(part.eval()(x, None), plain.train()(x, None))
    part.train()(x, None)
    kept, whole = seen[2] != 0, seen[1]
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.02)
    torch.testing.assert_close(seen[2][kept], whole[kept] / 0.7)


@pytest.mark.parametrize(
    ("text", "into", "then", "feeds"),
    [
        ("mlp(relu)", "up", 2**0.5, 2**0.5),
        ("mlp(maxout(k=2))", "up", 1, 1),
        ("swiglu", "gate", 1.6765325, 1.6765325),
        ("glu(leaky_relu(slope=1))", "gate", 1, 1),
        ("clamped_swiglu", "gate", 1.5394588, 1.5394588 / 2**0.5),
        ("dense(tanh)", "up", 5 / 3, None),
    ],
)
def test_matrices_know_the_activations_around_them(text: str, into: str, then: float, feeds: float | None) -> None:
    part = build(FFNS, text, dim=8, layer=0)
    assert getattr(part, into).then == pytest.approx(then, rel=1e-6)
    assert getattr(part, into).gain == 1
    if feeds is not None:
        assert part.out.gain == pytest.approx(feeds, rel=1e-6)
        assert part.out.role == "residual" and part.out.then == 1
    assert getattr(part, into).role == "hidden"


@torch.no_grad()
def test_a_dense_layer_is_fed_by_the_one_below() -> None:
    """He et al. 2015: every matrix but the first follows an activation, and kaiming keeps the signal through 30."""
    assert [build(FFNS, "dense(relu)", dim=8, layer=n).up.gain for n in (0, 1, 7)] == [1, 2**0.5, 2**0.5]
    parts = {"ffn": "dense(relu)", "layout": "none(residual=none)", "init": "kaiming(embedding=1.0)"}
    model = make(dim=256, n_layers=30, vocab_size=13, **parts)
    torch.manual_seed(1)
    x = torch.randn(2000, 256)
    powers = []
    for block in model.blocks:
        x = block.ffn(x, None)
        powers.append(float(x.square().mean()))
    assert 0.4 < powers[-1] / powers[0] < 2.5  # 0.5^29 with gain 1


@torch.no_grad()
@pytest.mark.parametrize("text", ["mlp(crelu)", "mlp(maxout(k=3))", "mlp(quick_gelu)", "mlp(prelu)", "reglu",
                                  "clamped_swiglu", "mlp(xielu)", "mlp(snake)", "mlp(kan)"])  # fmt: skip
def test_kaimings_gain_keeps_the_variance_through_it(text: str) -> None:
    model = make(dim=128, n_layers=1, vocab_size=13, ffn=text, init="kaiming", layout="pre")
    x = torch.randn(2000, 128, generator=torch.Generator().manual_seed(1))
    out = model.blocks[0].ffn(x, None)
    centred = model.blocks[0].ffn.out.weight.shape[1] ** -0.5  # E[f^2] is kept, of which the mean is a part
    assert float(out.square().mean()) == pytest.approx(1, abs=0.15 + centred)


def test_dense_layers_are_a_network_without_a_stream() -> None:
    """Each reads what the one below gives, and nothing else."""
    model = scrambled(n_layers=3, ffn="dense(tanh, bias=zeros)", layout="none(residual=none)")
    flow = model.flow(tokens(2, 8))
    x = model.embed(flow.tokens_BT, flow)
    expected = x
    for block in model.blocks:
        expected = torch.tanh(matrix(expected, block.ffn.up))
    torch.testing.assert_close(model.hidden(flow), expected)
    assert resolve_model(model_config(ffn="dense")).ffn == ["dense(act=tanh, bias=none)"] * 2


def test_widths_that_change_are_no_mistake_of_a_part_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nclass Half(torch.nn.Module):\n    inputs = 2\n    def forward(self, x):\n"
        "        a, b = x.chunk(2, -1)\n        return a * b\n"
        "class Wrong(Half):\n    outputs = 3\n"
    )
    for act in (f"{path}:Half", "maxout(k=3)", "crelu"):
        config = model_config(ffn=[f"mlp({act})", f"mlp({path}:Half)"], norm="batchnorm", context=1)
        assert resolve_model(resolve_model(config)) == resolve_model(config)
    assert build(FFNS, f"mlp({path}:Half)", dim=12).hidden == 32
    with pytest.raises(UserError, match="Wrong must give a tensor of shape"):
        resolve_model(model_config(ffn=f"mlp({path}:Wrong)"))
