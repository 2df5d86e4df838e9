"""Cards beside published config.json files: read through the family's table, a file must say the card's own parts.

The files are given as far as copies of them were found (docs/families/README.md); what is left out is the family's
default, as `transformers` has it.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from nanogpt.config import ModelConfig, compose
from nanogpt.hub.load import understand
from nanogpt.hub.solve import SAID
from nanogpt.model.language_model import resolve_model


def shape(dim: int, layers: int, heads: int, kv_heads: int, hidden: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "intermediate_size": hidden, "vocab_size": vocab, **more,
    }  # fmt: skip


YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192, "beta_fast": 32.0,
        "beta_slow": 1.0, "attention_factor": 1.2079441541679836}  # fmt: skip
THREE_TO_ONE = ["sliding_attention"] * 3 + ["full_attention"]
FIVE_TO_ONE = ["sliding_attention"] * 5 + ["full_attention"]
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "command-r7b": ("cohere2", shape(4096, 32, 32, 8, 14336, 256000, max_position_embeddings=132096, logit_scale=0.25,
                                     rope_theta=50000.0, layer_norm_eps=1e-5, sliding_window=4096,
                                     layer_types=8 * THREE_TO_ONE)),
    "ernie-4.5-0.3b": ("ernie4_5", shape(1024, 18, 16, 2, 3072, 103424, head_dim=128, max_position_embeddings=131072,
                                         rms_norm_eps=1e-5, rope_theta=500000, use_bias=False,
                                         tie_word_embeddings=True)),
    "gemma-3-270m": ("gemma3_text", shape(640, 18, 4, 1, 2048, 262144, head_dim=256, max_position_embeddings=32768,
                                          rope_theta=1e6, rope_local_base_freq=1e4, sliding_window=512,
                                          query_pre_attn_scalar=256, layer_types=3 * FIVE_TO_ONE)),
    "granite-3.1-2b": ("granite", shape(2048, 40, 32, 8, 8192, 49155, max_position_embeddings=131072, rms_norm_eps=1e-5,
                                        rope_theta=5e6, attention_multiplier=0.015625, embedding_multiplier=12.0,
                                        logits_scaling=8.0, residual_multiplier=0.22, tie_word_embeddings=True)),
    "llama-7b": ("llama", shape(4096, 32, 32, 32, 11008, 32000, max_position_embeddings=2048, rms_norm_eps=1e-6)),
    "llama-65b": ("llama", shape(8192, 80, 64, 64, 22016, 32000, max_position_embeddings=2048, rms_norm_eps=1e-5)),
    "mistral-small-3.1-24b": ("mistral", shape(5120, 40, 32, 8, 32768, 131072, head_dim=128, rms_norm_eps=1e-5,
                                               max_position_embeddings=131072, rope_theta=1e9, sliding_window=None)),
    "olmo-2-1b": ("olmo2", shape(2048, 16, 16, 16, 8192, 100352, max_position_embeddings=4096, rms_norm_eps=1e-6,
                                 rope_theta=500000.0)),
    "olmo-3-7b": ("olmo3", shape(4096, 32, 32, 32, 11008, 100278, max_position_embeddings=65536, rms_norm_eps=1e-6,
                                 rope_theta=500000, sliding_window=4096, rope_scaling=YARN,
                                 layer_types=8 * THREE_TO_ONE)),
    "phi-3-mini": ("phi3", shape(3072, 32, 32, 32, 8192, 32064, max_position_embeddings=4096, rms_norm_eps=1e-5,
                                 original_max_position_embeddings=4096, rope_theta=10000.0, sliding_window=2047)),
    "seed-oss-36b": ("seed_oss", shape(5120, 64, 80, 8, 27648, 155136, head_dim=128, max_position_embeddings=524288,
                                       rms_norm_eps=1e-6, rope_theta=1e7, tie_word_embeddings=False)),
    "smollm3-3b": ("smollm3", shape(2048, 36, 16, 4, 11008, 128256, max_position_embeddings=65536, rms_norm_eps=1e-6,
                                    rope_theta=5e6, no_rope_layers=9 * [1, 1, 1, 0], tie_word_embeddings=True)),
    "starcoder2-3b": ("starcoder2", shape(3072, 30, 24, 2, 12288, 49152, max_position_embeddings=16384, use_bias=True,
                                          norm_epsilon=1e-5, rope_theta=999999.4420358813, sliding_window=4096)),
}  # fmt: skip


def said(config: ModelConfig) -> dict[str, str]:
    """What a model is, each field as text; `swiglu(act=silu)` is the `glu(act=silu)` that a table says."""
    return {field: re.sub(r"\b(swi|ge)glu\(", "glu(", str(getattr(config, field))) for field in SAID}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_is_what_its_config_json_says(name: str) -> None:
    model_type, theirs = PUBLISHED[name]
    read = understand({"model_type": model_type, **theirs}, name).config
    assert said(resolve_model(compose(name).model)) == said(read)
