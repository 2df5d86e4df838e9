"""Blocks, attention and both ends against `transformers`, one family for each thing that is special: random weights,
copied name by name, must give the same logits."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import make, tokens

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # importing transformers takes seconds

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "vocab_size": 13,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
LLAMA = {
    r"model\.embed_tokens": "embed",
    r"model\.norm": "norm",
    r"lm_head": "head.linear",
    r"model\.layers": "blocks",
    r"self_attn\.o_proj": "mixer.out",
    r"self_attn\.([qkv])_proj": r"mixer.\1",
    r"self_attn\.([qk])_(?:layer)?norm(?:\.norms)?": r"mixer.\1_norm",
    r"mlp\.down_proj": "ffn.out",
    r"mlp\.(gate|up)_proj": r"ffn.\1",
}
PRE = {"input_layernorm": "mixer_norm", "post_attention_layernorm": "ffn_norm"}
GLU = {"dim": 24, "context": 16, "ffn": "swiglu(hidden=20)"}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "Gemma2": (
        {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 5, "attn_logit_softcapping": 2.0}
        | {"final_logit_softcapping": 3.0, "sliding_window": 4},
        GLU
        | {
            "embed": "token(scale=sqrt_dim)",
            "position": "rotary",
            "mixer": [
                f"attention(heads=4, kv_heads=2, head_dim=8, scale={5**-0.5}, softcap=2, window={n})" for n in (4, 0)
            ],
            "ffn": "geglu(act=gelu_tanh, hidden=20)",
            "norm": "rmsnorm(weight=plus_one)",
            "layout": "sandwich",
            "head": "tied(softcap=3)",
        },
        {
            "input_layernorm": "mixer_norm",
            "post_attention_layernorm": "mixer_out_norm",
            "pre_feedforward_layernorm": "ffn_norm",
            "post_feedforward_layernorm": "ffn_out_norm",
        },
    ),
    "Olmo2": (
        {"num_key_value_heads": 2, "rms_norm_eps": 1e-3},
        GLU
        | {
            "position": "rotary",
            "mixer": "attention(heads=4, kv_heads=2, qk_norm=rmsnorm(eps=1e-3), qk_norm_over=all)",
            "norm": "rmsnorm(eps=1e-3)",
            "layout": "reordered",
        },
        {"post_attention_layernorm": "mixer_norm", "post_feedforward_layernorm": "ffn_norm"},
    ),
    "StableLm": (
        {"num_key_value_heads": 2, "qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": True}
        | {"partial_rotary_factor": 1.0},
        GLU
        | {
            "position": "rotary",
            "mixer": "attention(heads=4, kv_heads=2, bias=qkv, qk_norm=layernorm(bias=none), qk_norm_over=each)",
            "norm": "layernorm",
            "layout": "parallel(norms=one)",
        },
        PRE,
    ),
    "Cohere2": (
        {"num_key_value_heads": 2, "logit_scale": 0.3, "sliding_window": 4, "head_dim": 6}
        | {"layer_types": ["sliding_attention", "full_attention"]},
        GLU
        | {
            "position": ["rotary(pairing=interleaved)", "none"],
            "mixer": ["attention(heads=4, kv_heads=2, window=4)", "attention(heads=4, kv_heads=2)"],
            "norm": "layernorm(bias=none)",
            "layout": "parallel",
            "head": "tied(scale=0.3)",
        },
        PRE,
    ),
    "Granite": (
        {"num_key_value_heads": 2, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0}
        | {"attention_multiplier": 0.1},
        GLU
        | {
            "embed": "token(scale=12)",
            "position": "rotary",
            "mixer": "attention(heads=4, kv_heads=2, scale=0.1)",
            "norm": "rmsnorm",
            "layout": "pre(residual=scaled(by=0.22))",
            "head": "linear(scale=0.125)",
        },
        PRE,
    ),
    "GPTNeoX": (
        {"hidden_size": 32, "use_parallel_residual": True, "hidden_act": "gelu"}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        {
            "dim": 32,
            "context": 16,
            "position": "rotary(share=0.5)",
            "mixer": "attention(heads=4, bias=all)",
            "ffn": "mlp(act=gelu, hidden=20, bias=zeros)",
            "norm": "layernorm",
            "layout": "parallel(norms=two)",
        },
        {
            "gpt_neox.embed_in": "embed",
            "gpt_neox.final_layer_norm": "norm",
            "embed_out|lm_head": "head.linear",
            "gpt_neox.layers": "blocks",
            "attention.dense": "mixer.out",
            "mlp.dense_h_to_4h": "ffn.up",
            "mlp.dense_4h_to_h": "ffn.out",
        }
        | PRE,
    ),
}


def renamed(name: str, table: dict[str, str]) -> str:
    for theirs, ours in table.items():
        name = re.sub(theirs, ours, name)
    return name


def our_weights(theirs: dict[str, Tensor], table: dict[str, str], tied: bool) -> dict[str, Tensor]:
    found = {renamed(name, table): value for name, value in theirs.items()}
    if tied:
        del found["head.linear.weight"]
    for name in [n for n in found if "query_key_value" in n]:  # GPT-NeoX: q, k, v of one head after the other
        block, kind = name.split(".attention.query_key_value.")
        value = found.pop(name)
        for part, rows in zip("qkv", value.unflatten(0, (4, 3, -1)).unbind(1), strict=True):
            found[f"{block}.mixer.{part}.{kind}"] = rows.flatten(0, 1)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_family_by_its_parts(family: str) -> None:
    settings, fields, names = FAMILIES[family]
    tied = "tied" in fields.get("head", "")
    config = getattr(transformers, f"{family}Config")(**SIZES | settings | {"tie_word_embeddings": tied})
    torch.manual_seed(1)
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for parameter in theirs.parameters():
        parameter.copy_(
            torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.5) + 0.5 * (parameter.ndim == 1)
        )
    ours = make(**fields)
    table = names if family == "GPTNeoX" else LLAMA | names
    ours.load_state_dict(our_weights(theirs.state_dict(), table, tied))
    x = tokens(3, 12)
    expected = theirs(x).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(x), expected, atol=1e-4, rtol=1e-4)
    mask = torch.arange(12)[None] >= torch.tensor([[0], [3], [5]])
    padded = theirs(x, attention_mask=mask.long(), position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    torch.testing.assert_close(ours(x, mask)[mask], padded[mask], atol=1e-4, rtol=1e-4)
