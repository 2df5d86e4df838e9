"""Single parts against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nanogpt.model.attention import KeyValues, attend
from nanogpt.model.ends import HEADS, cap
from nanogpt.model.mixers import MIXERS
from nanogpt.model.part import Flow
from nanogpt.model.positions import POSITIONS
from nanogpt.parts import build
from tests.helpers import make, scrambled, tokens


def test_rotary_depends_on_distance_only_and_keeps_lengths() -> None:
    rotary = build(POSITIONS, "rotary", head_dim=8, dim=8, context=64)
    q, k = torch.randn(1, 1, 1, 8, dtype=torch.float64), torch.randn(1, 1, 1, 8, dtype=torch.float64)

    def product(i: int, j: int) -> float:
        out = []
        for x, at in ((q, i), (k, j)):
            flow = Flow(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[at]]))
            out.append(rotary.rotate(x, x, flow)[0])
        assert out[0].norm() == pytest.approx(float(q.norm()))
        return float((out[0] * out[1]).sum())

    assert product(7, 3) == pytest.approx(product(1007, 1003), rel=1e-4)
    assert product(7, 3) != pytest.approx(product(7, 4), rel=1e-2)
    assert product(0, 0) == pytest.approx(float((q * k).sum()))


def test_rotary_base_turns_slower() -> None:
    slow, fast = (
        make(position=f"rotary(base={b})", mixer="attention(heads=2)", init="normal(std=0.3)") for b in (1000000, 10)
    )
    assert not torch.allclose(slow(tokens(1, 8)), fast(tokens(1, 8)))


def test_layers_may_differ_in_their_positions() -> None:
    """NoPE in every other layer (SmolLM3): a model whose rotary layer is silent is the one without positions."""
    model = scrambled(position=["rotary", "none"], mixer="attention(heads=2)")
    plain = scrambled(position="none", mixer="attention(heads=2)")
    for a in (model, plain):
        torch.nn.init.zeros_(a.blocks[0].mixer.out.weight)
    torch.testing.assert_close(model(tokens(2, 8)), plain(tokens(2, 8)))
    torch.nn.init.normal_(model.blocks[0].mixer.out.weight)
    plain.load_state_dict(model.state_dict())
    assert not torch.allclose(model(tokens(2, 8)), plain(tokens(2, 8)))


def test_learned_positions_are_added_once_however_many_layers_name_them() -> None:
    one, mixed = (
        scrambled(position="learned", n_layers=2),
        scrambled(position=["learned", "rotary"], n_layers=2, mixer="attention(heads=2)"),
    )
    assert sum("position" in k for k, _ in one.named_parameters()) == 1
    assert sum("position" in k for k, _ in mixed.named_parameters()) == 1
    assert one.limit == 8
    assert make(position="rotary", mixer="attention(heads=2)").limit is None


def test_a_window_sees_exactly_its_tokens() -> None:
    model = scrambled(n_layers=1, mixer="attention(heads=2, window=3)", layout="none")
    x = tokens(1, 8)
    for at in range(8):
        other = x.clone()
        other[0, at] = (other[0, at] + 1) % 13
        changed = (model(x) - model(other)).abs().amax((0, 2)) > 1e-6
        assert changed.nonzero().flatten().tolist() == list(range(at, min(8, at + 3)))


def test_no_token_is_left_with_nothing_to_see_and_no_padding_is_seen() -> None:
    """A row of a softmax over nothing is not a number on some devices, and in some gradients."""
    model = make(mixer="attention(heads=2)")
    mask = torch.tensor([[False, False, True, True, False], [True] * 5])
    documents = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 1, 1]])
    visible = model.flow(tokens(2, 5), mask, documents).visible(2)
    assert visible is not None
    seen = visible[:, 0]
    assert seen.any(-1).all()
    for b in range(2):
        for i in range(5):
            for j in range(5):
                real = bool(mask[b, j]) and documents[b, i] == documents[b, j]
                assert bool(seen[b, i, j]) == ((j <= i and i - j < 2 and bool(real)) or i == j)


def test_a_bias_on_the_attention_logits_is_pytorchs_mask() -> None:
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    bias = torch.randn(1, 4, 6, 6)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    logits = q @ k.repeat_interleave(2, 1).mT * 0.3 + bias
    expected = logits.masked_fill(~causal, -math.inf).softmax(-1) @ v.repeat_interleave(2, 1)
    for visible in (None, causal[None, None]):
        torch.testing.assert_close(
            attend(q, k, v, visible=visible, bias=bias, scale=0.3, dropout=0.0), expected, atol=1e-5, rtol=1e-4
        )


def test_keys_are_remembered_once_for_each_kv_head() -> None:
    part = build(MIXERS, "attention(heads=4, kv_heads=2)", dim=16, layer=0)
    state = part.new_state(3, 10)
    assert isinstance(state, KeyValues)
    k, v = state.add(torch.ones(3, 2, 4, 4), torch.zeros(3, 2, 4, 4), (0, 4))
    k, v = state.add(torch.full((3, 2, 1, 4), 2.0), torch.zeros(3, 2, 1, 4), (4, 5))
    assert k.shape == v.shape == (3, 2, 5, 4)
    assert k[0, 0, :, 0].tolist() == [1, 1, 1, 1, 2]
    assert part.cache_numbers() * 10 * 3 == state.k.numel() + state.v.numel()  # type: ignore[union-attr]


@pytest.mark.parametrize("dim", [1, 63, 64, 128, 130, 192, 768, 97])
def test_heads_by_default(dim: int) -> None:
    heads = build(MIXERS, "attention", dim=dim, layer=0).heads
    assert dim % heads == 0
    assert heads <= max(1, dim // 64)
    assert (dim, heads) in ((1, 1), (63, 1), (64, 1), (128, 2), (130, 2), (192, 3), (768, 12), (97, 1))


def test_a_soft_cap_keeps_small_logits_and_bounds_large_ones() -> None:
    x = torch.tensor([1e-3, 5.0, 1e6, -1e6])
    torch.testing.assert_close(cap(x, 30.0)[0], x[0])
    assert cap(x, 30.0).abs().max() <= 30
    assert torch.equal(cap(x, 0.0), x)
    assert build(HEADS, "tied", dim=4, vocab_size=5).spec.knobs == {"softcap": 0.0, "scale": 1.0}


def test_a_tied_head_has_no_weights_and_moves_the_embedding() -> None:
    model = scrambled(head="tied")
    assert not list(model.head.parameters())
    x: Tensor = model.embed.weight
    model.losses(tokens(2, 8), tokens(2, 8, 3))["loss"].backward()
    assert x.grad is not None and (x.grad.abs().sum(1) > 0).all()  # also tokens that are not in the text
