"""What a model costs: counted by hand, and without building it."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nanogpt.config import compose
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel
from tests.helpers import TINY, VOCAB, make, model_config, tokens


@pytest.mark.parametrize("name", TINY)
def test_flops_are_those_that_pytorch_counts(name: str) -> None:
    model = make(**TINY[name])
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens(1, 8))
    assert cost(model_config(**TINY[name])).flops * 8 == counter.get_total_flops() == model.flops(8, 8)


def test_parameters_by_part_counted_by_hand() -> None:
    c = cost(model_config(**TINY["gpt2"], n_layers=3))
    assert c.parameters == {
        "embed": VOCAB * 16,
        "position": 8 * 16,
        "mixer": 3 * (4 * 16 * 16 + 4 * 16),
        "ffn": 3 * (2 * 16 * 64 + 64 + 16),
        "norm": 3 * 4 * 16 + 2 * 16,
    }
    assert c.total == sum(c.parameters.values())
    assert c.training_flops == 3 * c.flops


def test_flops_counted_by_hand() -> None:
    c = cost(model_config(mixer="attention(heads=4, kv_heads=2, window=5)", ffn="swiglu(hidden=20)"))
    layer = 2 * (16 * 16 * 2 + 16 * 8 * 2) + 4 * 5 * 16 + 2 * 3 * 16 * 20
    assert c.flops == 2 * layer + 2 * 16 * VOCAB


def test_the_cache_in_bytes_a_token() -> None:
    assert cost(compose("gpt2", ["model.vocab_size=50257"]).model).cache_bytes == 36 * 1024  # GPT-2, bf16
    assert cost(model_config(mixer="attention(heads=4, kv_heads=2)", n_layers=3)).cache_bytes == 3 * 2 * 2 * 4 * 2
    assert cost(model_config()).cache_bytes == 0


def test_every_kind_of_layer_is_counted_as_often_as_it_comes() -> None:
    config = model_config(
        n_layers=7,
        mixer="2*attention(heads=4, kv_heads=1, window=2) + attention(heads=4)",
        ffn="3*mlp(hidden=5) + *swiglu(hidden=9)",
        norm=["rmsnorm", "layernorm"],
        position=["learned", "none"],
        layout="pre + 2*post",
    )
    model = LanguageModel(config)
    assert cost(config).total == sum(p.numel() for p in model.parameters())
    assert cost(config).flops == pytest.approx(model.flops(1, 8))
    assert cost(config).cache_bytes == 2 * sum(2 * b.mixer.k.out_features for b in model.blocks)
    alike = model_config(n_layers=9, ffn="mlp(hidden=5)", norm="rmsnorm")
    assert cost(alike).flops == 9 * 2 * 2 * 16 * 5 + 2 * 16 * VOCAB


def test_a_large_model_is_counted_in_a_moment() -> None:
    config = compose(
        "llama",
        [
            "model.dim=16384",
            "model.n_layers=126",
            "model.mixer=attention(heads=128, kv_heads=8)",
            "model.ffn=swiglu(hidden=53248)",
            "model.vocab_size=128256",
        ],
    ).model
    start = time.perf_counter()
    assert cost(config).total == 405_853_388_800  # Llama 3.1 405B
    assert time.perf_counter() - start < 5


def test_a_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.vocab_size=0"):
        cost(model_config(vocab_size=0))
