"""Files as they were published: keys of config.json that `transformers` never reads, and whose tokenizer is whose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanogpt.api import load as load_run
from nanogpt.errors import UserError
from nanogpt.hub.export import export_run, to_theirs
from nanogpt.hub.load import import_run, understand
from nanogpt.hub.source import Source
from nanogpt.model.language_model import LanguageModel
from nanogpt.spec import expand
from nanogpt.tokenizers import load_tokenizer, make_tokenizer

SIZES: dict[str, Any] = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4,
                         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama", "is_llama_config": True, "rope_interleaved": False, "rope_theta": 100000,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    },
    "huggyllama/llama-7b": {"model_type": "llama", "max_position_embeddings": 2048, "max_sequence_length": 2048},
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2", "max_window_layers": 24, "sliding_window": 32768, "use_mrope": False,
        "use_sliding_window": False,
    },
    "microsoft/Phi-3-mini-4k-instruct": {
        "model_type": "phi3", "attention_bias": False, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "sliding_window": 2047,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3"},
    },
    "microsoft/Phi-4-mini-instruct": {
        "model_type": "phi3", "attention_bias": False, "full_attn_mod": 1, "interpolate_factor": 1,
        "lm_head_bias": False, "mlp_bias": False, "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
    },
    "bigcode/starcoder2-3b": {
        "model_type": "starcoder2", "activation_function": "gelu", "attention_softmax_in_fp32": True,
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-05, "mlp_type": "default", "norm_epsilon": 1e-05,
        "norm_type": "layer_norm", "rope_theta": 999999.4420358813, "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True, "sliding_window": 4096, "use_bias": True,
    },
    "LGAI-EXAONE/EXAONE-4.0-32B": {
        "model_type": "exaone4", "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "max_window_layers": 64,
        "reorder_qk_norm": True, "sliding_window": 4096, "sliding_window_pattern": "LLLG",
    },
    "LGAI-EXAONE/EXAONE-4.0-1.2B": {
        "model_type": "exaone4", "layer_types": ["full_attention"] * 4, "max_window_layers": 28,
        "reorder_qk_norm": True, "sliding_window": None, "sliding_window_pattern": None, "tie_word_embeddings": True,
    },
    "openai-community/gpt2-medium": {
        "model_type": "gpt2", "n_ctx": 1024, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_special": 0,
        "output_past": True, "predict_special_tokens": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    },
    "stabilityai/stablelm-3b-4e1t": {
        "model_type": "stablelm_epoch", "norm_eps": 1e-05, "rope_pct": 0.25, "rotary_scaling_factor": 1.0,
    },
}  # fmt: skip
"""The keys that each brings beside the usual ones; widths and depths are small."""


def sized(config: dict[str, Any]) -> dict[str, Any]:
    return {"vocab_size": 320, **config} if config["model_type"] == "gpt2" else {**SIZES, **config}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_configuration_as_published_is_read(name: str) -> None:
    config = sized(PUBLISHED[name])
    assert understand(config, name).family.model_types[0] == config["model_type"].removesuffix("_epoch")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "rope_interleaved", True),
        ("Qwen/Qwen2.5-0.5B", "use_mrope", True),
        ("microsoft/Phi-4-mini-instruct", "full_attn_mod", 2),
        ("microsoft/Phi-4-mini-instruct", "lm_head_bias", True),
        ("bigcode/starcoder2-3b", "scale_attn_weights", False),
        ("bigcode/starcoder2-3b", "norm_type", "rms_norm"),
        ("LGAI-EXAONE/EXAONE-4.0-32B", "reorder_qk_norm", False),
        ("stabilityai/stablelm-3b-4e1t", "rotary_scaling_factor", 2.0),
    ],
)
def test_what_such_a_key_would_change_is_refused(name: str, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{key}={str(value).lower()} has no part here"):
        understand({**sized(PUBLISHED[name]), key: value}, name)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma3_text", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("value", [None, False])
def test_a_model_that_looks_ahead_is_refused(model_type: str, value: bool | None) -> None:
    """`transformers` takes null for false, where a key that is left out would be true."""
    own = {"gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2}, "gpt_neox": {"num_key_value_heads": None}}
    config = {**sized({"model_type": model_type}), **own.get(model_type, {})}
    assert understand({**config, "is_causal": True}, "x").config == understand(config, "x").config
    with pytest.raises(UserError, match=r"is_causal=(none|false) has no part here; nearest: true"):
        understand({**config, "is_causal": value}, "x")


@pytest.mark.parametrize(
    ("model_type", "changes", "match"),
    [
        ("gemma2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping=0 leaves no logit; nearest: null"),
        ("gemma2", {"final_logit_softcapping": 0}, "final_logit_softcapping=0 leaves no logit; nearest: null"),
        ("gemma3_text", {"final_logit_softcapping": 0.0}, "final_logit_softcapping=0 leaves no logit"),
        ("gemma3_text", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping=0.0 has no part here; nearest: null"),
        ("nanochat", {"final_logit_softcapping": 0.0}, "final_logit_softcapping=0 leaves no logit"),
        ("qwen3", {"layer_types": ["full_attention"] * 3}, "layer_types has 3 entries for 4 layers"),
        ("gemma3_text", {"layer_types": ["full_attention"] * 5}, "layer_types has 5 entries for 4 layers"),
        ("cohere2", {"layer_types": []}, "layer_types has 0 entries for 4 layers"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers has 2 entries for 4 layers"),
        ("mistral", {"sliding_window": 0}, "sliding_window=0 lets a token see nothing; nearest: null"),
        ("phi3", {"sliding_window": 0}, "sliding_window=0 lets"),
        ("olmo3", {"sliding_window": 0}, "sliding_window=0 lets"),
        ("qwen2", {"sliding_window": 0, "use_sliding_window": True}, "sliding_window=0 lets"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "layer_types has .*use_sliding_window=false"),
        ("olmo3", {"sliding_window": None}, "layer_types has sliding_attention, but sliding_window=none"),
        ("gemma2", {"num_attention_heads": 0}, "num_attention_heads=0 must be at least 1"),
        (
            "gpt_neox",
            {"num_attention_heads": 0, "num_key_value_heads": None},
            "num_attention_heads=0 must be at least 1",
        ),
        ("qwen3", {"num_key_value_heads": 0}, "num_key_value_heads=0 must be at least 1"),
        ("granite", {"num_hidden_layers": 0}, "num_hidden_layers=0 must be at least 1"),
        ("gpt2", {"n_embd": 32, "n_head": 0, "n_layer": 2}, "n_head=0 must be at least 1"),
        (
            "exaone4",
            {"layer_types": ["full_attention"] * 4, "rope_scaling": {"rope_type": "mrope"}},
            "rope_type=mrope has",
        ),
        (
            "cohere2",
            {"layer_types": ["full_attention"] * 4, "rope_scaling": {"rope_type": "su7"}},
            "rope_type=su7 has no",
        ),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3 needs factor, low_freq_factor and"),
    ],
)
def test_what_no_model_can_mean_is_refused_by_its_name(model_type: str, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=f"^x: .*{match}"):
        understand({**sized({"model_type": model_type}), **changes}, "x")


def test_no_window_is_needed_where_no_layer_has_one() -> None:
    full, zero = {"layer_types": ["full_attention"] * 4, "sliding_window": None}, {"sliding_window": 0}
    for config in ({"model_type": "olmo3", **full}, {"model_type": "gemma2", **full}, {"model_type": "qwen2", **zero}):
        assert not any("window=4096" in str(mixer) for mixer in understand(sized(config), "x").config.mixer)
    longer = {"model_type": "smollm3", "no_rope_layers": [1, 0, 1, 1, 0, 0]}  # "at least" as many, its config says
    shorter = {**longer, "no_rope_layers": [1, 0, 1, 1]}
    assert understand(sized(longer), "x").config == understand(sized(shorter), "x").config


def test_olmo_3_turns_both_kinds_of_layer_from_one_base() -> None:
    """A theta of its own beside no `rope_parameters` is every layer's (`Olmo3Model` of transformers 4.57 builds both
    rotary embeddings from `config.rope_theta`); transformers 5 keeps 500000 in layers with a window."""
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192, "attention_factor": 1.2}
    config = understand(sized({"model_type": "olmo3", "rope_theta": 1234.5, "rope_scaling": yarn}), "x").config
    positions = [str(p) for p in expand(config.position, config.n_layers)]
    assert all("base=1234.5" in p for p in positions)
    assert ["yarn" in p for p in positions] == [False, False, False, True]


def test_a_pattern_in_letters_is_refused_where_it_would_be_needed() -> None:
    config = sized(PUBLISHED["LGAI-EXAONE/EXAONE-4.0-32B"])
    del config["layer_types"]
    with pytest.raises(UserError, match="sliding_window_pattern=LLLG"):
        understand(config, "exaone")


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("kinds", ["ffff", "sssf", "ssss"])
def test_exaone_without_windows_keeps_its_positions_on_the_way_out(window: int | None, kinds: str) -> None:
    """No window: positions everywhere. A window: only in the layers that have it; none at all where no layer has."""
    if window is None and "s" in kinds:
        return
    types = [{"s": "sliding_attention", "f": "full_attention"}[kind] for kind in kinds]
    config = {**SIZES, "model_type": "exaone4", "sliding_window": window, "layer_types": types}
    parts = understand(config, "x").config
    family, written, _ = to_theirs(parts, LanguageModel(parts).state_dict(), "exaone4")
    assert family.name == "exaone4"
    assert understand(written, "again").config == parts


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama", "phi3", "ernie4_5"])
def test_an_export_has_its_own_tokenizer_whatever_its_family_usually_has(model_type: str, tmp_path: Path) -> None:
    """`transformers` gives every qwen2 the tokenizer of Qwen2, with its rules for words, unless told otherwise."""
    transformers = pytest.importorskip("transformers")
    text = "the cat  sat, 1957\n\nCAT's e\u0301t\u00e9"
    parts = understand({**SIZES, "model_type": model_type}, "x")
    model = LanguageModel(parts.config)
    model.initialise(1)
    _, config, tensors = to_theirs(parts.config, model.state_dict(), parts.family.name)
    tokenizer = make_tokenizer("bpe(vocab_size=300)", lambda: iter([text * 20]), True).json
    run = import_run(Source("x", config, tensors, tokenizer), out=tmp_path, name="m")
    export_run(run, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == model_type
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(text).input_ids == load_tokenizer(run.tokenizer_path).encode(text).tolist()
    assert theirs.decode(theirs(text).input_ids) == text


def small(**changes: Any) -> Source:
    parts = understand({**SIZES, "model_type": "llama", **changes}, "x")
    model = LanguageModel(parts.config)
    model.initialise(1)
    _, config, tensors = to_theirs(parts.config, model.state_dict(), "llama")
    return Source(
        "x", config, tensors, make_tokenizer("bpe(vocab_size=300)", lambda: iter(["a cat, " * 99]), True).json
    )


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    """With the import, and where it is put into the run later; special tokens beyond the vocabulary come of no text."""
    source = small(vocab_size=100)
    with pytest.raises(UserError, match=r"the tokenizer of x has 2.. tokens, and the model 100: it is another model's"):
        import_run(source, out=tmp_path, name="m")
    assert not list(tmp_path.iterdir())
    text, source.tokenizer = source.tokenizer, None
    run = import_run(source, out=tmp_path, name="m")
    assert text is not None
    run.tokenizer_path.write_text(text)
    with pytest.raises(UserError, match=r"tokenizer.json has 2.. tokens, and the model 100"):
        load_run(run)
    parts = json.loads(text)
    size = len(parts["model"]["vocab"])
    parts["added_tokens"].append({**parts["added_tokens"][0], "id": size, "content": "<image>"})
    fits = small(vocab_size=size)
    fits.tokenizer = json.dumps(parts)
    import_run(fits, out=tmp_path, name="fits")
    parts["added_tokens"][-1]["special"] = False
    fits.tokenizer = json.dumps(parts)
    with pytest.raises(UserError, match=f"has {size + 1} tokens, and the model {size}"):
        import_run(fits, out=tmp_path, name="fits_not")


def test_numbers_that_fp32_cannot_hold_are_named(tmp_path: Path) -> None:
    source = small()
    tensors = dict(source.tensors)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double() + 1e300
    source.tensors = tensors
    with pytest.raises(UserError, match=r"tensor 'model\.norm\.weight' has numbers that are not finite") as error:
        import_run(source, out=tmp_path, name="m")
    assert error.value.status == 2


@pytest.mark.parametrize("name", ["", ".", "../up", "a" * 300])
def test_a_name_that_is_none_is_refused_for_that(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be one folder's name"):
        import_run(small(), out=tmp_path / "runs", name=name)
    assert not list(tmp_path.iterdir())
