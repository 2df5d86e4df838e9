"""Positions against closed forms written out here, against `transformers` where it is installed, and inside models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.model.language_model import resolve_model
from nanogpt.model.mixers import MIXERS
from nanogpt.model.part import Flow, Part
from nanogpt.model.positions import POSITIONS
from nanogpt.model.scalings import SCALINGS, Scaling
from nanogpt.parts import build
from tests.helpers import make, model_config, scrambled, tokens
from tests.test_properties import check_books, check_cache, check_causal, check_documents, check_step

SHORT, LONG = [1.0, 1.5, 2.0, 3.0], [1.0, 4.0, 8.5, 16.0]
LONGROPE = f"longrope(short={SHORT}, long={LONG}, original=6"


def position(text: str, **given: Any) -> Any:
    return build(POSITIONS, text, **({"dim": 16, "context": 64, "heads": 2, "head_dim": 8} | given))


def scaling(text: str, context: int = 64) -> Scaling:
    return build(SCALINGS, text, context=context)


def at(*places: int) -> Flow:
    return Flow(torch.zeros(1, len(places), dtype=torch.long), torch.tensor([places]))


def refused(text: str, **given: Any) -> str:
    with pytest.raises(UserError) as caught:
        position(text, **given)
    return str(caught.value)


# -- sinusoidal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("D", [8, 9, 1])
def test_waves_by_formula(D: int) -> None:
    x, places = torch.randn(1, 3, D, dtype=torch.float64), (0, 7, 5000)
    out = position("sinusoidal(base=1e4)", dim=D).embed(x, at(*places)) - x
    for t, place in enumerate(places):
        for n in range(D):
            wave = (math.sin, math.cos)[n % 2](place / 10000 ** ((n - n % 2) / D))
            assert float(out[0, t, n]) == pytest.approx(wave, abs=1e-9)


def test_waves_have_no_parameters_and_no_end() -> None:
    model = make(position="sinusoidal", mixer="attention(heads=2)")
    assert model.limit is None and not any("position" in k for k, _ in model.named_parameters())
    assert model(tokens(1, 30)).shape[1] == 30


# -- rotary -------------------------------------------------------------------------------------------------------


def turned(x: Tensor, places: list[int], speeds: list[float]) -> Tensor:
    """Neighbours as complex numbers, times e^(i angle): the paper's own form, (1, H, T, d)."""
    angle = torch.tensor(places, dtype=torch.float64)[:, None] * torch.tensor(speeds, dtype=torch.float64)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def test_interleaved_pairs_are_complex_numbers() -> None:
    x, places = torch.randn(1, 2, 3, 8, dtype=torch.float64), [0, 3, 900]
    q, k = position("rotary(pairing=interleaved, base=500)").rotate(x, 2 * x, at(*places))
    expected = turned(x, places, [500 ** (-n / 4) for n in range(4)])
    torch.testing.assert_close(q, expected)
    torch.testing.assert_close(k, 2 * expected)


def test_halves_are_interleaved_pairs_in_another_order() -> None:
    x, places = torch.randn(1, 2, 3, 8, dtype=torch.float64), [1, 3, 50]
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    half, pairs = (position(f"rotary(pairing={p})") for p in ("half", "interleaved"))
    torch.testing.assert_close(
        half.rotate(x[..., order], x[..., order], at(*places))[0], pairs.rotate(x, x, at(*places))[0][..., order]
    )


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_a_share_turns_the_first_numbers_only(pairing: str) -> None:
    x, places = torch.randn(1, 2, 3, 16, dtype=torch.float64), [0, 2, 31]
    q, _ = position(f"rotary(share=0.25, pairing={pairing})", head_dim=16).rotate(x, x, at(*places))
    assert torch.equal(q[..., 4:], x[..., 4:])
    alone, _ = position(f"rotary(pairing={pairing})", head_dim=4).rotate(x[..., :4], x[..., :4], at(*places))
    assert torch.equal(q[..., :4], alone) and not torch.allclose(q[..., 1:4], x[..., 1:4])


@pytest.mark.parametrize("words", [
    ("rotary(share=0.3)", 64, "share=0.3 of head_dim=64 is 19.2 numbers", "nearest: share=0.3125"),
    ("rotary(share=0.25)", 12, "is 3 numbers", "nearest: share=0.3333333333333333"),
    ("rotary(share=0.01)", 8, "is 0.08 numbers", "nearest: share=0.25"),
    ("rotary(share=0)", 8, "share=0.0 must be above 0", "nearest: 1"),
    ("rotary(share=1.5)", 8, "at most 1", "nearest: 1"),
    ("rotary(base=1)", 8, "base=1.0 must be more than 1", "nearest"),
    ("rotary", 7, "head_dim=7 is odd", "nearest: head_dim=8"),
    ("rotary(pairing=halves)", 8, "pairing=halves", "half"),
    ("rotary(scaling=yarm(factor=2))", 8, "no part 'yarm'", "did you mean 'yarn'?"),
    ("rotary(scaling=linear(factor=0.5))", 8, "factor=0.5 must be at least 1", "nearest: 1"),
    ("rotary(scaling=linear)", 8, "'factor' needs a value", ""),
    ("rotary(scaling=yarn(factor=2, original=8, beta_fast=1, beta_slow=2))", 8, "beta_fast=1.0", "nearest"),
    ("rotary(scaling=llama3(low=4, high=4))", 8, "low must be above 0 and below high", "nearest: low=1, high=4"),
    ("rotary(scaling=longrope(short=[1], long=[1, 1], original=8))", 4, "short has 1 factors for the 2 pairs", ""),
    ("rotary(scaling=longrope(short=[1, 0], long=[1, 1], original=8))", 4, "numbers above 0", ""),
    ("rotary(scaling=longrope(short=2, long=[1, 1], original=8))", 4, "must be a list", ""),
])  # fmt: skip
def test_what_cannot_be_turned_is_refused(words: tuple[str, int, str, str]) -> None:
    text, head_dim, *said = words
    message = refused(text, head_dim=head_dim)
    assert all(s in message for s in said) and message.startswith("rotary: ")
    nearest = message.rpartition("nearest: share=")[2]
    if nearest != message:
        position(f"rotary(share={nearest})", head_dim=head_dim)


def test_angles_are_exact_also_where_attention_is_in_bf16() -> None:
    """At place 4003 bf16 knows neither the place nor the angle: its numbers there are 32 apart."""
    x = torch.eye(4, dtype=torch.float64)[None, None, :1]
    flow = at(4003)
    coarse, _ = position("rotary", head_dim=4).rotate(x.bfloat16(), x.bfloat16(), flow)
    assert coarse.dtype == torch.bfloat16
    assert coarse[0, 0, 0, [0, 2]].tolist() == pytest.approx([math.cos(4003), math.sin(4003)], abs=4e-3)


def test_a_mixer_may_turn_a_slice_of_its_heads() -> None:
    part, x = position("rotary(share=0.5)", head_dim=8), torch.randn(1, 1, 2, 4)
    q, _ = part.rotate(x, x, at(3, 4))
    torch.testing.assert_close(q, position("rotary(share=0.5)", head_dim=4).rotate(x, x, at(3, 4))[0])


# -- scalings -----------------------------------------------------------------------------------------------------


def plain(base: float, d: int) -> list[float]:
    return [1 / base ** (n / d) for n in range(0, d, 2)]


def test_linear_and_ntk_by_formula() -> None:
    base, d, s = 1e4, 16, 4.0
    assert scaling("linear(factor=4)").speeds(base, d, 1) == pytest.approx([v / s for v in plain(base, d)])
    found = scaling("ntk(factor=4)").speeds(base, d, 1)
    assert found == pytest.approx([v * s ** (-n / (d / 2 - 1)) for n, v in enumerate(plain(base, d))])
    assert found[0] == 1 and found[-1] == pytest.approx(plain(base, d)[-1] / s)  # the ends, as its author wants them
    assert scaling("ntk(factor=4)").speeds(base, 2, 1) == [1.0]


def test_llama3_by_its_three_cases() -> None:
    """Llama 3.1: factor 8, low 1, high 4, original 8192, base 500000, heads of 128."""
    cases = set()
    for found, v in zip(scaling("llama3").speeds(5e5, 128, 1), plain(5e5, 128), strict=True):
        wavelength = 2 * math.pi / v
        if wavelength < 8192 / 4:
            case, expected = "kept", v
        elif wavelength > 8192:
            case, expected = "slowed", v / 8
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            case, expected = "between", (1 - smooth) * v / 8 + smooth * v
        cases.add(case)
        assert found == pytest.approx(expected, rel=1e-12)
    assert cases == {"kept", "between", "slowed"}


@pytest.mark.parametrize("bounds", ["whole", "exact"])
def test_yarn_by_the_turns_that_pairs_make(bounds: str) -> None:
    """Pairs that turn 32 times in 4096 tokens keep their speed, those that turn once are slowed; ends by bisection."""
    d, base, s, original = 128, 1e4, 16.0, 4096

    def number_of(turns: float) -> float:
        low, high = 0.0, 64.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if original / (2 * math.pi * base ** (2 * middle / d)) > turns else (low, middle)
        return low

    fast, slow = number_of(32), number_of(1)
    if bounds == "whole":
        fast, slow = math.floor(fast), math.ceil(slow)
    found = scaling(f"yarn(factor=16, original=4096, bounds={bounds})")
    for n, (speed, v) in enumerate(zip(found.speeds(base, d, 1), plain(base, d), strict=True)):
        ramp = 0 if n <= fast else 1 if n >= slow else (n - fast) / (slow - fast)
        assert speed == pytest.approx(v * (1 - ramp) + v / s * ramp, rel=1e-9)
    assert found.attention == pytest.approx(0.1 * math.log(16) + 1)


def test_sharper_attention_for_longer_texts() -> None:
    assert scaling("yarn(factor=16, original=8, attention=1.5)").attention == 1.5
    both = scaling("yarn(factor=40, original=4096, mscale=0.707, mscale_all=1)")
    assert both.attention == pytest.approx((0.0707 * math.log(40) + 1) / (0.1 * math.log(40) + 1))
    assert scaling("yarn(factor=40, original=8, mscale=1, mscale_all=1)").attention == 1  # DeepSeek-V3
    assert scaling("yarn(factor=1, original=8)").attention == 1
    long = f"longrope(short={SHORT}, long={LONG}, original=4096"
    phi = math.sqrt(1 + math.log(32) / math.log(4096))
    assert scaling(f"{long}, factor=32)").attention == pytest.approx(phi)
    assert scaling(f"{long})", context=131072).attention == pytest.approx(phi)
    assert scaling(f"{long})", context=64).attention == 1
    assert scaling(f"{long}, attention=1.2)").attention == 1.2


def test_the_factor_is_on_what_is_turned_only() -> None:
    x = torch.randn(1, 1, 1, 8, dtype=torch.float64)
    sharper, same = (f"rotary(share=0.5, scaling=yarn(factor=4, original=9, attention={a}))" for a in (1.25, 1))
    torch.testing.assert_close(
        position(sharper).rotate(x, x, at(5))[0],
        position(same).rotate(x, x, at(5))[0] * torch.tensor([1.25] * 4 + [1] * 4),
    )


def test_longrope_chooses_its_factors_by_the_context_or_by_the_columns() -> None:
    short, long = ([v / f for v, f in zip(plain(1e4, 8), fs, strict=True)] for fs in (SHORT, LONG))
    for context in (6, 7):
        part = scaling(f"{LONGROPE})", context=context)
        assert part.speeds(1e4, 8, 6) == part.speeds(1e4, 8, 7) == pytest.approx(long if context > 6 else short)
    part = scaling(f"{LONGROPE}, by=length)", context=100)
    assert part.speeds(1e4, 8, 6) == pytest.approx(short) and part.speeds(1e4, 8, 7) == pytest.approx(long)


@torch.no_grad()
def test_keys_of_one_memory_are_turned_alike() -> None:
    """A memory for 10 tokens uses the long factors from its first token on, as one pass over 10 does."""
    model = scrambled(position=f"rotary(scaling={LONGROPE}, by=length))", mixer="attention(heads=2)", context=10)
    x = tokens(1, 10)
    for capacity, whole in ((10, model(x)), (6, model(x[:, :6]))):
        cache = model.new_cache(1, capacity)
        pieces = [model(piece, cache=cache) for piece in x[:, :capacity].split([4] + [1] * (capacity - 4), 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model(x)[:, 5], model(x[:, :6])[:, 5], atol=1e-3)


HF: list[tuple[str, dict[str, Any]]] = [
    ("linear(factor=3)", {"rope_type": "linear", "factor": 3.0}),
    ("llama3(factor=32, original=64, low=1, high=4)", {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
     "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
    ("yarn(factor=4, original=64)", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    ("yarn(factor=32, original=4096, bounds=exact, beta_fast=20, beta_slow=2, attention=1.3)",
     {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False,
      "beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 1.3}),
    ("yarn(factor=40, original=512, mscale=0.7, mscale_all=1)",
     {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 512, "mscale": 0.7,
      "mscale_all_dim": 1.0}),
    (f"longrope(short={SHORT * 2}, long={LONG * 2}, original=32, factor=8)",
     {"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 32, "short_factor": SHORT * 2,
      "long_factor": LONG * 2}),
    (f"longrope(short={SHORT * 2}, long={LONG * 2}, original=128)",
     {"rope_type": "longrope", "original_max_position_embeddings": 128, "short_factor": SHORT * 2,
      "long_factor": LONG * 2}),
]  # fmt: skip


def test_as_transformers_has_them() -> None:
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    for text, wanted in HF:
        for base, share in ((1e4, 1.0), (5e5, 0.5)):
            if "longrope" in text and share < 1:
                continue
            d, context = int(16 * share), 128
            given = wanted | {"rope_theta": base, "partial_rotary_factor": share}
            config = LlamaConfig(head_dim=16, max_position_embeddings=context, rope_parameters=given)
            speeds, attention = rope.ROPE_INIT_FUNCTIONS[wanted["rope_type"]](config, None, seq_len=context)
            ours = scaling(text, context=context)
            assert ours.speeds(base, d, context) == pytest.approx(speeds.tolist(), rel=1e-6), text
            assert ours.attention == pytest.approx(attention, rel=1e-9), text


# -- biases -------------------------------------------------------------------------------------------------------


def test_slopes_of_the_paper() -> None:
    assert position("alibi", heads=8).slopes == [2**-n for n in range(1, 9)]
    assert position("alibi", heads=16).slopes == pytest.approx([2 ** (-n / 2) for n in range(1, 17)])
    assert position("alibi", heads=1).slopes == [2**-8]
    twelve = [*(2.0**-n for n in range(1, 9)), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    assert position("alibi", heads=12).slopes == pytest.approx(twelve)
    assert position("alibi", heads=3).slopes == pytest.approx([2**-4, 2**-8, 2**-2])
    assert len(position("alibi", heads=7).slopes) == 7


def test_alibi_is_a_slope_times_the_distance() -> None:
    bias = position("alibi", heads=2).bias(at(0, 1, 2, 3))
    assert bias.shape == (1, 2, 4, 4)
    assert bias[0, :, 3].tolist() == [[-3 * s, -2 * s, -s, 0] for s in (2**-4, 2**-8)]


def bucket(distance: int, buckets: int, far: int) -> int:
    """Raffel et al.: exact up to half, then by logarithm up to `far`."""
    exact = buckets // 2
    if distance < exact:
        return distance
    return min(buckets - 1, exact + int(math.log(distance / exact) / math.log(far / exact) * (buckets - exact)))


@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (8, 20), (5, 9), (2, 3)])
def test_buckets_by_formula(buckets: int, far: int) -> None:
    part = position(f"t5(buckets={buckets}, distance={far})")
    torch.nn.init.normal_(part.weight)
    bias = part.bias(at(*range(200)))
    assert bias.shape == (1, 2, 200, 200)
    for i, j in ((199, 0), (199, 199), *((i, i - d) for d in range(1, 60) for i in (60, 199))):
        assert bias[0, :, i, j].tolist() == part.weight[bucket(i - j, buckets, far)].tolist()


def test_buckets_as_transformers_has_them() -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distances = torch.arange(1000)
    for buckets, far in ((32, 128), (16, 64), (10, 100)):
        expected = t5.T5Attention._relative_position_bucket(-distances, False, buckets, far)
        assert torch.equal(position(f"t5(buckets={buckets}, distance={far})")._bucket(distances), expected)


def test_t5_is_one_part_for_all_layers_and_learns() -> None:
    model = make(position="t5(buckets=4)", mixer="attention(heads=4)", n_layers=3).train()
    assert [tuple(p.shape) for k, p in model.named_parameters() if "position" in k] == [(4, 4)]
    assert model.roles()["position.0.weight"] == "position"
    model.losses(tokens(2, 8), tokens(2, 8, 2))["loss"].backward()
    assert model.position[0].weight.grad.any(0).all()


@pytest.mark.parametrize("text", ["t5(buckets=1)", "t5(distance=16)", "t5(buckets=9, distance=4)"])
def test_impossible_buckets(text: str) -> None:
    assert "must be at least" in refused(text)


@torch.no_grad()
@pytest.mark.parametrize("text", ["alibi", "t5(buckets=6, distance=9)"])
def test_a_bias_goes_by_places_in_the_own_text(text: str) -> None:
    """Padding anywhere, in pieces: real tokens get the columns that the text without padding has."""
    model = scrambled(position=text, mixer="attention(heads=2)", context=20)
    part = model.position[0]
    whole = part.bias(model.flow(tokens(1, 9)))[0]
    mask = torch.tensor([[0, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1]]).bool()
    real, x = mask[0].nonzero()[:, 0], tokens(1, 13)
    assert torch.equal(part.bias(model.flow(x, mask))[0][:, real][:, :, real], whole)
    cache = model.new_cache(1, 13)
    for start, end in ((0, 4), (4, 9), (9, 12), (12, 13)):
        flow = model.flow(x[:, start:end], mask[:, start:end], cache=cache)
        bias = part.bias(flow)
        cache.length = end
        assert bias.shape == (1, 2, end - start, end)
        rows, columns = real[(real >= start) & (real < end)], real[real < end]
        seen = len(real[real < start])
        assert torch.equal(bias[0][:, rows - start][:, :, columns], whole[:, seen : seen + len(rows), : len(columns)])
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    packed = part.bias(model.flow(tokens(1, 8), documents_BT=documents))[0]
    assert torch.equal(packed[:, 3:, 3:], whole[:, :5, :5])


# -- in models ----------------------------------------------------------------------------------------------------

ALL = [
    "sinusoidal",
    "alibi",
    "t5",
    "t5(buckets=3, distance=4)",
    "rotary(share=0.5, pairing=interleaved)",
    "rotary(base=50, scaling=ntk(factor=3))",
    "rotary(scaling=yarn(factor=4, original=5, beta_fast=2))",
    "rotary(scaling=llama3(factor=4, original=40))",
    f"rotary(scaling={LONGROPE}))",
]


@pytest.mark.parametrize("text", ALL)
def test_every_kind_is_causal_remembers_and_resolves(text: str) -> None:
    for mixer in ("attention(heads=3, head_dim=8)", "attention(heads=2, kv_heads=1, head_dim=8, window=3)"):
        config = model_config(dim=12, context=10, position=text, mixer=mixer, ffn="mlp(hidden=5)")
        for seed, check in enumerate((check_causal, check_documents, check_cache, check_step, check_books)):
            check(config, seed + len(mixer))


@torch.no_grad()
@pytest.mark.parametrize("text", ALL)
def test_every_kind_tells_orders_apart(text: str) -> None:
    """One layer of attention without positions cannot: its last token sees a set."""
    x = tokens(1, 10, vocab=13)
    swapped = x[:, [0, 1, 2, 3, 8, 5, 6, 7, 4, 9]]
    assert not torch.equal(x, swapped)
    for position, same in (("none", True), (text, False)):
        model = scrambled(position=position, mixer="attention(heads=2)", n_layers=1, context=10)
        assert torch.allclose(model(x)[:, -1], model(swapped)[:, -1], atol=1e-5) == same


@torch.no_grad()
@pytest.mark.parametrize("text", ["alibi", "t5"])
def test_a_bias_within_bf16_autocast(text: str) -> None:
    model = scrambled(position=text, mixer="attention(heads=2)")
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(tokens(2, 8))
    torch.testing.assert_close(rough.float(), model(tokens(2, 8)), atol=0.2, rtol=0.2)


# -- where positions act ------------------------------------------------------------------------------------------


class Running(Part):
    """A mixer without heads."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return x_BTD.cumsum(1)


@pytest.mark.parametrize("text", ["rotary", "alibi", "t5"])
def test_what_acts_inside_attention_needs_attention(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "running", Running)
    for mixer in ("running", ["none", "running"]):
        with pytest.raises(UserError) as caught:
            resolve_model(model_config(position=text, mixer=mixer))
        assert str(caught.value) == (
            f"model.position={text} acts inside attention, and model.mixer=running has none; "
            "nearest: model.position=none"
        )
    with pytest.raises(UserError, match="has none"):  # by layer: here the layer with attention has other positions
        resolve_model(model_config(position=["none", text], mixer=["attention(heads=2)", "running"]))
    for mixer in ("none", ["running", "attention(heads=2)"], ["none", "attention(heads=2)"]):
        resolve_model(model_config(position=text, mixer=mixer))
    for other in ("none", "learned", "sinusoidal"):
        resolve_model(model_config(position=other, mixer="running"))


def test_one_bias_is_for_one_number_of_heads() -> None:
    mixer = ["attention(heads=2)", "attention(heads=4)"]
    for text in ("alibi", "t5"):
        with pytest.raises(
            UserError, match=rf"position={text}: its layers have 2 and 4 heads.*nearest: heads=4 in each"
        ):
            resolve_model(model_config(position=text, mixer=mixer))
    resolve_model(model_config(position=["alibi", "t5"], mixer=mixer))
    resolve_model(model_config(position="rotary", mixer=mixer))
