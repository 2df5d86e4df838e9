"""Every family against `transformers`: drawn small configurations agree in logits, loss, gradients and greedy text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from nanogpt.errors import UserError
from nanogpt.generate import Sampling, generate
from nanogpt.hub.export import to_theirs
from nanogpt.hub.families import families
from nanogpt.hub.load import Parts, load, understand
from nanogpt.hub.source import WEIGHTS, Source, open_folder
from nanogpt.hub.tensors import from_theirs, tensor_named
from nanogpt.model.language_model import LanguageModel, resolve_model

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours
transformers.logging.set_verbosity_error()
VOCAB, TIME = 61, 64
BASE: dict[str, list[Any]] = {
    "vocab_size": [VOCAB], "hidden_size": [32], "intermediate_size": [40, 48], "num_hidden_layers": [3, 4],
    "num_attention_heads": [4], "num_key_value_heads": [1, 2, 4], "max_position_embeddings": [128],
    "tie_word_embeddings": [True, False], "bos_token_id": [None], "eos_token_id": [None], "pad_token_id": [None],
}  # fmt: skip
"""What all are drawn from."""
BOTH = [True, False]
PLAIN = {"rope_type": "default", "rope_theta": 1000.0}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
"""With this base one of the four pairs lies between the two frequencies, so that both count."""
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75, "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.0, 2.0, 4.0],
}  # fmt: skip


def partial(share: float) -> dict[str, Any]:
    return {**PLAIN, "partial_rotary_factor": share}


def kinds(*patterns: str) -> list[list[str]]:
    return [[{"s": "sliding_attention", "f": "full_attention"}[c] for c in p] for p in patterns]


ROPE = {"rope_parameters": [PLAIN, LINEAR, YARN, LLAMA3]}
WINDOW = {"sliding_window": [5, 9, 20]}
DRAWN: dict[str, dict[str, list[Any]]] = {
    "llama": {**ROPE, "head_dim": [8, 12], "attention_bias": BOTH, "mlp_bias": BOTH, "hidden_act": ["silu", "gelu"]},
    "gpt2": {
        "n_embd": [32], "n_layer": [3], "n_head": [2, 4], "n_positions": [128], "n_inner": [None, 40],
        "activation_function": ["gelu_new", "gelu", "relu"], "scale_attn_weights": BOTH,
    },
    "gpt_neox": {"rope_parameters": [partial(0.25), partial(1.0)], "use_parallel_residual": BOTH,
                 "attention_bias": BOTH},
    "mistral": {**ROPE, "head_dim": [8, 12], "sliding_window": [None, 5, 20]},
    "qwen2": {**ROPE, **WINDOW, "use_sliding_window": BOTH, "max_window_layers": [1, 2]},
    "qwen3": {
        **ROPE, **WINDOW, "head_dim": [8, 12], "attention_bias": BOTH, "use_sliding_window": BOTH,
        "max_window_layers": [1, 2],
    },
    "gemma": {"head_dim": [8, 12], "hidden_act": ["gelu_pytorch_tanh", "gelu"], "attention_bias": BOTH},
    "gemma2": {
        **WINDOW, "head_dim": [8, 12], "query_pre_attn_scalar": [8, 20], "attn_logit_softcapping": [None, 2.0],
        "final_logit_softcapping": [None, 3.0],
    },
    "gemma3_text": {
        **WINDOW, "head_dim": [8, 12], "query_pre_attn_scalar": [8, 20], "num_hidden_layers": [4],
        "layer_types": kinds("ssfs", "sfsf", "ssss"),
        "rope_parameters": [{"sliding_attention": PLAIN, "full_attention": LINEAR},
                            {"sliding_attention": {**PLAIN, "rope_theta": 50.0}, "full_attention": PLAIN}],
    },
    "olmo2": {**ROPE, "attention_bias": BOTH},
    "olmo3": {
        **WINDOW, "num_hidden_layers": [4], "layer_types": kinds("sssf", "fsss"), "attention_bias": BOTH,
        "rope_parameters": [{"sliding_attention": PLAIN, "full_attention": YARN}],
    },
    "phi3": {
        "sliding_window": [None, 9], "original_max_position_embeddings": [16, 40, 256],
        "rope_parameters": [partial(0.5), LONGROPE],
    },
    "smollm3": {
        **ROPE, **WINDOW, "num_hidden_layers": [4], "no_rope_layers": [[1, 1, 1, 0], [0, 1, 0, 1]],
        "use_sliding_window": [True], "layer_types": kinds("ffff", "fsfs"), "attention_bias": BOTH,
    },
    "starcoder2": {**ROPE, "sliding_window": [None, 9], "use_bias": BOTH},
    "granite": {
        **ROPE, "attention_bias": BOTH, "mlp_bias": BOTH, "embedding_multiplier": [3.0], "logits_scaling": [7.0],
        "residual_multiplier": [0.3, 1.5], "attention_multiplier": [0.2, 0.5],
    },
    "stablelm": {
        "use_qkv_bias": BOTH, "qk_layernorm": BOTH, "use_parallel_residual": BOTH,
        "rope_parameters": [partial(0.25), partial(0.5)],
    },
    "cohere2": {
        **WINDOW, "head_dim": [8, 12], "attention_bias": BOTH, "logit_scale": [0.3, 2.0], "num_hidden_layers": [4],
    },
    "nanochat": {"attention_bias": [False], "final_logit_softcapping": [2.0, 15.0], "rope_parameters": [PLAIN, LINEAR]},
    # Not of the first list, so the proof that a further family takes a table and nothing else:
    "arcee": {**ROPE, "head_dim": [8, 12], "attention_bias": BOTH, "mlp_bias": BOTH},
    "seed_oss": {**ROPE, "head_dim": [8, 12], "attention_bias": BOTH, "attention_out_bias": BOTH, "mlp_bias": BOTH},
    "ernie4_5": {**ROPE, "head_dim": [8, 12], "use_bias": BOTH},
    "exaone4": {**ROPE, **WINDOW, "num_hidden_layers": [4], "layer_types": kinds("sssf", "fsfs", "ssss")},
}  # fmt: skip
DRAWS = 3


def draw(model_type: str, seed: int) -> Any:
    """A small configuration of theirs with knobs drawn by this seed."""
    random_ = random.Random(f"{model_type}{seed}")
    base: dict[str, list[Any]] = {"vocab_size": [VOCAB], "tie_word_embeddings": BOTH} if model_type == "gpt2" else BASE
    table: dict[str, list[Any]] = {**base, **DRAWN[model_type]}
    if model_type == "gpt_neox":
        table = {k: v for k, v in table.items() if k != "num_key_value_heads"}
    knobs = {key: random_.choice(values) for key, values in table.items()}
    return transformers.AutoConfig.for_model(model_type, **{"bos_token_id": None, "eos_token_id": None, **knobs})


def both(config: Any, seed: int) -> tuple[Any, LanguageModel, Parts]:
    """Their model with random weights, biases and norms too, and ours with the same."""
    torch.manual_seed(seed)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    ours, parts = load(Source(config.model_type, config.to_dict(), theirs.state_dict()))
    return theirs, ours, parts


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("model_type", DRAWN)
def test_logits_loss_and_gradients(model_type: str, seed: int) -> None:
    theirs, ours, parts = both(draw(model_type, seed), seed)
    ids = torch.randint(VOCAB, (2, TIME + 1))
    wanted = theirs(ids[:, :-1]).logits
    torch.testing.assert_close(ours(ids[:, :-1]), wanted, rtol=0, atol=1e-4)
    loss = F.cross_entropy(wanted.flatten(0, 1), ids[:, 1:].flatten())
    mine = ours.losses(ids[:, :-1], ids[:, 1:])["loss"]
    torch.testing.assert_close(mine, loss, rtol=1e-4, atol=0)
    loss.backward()
    mine.backward()
    slopes = {name: p.grad for name, p in theirs.named_parameters()}
    wanted_slopes = dict(from_theirs(parts.table, slopes, parts.shapes, parts.family, "gradients"))
    whole = torch.stack([g.norm() for g in wanted_slopes.values()]).norm()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        apart = (parameter.grad - wanted_slopes[name]).norm()
        assert apart <= 1e-4 * max(wanted_slopes[name].norm(), 1e-3 * whole), name


@pytest.mark.parametrize("model_type", DRAWN)
def test_padded_batches_and_greedy_text(model_type: str) -> None:
    theirs, ours, _ = both(draw(model_type, 1), 1)
    torch.manual_seed(1)
    ids, lengths = torch.randint(VOCAB, (2, 24)), [24, 18]
    mask = torch.tensor([[column >= 24 - n for column in range(24)] for n in lengths])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        wanted = theirs(ids, attention_mask=mask.long(), position_ids=places).logits
        torch.testing.assert_close(ours(ids, mask)[mask], wanted[mask], rtol=0, atol=1e-4)
        how = {"do_sample": False, "max_new_tokens": TIME, "min_new_tokens": TIME}
        written = theirs.generate(ids[:1], return_dict_in_generate=True, output_logits=True, **how)
    wanted_ids = written.sequences[0, 24:].tolist()
    (mine,) = generate(ours, ids[:1].tolist(), TIME, Sampling(temperature=0))
    parted = next((n for n in range(TIME) if mine[n] != wanted_ids[n]), None)
    if parted is not None:  # only where two tokens are as likely, but for rounding
        best = written.logits[parted][0].topk(2).values
        assert best[0] - best[1] < 1e-4, f"token {parted}: {mine[parted]} instead of {wanted_ids[parted]}"


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("model_type", DRAWN)
def test_there_and_back_is_bitwise_and_theirs_reads_it(model_type: str, seed: int) -> None:
    theirs, ours, parts = both(draw(model_type, seed), seed)
    family, config, tensors = to_theirs(parts.config, ours.state_dict(), parts.family.name)
    assert family is parts.family
    own = theirs.state_dict()
    assert all(torch.equal(tensors[name], own[tensor_named(name, own, family)]) for name in tensors)
    again, parts_again = load(Source("again", config, tensors))
    assert parts_again.config == parts.config
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())
    read = transformers.AutoConfig.for_model(**config)
    assert understand(read.to_dict(), "theirs").config == parts.config


@pytest.mark.parametrize("model_type", DRAWN)
def test_what_they_save_is_read_and_what_is_written_they_open(model_type: str, tmp_path: Path) -> None:
    """On disk, where tensors may have other names than in memory (GPT-NeoX), in several files and in bf16."""
    saved, _, _ = both(draw(model_type, 2), 2)
    saved.to(torch.bfloat16).save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32).eval()
    ours, parts = load(open_folder(tmp_path / "theirs"))
    ids = torch.randint(VOCAB, (2, TIME))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=1e-4)
    _, config, tensors = to_theirs(parts.config, ours.state_dict(), parts.family.name)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, tmp_path / "ours" / WEIGHTS, {"format": "pt"})
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(opened[1].values())
    wanted = theirs.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in opened[0].state_dict().items())


@pytest.mark.parametrize("original", [16, 32, 64, 128])
def test_a_text_that_grows_beyond_the_short_factors(original: int) -> None:
    """LongRoPE turns every key otherwise from one token on, and theirs then reads the text again."""
    config = transformers.AutoConfig.for_model(
        "phi3", vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=256, original_max_position_embeddings=original, rope_parameters=dict(LONGROPE),
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    theirs, ours, _ = both(config, original)
    ids = torch.randint(VOCAB, (1, 24))
    wanted = theirs.generate(ids, do_sample=False, max_new_tokens=TIME, min_new_tokens=TIME)[0, 24:].tolist()
    assert generate(ours, ids.tolist(), TIME, Sampling(temperature=0)) == [wanted]


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("qwen2", {"ffn": "swiglu(hidden=24, bias=zeros)"}),  # whatever qwen2's config.json says, it has none
        ("qwen3", {"ffn": "swiglu(hidden=24, bias=zeros)"}),
        ("starcoder2", {"ffn": "mlp(act=gelu_tanh, hidden=24, bias=zeros)"}),  # one switch for all biases
        ("starcoder2", {"mixer": "attention(heads=4, kv_heads=2, bias=all)"}),
        ("ernie4_5", {"mixer": "attention(heads=4, kv_heads=2, bias=all)"}),
        ("granite", {"embed": "token(scale=sqrt_dim)"}),  # a number there
        ("gemma3", {"mixer": "attention(heads=4, kv_heads=2, softcap=9.0, qk_norm=rmsnorm(weight=plus_one))"}),
        ("gemma2", {"mixer": "attention(heads=4, kv_heads=2, scale=0.3)"}),  # 0.3 = s^-0.5 with a whole s there is not
    ],
)
def test_what_a_family_cannot_say_is_not_lost_on_the_way(model_type: str, changes: dict[str, Any]) -> None:
    """Either another family says it, all of it, or it is refused."""
    few: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2,
                           "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "use_bias": False,
                           "sliding_window": None, "layer_types": ["full_attention"] * 2}  # fmt: skip
    name = families()[model_type].model_types[0]
    known = {k: v for k, v in few.items() if k in transformers.AutoConfig.for_model(name).to_dict()}
    plain = understand({"model_type": name, **known}, "few").config
    config = resolve_model(plain.model_copy(update=changes))
    model = LanguageModel(config)
    model.initialise(1)
    try:
        _, written, tensors = to_theirs(config, model.state_dict(), model_type)
    except UserError:
        return
    again, _ = load(Source("again", written, tensors))
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**written)).eval()
    theirs.load_state_dict(tensors, strict=False)
    ids = torch.randint(61, (1, 16))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, again(ids), rtol=0, atol=1e-4)
        torch.testing.assert_close(again(ids), model.eval()(ids), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_type", DRAWN)
def test_what_is_left_out_means_what_it_means_to_them(model_type: str) -> None:
    few: dict[str, Any] = {"vocab_size": 61, "hidden_size": 2048, "intermediate_size": 8, "num_hidden_layers": 8,
                           "num_attention_heads": 64, "bos_token_id": None, "eos_token_id": None}  # fmt: skip
    if model_type == "gpt2":
        few = {"vocab_size": 61, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": None}
    whole = transformers.AutoConfig.for_model(model_type, **few).to_dict()
    assert understand({"model_type": model_type, **few}, "few").config == understand(whole, "whole").config


def test_every_family_is_drawn() -> None:
    opened = {f.model_types[0] for f in families().values() if f.architecture}
    assert opened == set(DRAWN)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
         {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}),
        ({"rope_scaling": None, "head_dim": None, "torch_dtype": "bfloat16"}, {}),
    ],
)  # fmt: skip
def test_configurations_of_earlier_years(old: dict[str, Any], new: dict[str, Any]) -> None:
    few = {"model_type": "llama", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
           "num_attention_heads": 4}  # fmt: skip
    assert understand({**few, **old}, "old").config == understand({**few, **new}, "new").config


def test_a_wrong_table_would_be_found() -> None:
    """The comparison itself: two queries swapped, and the logits are far apart."""
    theirs, _, _ = both(draw("llama", 0), 0)
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    state["model.layers.0.self_attn.q_proj.weight"] = state["model.layers.0.self_attn.q_proj.weight"].flip(0)
    ours, _ = load(Source("llama", theirs.config.to_dict(), state))
    ids = torch.randint(VOCAB, (1, 16))
    with torch.no_grad():
        assert (ours(ids) - theirs(ids).logits).abs().max() > 1e-2


TOP = {"rope_scaling": None, "rope_theta": 1234.5}
OLMO = {"factor": 8.0, "original_max_position_embeddings": 16, "attention_factor": 1.2, "rope_type": "yarn"}


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("olmo3", {"rope_theta": 500000, "rope_scaling": None}),
        ("olmo3", {"rope_theta": 500000, "rope_scaling": OLMO}),
        ("gemma3_text", {**TOP, "rope_local_base_freq": 55.5}),
        ("gemma3_text", {"rope_theta": 1234.5, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}),
        ("smollm3", TOP),
        ("cohere2", TOP),
        ("exaone4", TOP),
        ("qwen3", {"rope_theta": 1234.5, "rope_scaling": {**YARN, "factor": 2.5, "truncate": None}}),
    ],
)
def test_positions_as_files_of_transformers_4_say_them(model_type: str, says: dict[str, Any], tmp_path: Path) -> None:
    """At the top and without `rope_parameters`, as in allenai/Olmo-3-7B and google/gemma-3-1b-it."""
    saved, _, _ = both(draw(model_type, 3), 3)
    saved.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    scaling = says["rope_scaling"] and {k: v for k, v in says["rope_scaling"].items() if k != "rope_theta"}
    config = {k: v for k, v in config.items() if k != "rope_parameters"} | says | {"rope_scaling": scaling}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours, _ = load(open_folder(tmp_path))
    ids = torch.randint(VOCAB, (2, TIME))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=1e-4)


def test_a_key_that_no_family_has_is_refused_by_name() -> None:
    config = draw("llama", 0).to_dict()
    for key, value in [("clip_qkv", 8.0), ("rope_parameters", {"rope_type": "dynamic", "factor": 2.0})]:
        with pytest.raises(UserError, match="clip_qkv" if key == "clip_qkv" else "rope_type=dynamic"):
            understand({**config, key: value}, "x")


@pytest.mark.parametrize(
    ("model_type", "changes", "match"),
    [
        ("gemma3_text", {"attn_logit_softcapping": 9.0}, "attn_logit_softcapping=9.0 has no part here; nearest: null"),
        ("nanochat", {"rope_parameters": YARN}, "rope_type=yarn has no part here"),  # its norm takes the factor away
        ("stablelm", {"rope_pct": 0.5}, "rope_pct=0.5 has no part here; nearest: 0.25"),
        ("olmo3", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling.type=yarn is a key"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=true"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=true"),
        ("cohere2", {"use_qk_norm": True}, "use_qk_norm=true"),
    ],
)
def test_what_they_read_otherwise_than_it_says_is_refused(model_type: str, changes: Any, match: str) -> None:
    with pytest.raises(UserError, match=match):
        understand({**draw(model_type, 0).to_dict(), **changes}, "x")


def test_gemma_says_gelu_and_means_its_approximation() -> None:
    """As `transformers` reads it; the files of the first releases say `gelu`."""
    few = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1,
           "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "hidden_act": "gelu"}  # fmt: skip
    whole = transformers.AutoConfig.for_model("gemma", **few).to_dict()
    assert whole["hidden_act"] == "gelu_pytorch_tanh"
    assert understand({"model_type": "gemma", **few}, "x").config == understand(whole, "x").config


def test_a_width_that_theirs_does_not_take_goes_to_a_family_that_does() -> None:
    config = understand({**draw("llama", 0).to_dict(), "hidden_size": 36, "num_attention_heads": 8,
                         "num_key_value_heads": 2, "head_dim": 8, "attention_bias": False, "mlp_bias": False,
                         "rope_parameters": PLAIN, "rope_scaling": None}, "x").config  # fmt: skip
    model = LanguageModel(config)
    family, written, _ = to_theirs(config, model.state_dict(), "llama")
    assert family.name != "llama"
    transformers.AutoConfig.for_model(**{**written, "pad_token_id": None})
    gemma = understand({**draw("gemma2", 0).to_dict(), "hidden_size": 36, "num_attention_heads": 8,
                        "num_key_value_heads": 2}, "x").config  # fmt: skip
    with pytest.raises(UserError, match=r"model\.dim is no multiple of the heads"):
        to_theirs(gemma, LanguageModel(gemma).state_dict(), "gemma2")


def test_smollm3_has_its_windows_where_it_has_no_positions() -> None:
    few: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 5,
                           "num_attention_heads": 4, "use_sliding_window": True, "sliding_window": 7,
                           "no_rope_layer_interval": 2, "pad_token_id": None}  # fmt: skip
    whole = transformers.AutoConfig.for_model("smollm3", **few).to_dict()
    assert set(whole["layer_types"]) == {"sliding_attention", "full_attention"}
    assert understand({"model_type": "smollm3", **few}, "x").config == understand(whole, "x").config
