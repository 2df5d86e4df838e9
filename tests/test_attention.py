"""Attention and its knobs, against the formula written out with loops and against `torch.nn.MultiheadAttention`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.attention import attend
from nanogpt.model.language_model import LanguageModel, resolve_model
from tests.helpers import count, make, model_config, scrambled, tokens

HEADS, HEAD = 4, 6
KNOBS: list[dict[str, Any]] = [
    {"scale": 0.1},
    {"softcap": 0.7},
    {"softcap": 0.5, "scale": 1.5, "window": 3, "kv_heads": 2},
    {"softcap": 2.0, "kv_heads": 1, "bias": "all"},
    {"qk_norm": "rmsnorm(eps=0.01)"},
    {"qk_norm": "rmsnorm(eps=0.01)", "qk_norm_over": "all", "kv_heads": 2},
    {"qk_norm": "layernorm(eps=0.01)", "qk_norm_over": "all", "bias": "out"},
    {"qk_norm": "layernorm(eps=0.01, bias=none)", "qk_norm_over": "each", "kv_heads": 2, "bias": "qkv"},
    {"qk_norm": "layernorm(eps=0.01)", "qk_norm_over": "each", "softcap": 1.0, "scale": 0.4, "window": 2},
]


def call(**knobs: Any) -> str:
    return f"attention({', '.join(f'{k}={v}' for k, v in knobs.items())})"


def one(**knobs: Any) -> LanguageModel:
    return scrambled(dim=24, n_layers=1, ffn="none", layout="none", mixer=call(**{"heads": HEADS, **knobs})).double()


def normed(x: Tensor, kind: str, weight: Tensor, bias: Tensor | None) -> Tensor:
    if kind.startswith("layernorm"):
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.pow(2).mean(-1, keepdim=True) + 0.01).sqrt() * weight
    return x if bias is None else x + bias


def by_formula(mixer: Any, x_TD: Tensor, knobs: dict[str, Any]) -> Tensor:
    """One text, one head at a time, one query at a time."""
    p, kv_heads = dict(mixer.named_parameters()), knobs.get("kv_heads", HEADS)
    over, kind = knobs.get("qk_norm_over", "head"), knobs.get("qk_norm")

    def project(name: str, heads: int) -> list[Tensor]:
        y = x_TD @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)
        if kind and over == "all" and name != "v":
            y = normed(y, kind, p[f"{name}_norm.weight"], p.get(f"{name}_norm.bias"))
        parts = [y[:, HEAD * h : HEAD * (h + 1)] for h in range(heads)]
        if kind and over != "all" and name != "v":
            at = [f"{name}_norm.{h}" if over == "each" else f"{name}_norm" for h in range(heads)]
            parts = [normed(y, kind, p[f"{n}.weight"], p.get(f"{n}.bias")) for y, n in zip(parts, at, strict=True)]
        return parts

    q, k, v = project("q", HEADS), project("k", kv_heads), project("v", kv_heads)
    scale, cap, window = knobs.get("scale", 1 / math.sqrt(HEAD)), knobs.get("softcap"), knobs.get("window", 100)
    rows = []
    for t in range(len(x_TD)):
        seen = range(max(0, t - window + 1), t + 1)
        joined = []
        for h in range(HEADS):
            key, value = k[h * kv_heads // HEADS], v[h * kv_heads // HEADS]
            logits = torch.stack([scale * (q[h][t] @ key[s]) for s in seen])
            if cap:
                logits = cap * torch.tanh(logits / cap)
            share = logits.exp() / logits.exp().sum()
            joined.append(sum(share[n] * value[s] for n, s in enumerate(seen)))
        rows.append(torch.cat(joined))
    return torch.stack(rows) @ p["out.weight"].T + p.get("out.bias", 0.0)


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_every_knob_against_the_formula(knobs: dict[str, Any]) -> None:
    model = one(**knobs)
    mixer, x = model.blocks[0].mixer, torch.randn(1, 7, 24, dtype=torch.float64)
    expected = by_formula(mixer, x[0], knobs)
    torch.testing.assert_close(mixer(x, model.flow(tokens(1, 7)))[0], expected, atol=1e-10, rtol=1e-8)
    without = {k: v for k, v in knobs.items() if k not in ("scale", "softcap")}
    if without != knobs:
        assert not torch.allclose(by_formula(mixer, x[0], without), expected, atol=1e-3)
    ours = torch.autograd.grad(mixer(x, model.flow(tokens(1, 7))).square().sum(), list(mixer.parameters()))
    theirs = torch.autograd.grad(expected.square().sum(), list(mixer.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
@torch.no_grad()
def test_every_knob_under_padding_documents_and_a_cache(knobs: dict[str, Any]) -> None:
    model = scrambled(dim=24, context=9, position="rotary", mixer=call(heads=HEADS, **knobs)).double()
    x = tokens(2, 9)
    whole = model(x)
    same = {"atol": 1e-9, "rtol": 1e-7}
    cache = model.new_cache(2, 9)
    pieces = [model(piece, cache=cache) for piece in x.split([3, 1, 4, 1], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **same)
    documents = torch.tensor([[0] * 4 + [1] * 5] * 2)
    torch.testing.assert_close(model(x, documents_BT=documents)[:, 4:], model(x[:, 4:]), **same)
    mask = torch.arange(9)[None] >= torch.tensor([[2], [0]])
    padded = model(x, mask)
    torch.testing.assert_close(padded[0, 2:], model(x[:1, 2:])[0], **same)
    torch.testing.assert_close(padded[1], whole[1], **same)
    cache = model.new_cache(2, 9)
    model(x[:, :5], mask[:, :5], cache=cache)
    torch.testing.assert_close(model(x[:, 5:], mask[:, 5:], cache=cache), padded[:, 5:], **same)


def test_the_scale_and_the_output_matrix_are_pytorchs() -> None:
    model = one(bias="all")
    mixer, x = model.blocks[0].mixer, torch.randn(2, 7, 24, dtype=torch.float64)
    theirs = nn.MultiheadAttention(24, HEADS, batch_first=True, dtype=torch.float64)
    p = mixer.state_dict()
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([p[f"{n}.weight"] for n in "qkv"]),
            "in_proj_bias": torch.cat([p[f"{n}.bias"] for n in "qkv"]),
            "out_proj.weight": p["out.weight"],
            "out_proj.bias": p["out.bias"],
        }
    )
    mask = torch.ones(7, 7).triu(1).bool()
    expected = theirs(x, x, x, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(mixer(x, model.flow(tokens(2, 7))), expected)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", ["no", "words", "bias", "both"])
def test_a_cap_too_high_to_matter_is_the_fused_kernel(kv_heads: int, masked: str) -> None:
    q = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    k, v = torch.randn(2, 2, kv_heads, 5, 3, dtype=torch.float64)
    visible = torch.ones(5, 5).tril().bool() & (torch.rand(5, 5) < 0.5) | torch.eye(5).bool()
    given: dict[str, Any] = {"scale": 0.7, "dropout": 0.0}
    given["visible"] = visible[None, None] if masked in ("words", "both") else None
    given["bias"] = torch.randn(1, 4, 5, 5, dtype=torch.float64) if masked in ("bias", "both") else None
    torch.testing.assert_close(attend(q, k, v, softcap=1e6, **given), attend(q, k, v, **given))
    assert not torch.allclose(attend(q, k, v, softcap=0.5, **given), attend(q, k, v, **given), atol=1e-3)


def test_a_bias_comes_after_the_cap() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 3) * 9
    bias = torch.zeros(1, 2, 5, 5)
    bias[..., 0] = 50.0  # far beyond the cap, so everyone looks at the first token
    out = attend(q, k, v, visible=None, bias=bias, scale=1.0, dropout=0.0, softcap=1.0)
    torch.testing.assert_close(out, v[:, :, :1].expand_as(out))


def test_dropout_under_a_cap() -> None:
    torch.manual_seed(1)
    q, k = torch.randn(2, 1, 2, 400, 3)
    v = torch.ones(1, 2, 400, 3)
    out = attend(q, k, v, visible=None, bias=None, scale=1.0, dropout=0.25, softcap=5.0)
    assert abs(out[:, :, 50:].mean() - 1) < 0.01 and out.std() > 0.02
    model = scrambled(mixer="attention(heads=2, softcap=3, dropout=0.5)")
    assert torch.equal(model(tokens(2, 8)), model(tokens(2, 8)))


def test_without_an_output_matrix_the_heads_are_joined() -> None:
    """Heads side by side, as "Let's build GPT" has them before its projection."""
    model = one(out="none")
    mixer, x = model.blocks[0].mixer, torch.randn(1, 7, 24, dtype=torch.float64)
    with_matrix = one().blocks[0].mixer
    assert count(with_matrix) - count(mixer) == 24 * 24
    with_matrix.load_state_dict(mixer.state_dict() | {"out.weight": torch.eye(24)})
    flow = model.flow(tokens(1, 7))
    torch.testing.assert_close(mixer(x, flow), with_matrix(x, flow))
    assert mixer.flops(1, 8) == with_matrix.flops(1, 8) - 2 * 24 * 24
    assert "out=none" in str(resolve_model(model_config(mixer="attention(out=none)")).mixer)


@pytest.mark.parametrize("over", ["head", "all", "each"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_what_qk_norm_learns(over: str, kv_heads: int) -> None:
    given = {"dim": 24, "mixer": call(heads=HEADS, kv_heads=kv_heads, qk_norm="layernorm", qk_norm_over=over)}
    plain = given | {"mixer": call(heads=HEADS, kv_heads=kv_heads)}
    weights = {"head": 2, "all": HEADS + kv_heads, "each": HEADS + kv_heads}[over] * HEAD
    assert count(make(**given)) - count(make(**plain)) == 2 * 2 * weights  # layers; weight and bias
    assert cost(model_config(**given)).total == count(make(**given))


def test_what_is_resolved_can_be_built_again() -> None:
    for knobs in KNOBS:
        config = resolve_model(model_config(dim=24, mixer=call(heads=HEADS, **knobs)))
        assert resolve_model(config) == config
        assert all(f"{k}={v}" in str(config.mixer) for k, v in knobs.items() if isinstance(v, float))
    scale = str(resolve_model(model_config(dim=24, mixer="attention(heads=4)")).mixer)
    assert f"scale={6**-0.5}" in scale and "softcap=0" in scale


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ("scale=0", "must be above 0; nearest: 0.5"),
        ("scale=-1", "must be above 0"),
        ("softcap=-1", "nearest: 0"),
        ("qk_norm_over=heads", "did you mean 'head'?"),
        ("out=non", "did you mean 'none'?"),
        ("out=none, bias=all", "nearest: qkv"),
        ("out=none, bias=out", "nearest: none"),
        ("out=none, head_dim=3", "heads * head_dim = 12 must be dim=16; nearest: head_dim=4"),
        ("out=none, heads=5, head_dim=3", "nearest: out=linear"),
    ],
)
def test_what_is_refused(knobs: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        make(mixer=f"attention({knobs if 'heads=5' in knobs else f'heads=4, {knobs}'})")
    assert words in str(caught.value) and str(caught.value).startswith("model.mixer: attention: ")


@pytest.mark.parametrize("knobs", [KNOBS[2], KNOBS[8]], ids=str)
def test_bf16_is_close(knobs: dict[str, Any]) -> None:
    model, x = scrambled(dim=24, position="rotary", mixer=call(heads=HEADS, **knobs)), tokens(2, 8)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(x)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()
