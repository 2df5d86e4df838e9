"""GGUF of each architecture that can be read: written by the gguf package from a small model of `transformers`, with
that package's own table of names, it is read as the same model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt.errors import UserError
from nanogpt.hub.gguf import _tables
from nanogpt.hub.load import load
from nanogpt.hub.source import open_source

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours
VOCAB = 61
PAIRED = ("llama", "arcee", "granite", "smollm3")
"""Whose converter reorders the rows of queries and keys, for llama.cpp turns neighbours there."""
FEW: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None,
}  # fmt: skip
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
PARTIAL = {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}}
KNOBS: dict[str, dict[str, Any]] = {
    "llama": {**ROPE, "head_dim": 12},
    "qwen2": ROPE,
    "qwen3": {**ROPE, "head_dim": 8},
    "smollm3": {**ROPE, "tie_word_embeddings": False},
    "arcee": {**ROPE, "head_dim": 8},
    "granite": {**ROPE, "embedding_multiplier": 3.0, "residual_multiplier": 0.3, "attention_multiplier": 0.2,
                "logits_scaling": 4.0},
    "olmo2": ROPE,
    "seed_oss": {**ROPE, "head_dim": 8},
    "gemma": {"head_dim": 12},
    "cohere2": {"logit_scale": 0.5, "sliding_window": 7, "tie_word_embeddings": True},
    "starcoder2": {**ROPE, "sliding_window": 9},
    "stablelm": {**PARTIAL, "use_qkv_bias": True},
    "phi3": {**PARTIAL, "sliding_window": 9},
}  # fmt: skip
WRITTEN = {
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size", "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings", "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim",
    "attention.value_length": "head_dim", "attention.sliding_window": "sliding_window",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "logit_scale": "logit_scale",
    "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
}  # fmt: skip
"""Keys that the converter writes, from which of config.json."""


def write(path: Path, model_type: str, seed: int) -> Any:
    """What convert_hf_to_gguf.py of llama.cpp writes of a model with random weights; the model."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(model_type, **{**FEW, **KNOBS[model_type]})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    facts = config.to_dict()
    facts.setdefault("head_dim", config.hidden_size // config.num_attention_heads)
    writer = gguf.GGUFWriter(path, model_type)
    for name, key in WRITTEN.items():
        if facts.get(key) is not None:
            add = writer.add_float32 if isinstance(facts[key], float) else writer.add_uint32
            add(f"{model_type}.{name}", facts[key])
    if model_type == "granite":
        writer.add_float32("granite.logit_scale", facts["logits_scaling"])
    epsilon = facts.get("layer_norm_eps", facts.get("norm_epsilon"))
    if epsilon is not None:
        writer.add_float32(f"{model_type}.attention.layer_norm_epsilon", epsilon)
    rope = facts["rope_parameters"]
    writer.add_float32(f"{model_type}.rope.freq_base", rope["rope_theta"])
    share = rope.get("partial_rotary_factor", 1.0)
    writer.add_uint32(f"{model_type}.rope.dimension_count", int(facts["head_dim"] * share))
    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == model_type)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        values = tensor.numpy()
        if model_type in PAIRED and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = len(values) // facts["head_dim"]
            values = values.reshape(heads, 2, facts["head_dim"] // 2, -1).swapaxes(1, 2).reshape(values.shape)
        if model_type == "gemma" and name.endswith("norm.weight"):
            values = values + 1
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("model_type", KNOBS)
def test_each_architecture_is_read_as_the_model_it_was(model_type: str, seed: int, tmp_path: Path) -> None:
    theirs = write(tmp_path / "m.gguf", model_type, seed)
    ours, parts = load(open_source(str(tmp_path / "m.gguf")))
    assert parts.family.model_types[0] == model_type
    ids = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=1e-4)


def test_every_architecture_is_tried() -> None:
    assert set(_tables()) - {""} == set(KNOBS)


def test_a_damaged_file_is_one_line_wherever_it_is_damaged(tmp_path: Path) -> None:
    """Cut anywhere, or with a byte of its first part changed: one line, or read where nothing depends on the byte."""
    path = tmp_path / "m.gguf"
    write(path, "llama", 1)
    whole, dice = path.read_bytes(), random.Random(1)
    for number in range(240):
        damaged = bytearray(whole)
        if number % 3:
            damaged[dice.randrange(1500)] = dice.randrange(256)
        else:
            damaged = damaged[: dice.randrange(4, len(whole) - 1)]
        path.write_bytes(damaged)
        try:
            load(open_source(str(path)))
        except UserError as error:
            assert "\n" not in str(error)
