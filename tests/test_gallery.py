"""The gallery: every published dense model by its exact size, shown, set side by side, drawn, scaled, trained."""

from __future__ import annotations

import importlib.util
import json
import re
from itertools import cycle
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from nanogpt.cli.models import show
from nanogpt.config import ModelConfig, compose, presets
from nanogpt.cost import cost
from nanogpt.diagram import WIDE, svg, text
from nanogpt.errors import UserError
from nanogpt.hub.solve import find_family
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.parts import knobs_of
from nanogpt.pattern import Pattern, pattern, period
from nanogpt.scale import LEAST_WINDOW, became, parse_budget, proportions_kept, scale_model, scaled, short, shorter
from nanogpt.show import AXES, compare, describe, knob_text, memory, tensors
from nanogpt.spec import expand, parse
from nanogpt.wiring import wiring
from tests.helpers import model_config

DOCS = Path(__file__).parent.parent / "docs"
FAMILIES: dict[str, list[str]] = {}
for _name, _path in presets().items():
    if _path.parents[1].name == "families":
        FAMILIES.setdefault(_path.parent.name, []).append(_name)
CARDS = [name for names in FAMILIES.values() for name in names]
ROWS = {
    "GPT-2 124M": "gpt2", "GPT-2 medium": "gpt2-medium", "GPT-2 large": "gpt2-large", "GPT-2 XL": "gpt2-xl",
    "LLaMA-1 7B": "llama-7b", "LLaMA-1 13B": "llama-13b", "LLaMA-1 33B": "llama-33b", "LLaMA-1 65B": "llama-65b",
    "Llama-2 70B": "llama-2-70b", "Llama-3/3.1 8B": "llama-3-8b llama-3.1-8b", "Llama-3.1 405B": "llama-3.1-405b",
    "Llama-3/3.1 70B": "llama-3-70b llama-3.1-70b", "Llama-3.2 1B": "llama-3.2-1b", "Llama-3.2 3B": "llama-3.2-3b",
    "TinyLlama 1.1B": "tinyllama-1.1b", "Mistral 7B v0.1": "mistral-7b", "Gemma-1 2B": "gemma-2b",
    "Gemma-1 7B": "gemma-7b", "Gemma-2 2B": "gemma-2-2b", "Gemma-2 9B": "gemma-2-9b", "Gemma-2 27B": "gemma-2-27b",
    "Gemma-3 270M": "gemma-3-270m", "Gemma-3 1B": "gemma-3-1b", "Gemma-3 4B text": "gemma-3-4b",
    "Gemma-3 12B text": "gemma-3-12b", "Gemma-3 27B text": "gemma-3-27b", "Qwen2.5 0.5B": "qwen2.5-0.5b",
    "Qwen2.5 1.5B": "qwen2.5-1.5b", "Qwen2.5 3B": "qwen2.5-3b", "Qwen2.5 7B": "qwen2.5-7b",
    "Qwen2.5 14B": "qwen2.5-14b", "Qwen2.5 32B": "qwen2.5-32b", "Qwen2.5 72B": "qwen2.5-72b",
    "Qwen3 0.6B": "qwen3-0.6b", "Qwen3 1.7B": "qwen3-1.7b", "Qwen3 4B": "qwen3-4b", "Qwen3 8B": "qwen3-8b",
    "Qwen3 14B": "qwen3-14b", "Qwen3 32B": "qwen3-32b", "OLMo-2 1B": "olmo-2-1b", "OLMo-2 7B": "olmo-2-7b",
    "OLMo-2 13B": "olmo-2-13b", "OLMo-2/3 32B": "olmo-2-32b", "OLMo-3 7B": "olmo-3-7b",
    "SmolLM2 135M": "smollm2-135m", "SmolLM2 360M": "smollm2-360m", "SmolLM2 1.7B": "smollm2-1.7b",
    "SmolLM3 3B": "smollm3-3b", "Phi-3-mini 3.8B": "phi-3-mini", "Phi-4 14B": "phi-4",
    "Phi-4-mini 3.8B": "phi-4-mini", "Mistral Small 3.1 24B text": "mistral-small-3.1-24b",
    "stories260K": "stories260k", "stories15M": "stories15m", "stories42M": "stories42m",
    "stories110M": "stories110m",
}  # fmt: skip
"""Row of the table of exact counts -> its cards."""
SPARSE = re.compile(
    r"Mixtral|A\d+B|gpt-oss|GLM|MiniMax|OLMoE|Llama 4|DeepSeek|Kimi|Moonlight|Mamba|Jamba|Nemotron|RWKV|Granite-4"
    r"|makemore|zero2hero|ng-video|Colab|lecture|nanoGPT|NPLM"
)
"""Rows of mixtures, hybrids and recurrent models, and of lectures (presets/classic)."""
FIRST = [names[0] for names in FAMILIES.values()]
SMALL = ["tokenizer=bpe(vocab_size=2048)"]


def card(name: str) -> ModelConfig:
    config = compose(name).model
    return config if config.vocab_size else config.model_copy(update={"vocab_size": 50257})  # gpt2's tokenizer


# ---- exact sizes


@pytest.fixture(scope="module")
def oracle() -> dict[str, Any]:
    path = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "parameter_counts.json"
    if not path.is_file():
        pytest.skip("the table of exact counts is not beside this checkout")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_every_dense_row_has_its_cards_and_they_agree_to_the_last_parameter(oracle: dict[str, Any]) -> None:
    assert {row for row in oracle if not SPARSE.search(row)} == set(ROWS)
    for row, names in ROWS.items():
        for name in names.split():
            found = cost(card(name))
            assert found.total == oracle[row]["total"], name
            assert found.cache_bytes == oracle[row]["kv_bytes_per_token_bf16"], name


def dimensions() -> dict[str, tuple[int, int, int, int, int]]:
    """Row of configs.py -> (layers, heads, key and value heads, numbers in a head, parameters), from its dimensions."""
    path = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "configs.py"
    if not path.is_file():
        pytest.skip("the table of dimensions is not beside this checkout")
    table: dict[str, Any] = {}
    exec(path.read_text().split("# --- MoE")[0], table)  # what follows uses its names anew
    rows = {name: (layers, heads, kv, wide, table["dense"](vocab, dim, layers, heads, kv, wide, hidden, **more))
            for name, vocab, dim, layers, heads, kv, wide, hidden, more in table["D"]}  # fmt: skip
    rows |= {
        name: (layers, heads, heads, 128, table["dense"](32000, dim, layers, heads, heads, 128, hidden))
        for name, dim, heads, layers, hidden in table["L1"]
    }
    sizes = {"GPT-2 124M": (12, 768), "GPT-2 medium": (24, 1024), "GPT-2 large": (36, 1280), "GPT-2 XL": (48, 1600)}
    return rows | {
        name: (layers, dim // 64, dim // 64, 64, table["gpt2"](layers, dim)) for name, (layers, dim) in sizes.items()
    }


SEES = {"gemma-2-": (4096, 2), "gemma-3-270m": (512, 6), "gemma-3-1b": (512, 6), "gemma-3-": (1024, 6),
        "mistral-7b": (4096, 0), "olmo-3-": (4096, 4), "phi-3-mini": (2047, 0)}  # fmt: skip
"""Cards with windows: how wide, and which layer, the last of so many, sees all (0: none). Their papers and files."""


def test_memory_of_every_row_is_what_its_dimensions_say(oracle: dict[str, Any]) -> None:
    for row, (layers, _, kv_heads, head_dim, total) in dimensions().items():
        for name in ROWS[row].split():
            facts = memory(cost(card(name)))
            assert facts["weight_bytes"] == {"fp32": 4 * total, "bf16": 2 * total, "int4": total / 2}, name
            layer = 2 * kv_heads * head_dim * 2  # keys and values, two bytes
            assert facts["cache_bytes_at"] == {str(n): layers * layer * n for n in (4096, 131072)}, name
            window, every = next((said for start, said in SEES.items() if name.startswith(start)), (0, 1))
            whole = layers // every if every else 0
            kept = {n: layer * (whole * n + (layers - whole) * min(window, n)) for n in (4096, 131072)}
            assert {n: facts["cache_bytes_windows_only_at"][str(n)] for n in kept} == kept, name


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_its_own_size_and_is_short(name: str) -> None:
    content = presets()[name].read_text()
    head = " ".join(line.removeprefix("#").strip() for line in content.splitlines() if line.startswith("#"))
    assert f"{cost(card(name)).total:,} parameters" in head
    assert len(content.splitlines()) <= 35
    assert re.search(r"\d{4}", head), "no source"


def test_counting_the_largest_agrees_with_building_all_of_it() -> None:
    config = card("gemma-3-1b")
    with torch.device("meta"):
        whole = LanguageModel(config)
    assert sum(p.numel() for p in whole.parameters()) == cost(config).total


# ---- what is shown


def test_the_cache_of_windows() -> None:
    found = cost(card("gemma-3-1b"))
    size = 2 * 256 * 2  # keys and values, one head of 256, two bytes
    assert found.windows == {512: 22 * size, 0: 4 * size}
    assert found.cache_at(4096) == 22 * 512 * size + 4 * 4096 * size
    assert found.cache_at(100) == 100 * found.cache_bytes


def test_tensors_are_those_of_the_whole_model() -> None:
    config = resolve_model(
        model_config(n_layers=7, dim=16, mixer="2*attention(heads=2) + attention(heads=4, kv_heads=1, bias=all)",
                     ffn="2*mlp(hidden=8) + *swiglu(hidden=9)", norm="rmsnorm", position="learned")
    )  # fmt: skip
    with torch.device("meta"):
        model = LanguageModel(config)
    rows = tensors(config)
    assert sum(n for _, _, n in rows) == sum(p.numel() for p in model.parameters())
    listed = set()
    for name, shape, _ in rows:
        span = re.match(r"blocks\.(\d+)(?:-(\d+))?\.(.*)", name)
        for layer in range(int(span[1]), int(span[2] or span[1]) + 1) if span else [-1]:
            listed.add((f"blocks.{layer}.{span[3]}" if span else name, tuple(shape)))
    assert listed == {(name, tuple(p.shape)) for name, p in model.named_parameters()}


def test_the_pattern_of_layers() -> None:
    found = pattern(resolve_model(card("gemma-3-1b")))
    assert found.letters() == "AAAAAB AAAAAB AAAAAB AAAAAB AA"
    assert found.runs == [(0, 5), (1, 1)]
    assert found.differences()[1] == {"mixer.window": "0", "position.base": "1000000.0"}
    assert str(found).startswith("5 x (mixer.window=512, position.base=10000.0) + 1 x (")
    assert str(pattern(resolve_model(card("llama-3-8b")))) == "32 x the same"
    assert [period(text) for text in ("aaa", "abab", "ababa", "abc", "aab", "a")] == [1, 2, 2, 3, 3, 1]


def test_show_describes_without_building_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = describe(compose("llama-3-8b"))
    assert facts["total_parameters"] == 8_030_261_248
    assert facts["cache_bytes_at"] == {"4096": 4096 * 131072, "131072": 131072 * 131072}
    assert facts["weight_bytes"]["int4"] * 8 == facts["weight_bytes"]["fp32"]
    assert facts["flops_per_token"] == 2 * (8_030_261_248 - 128256 * 4096 - 65 * 4096) + 32 * 4 * 8192 * 4096
    assert facts["kinds"][0]["mixer"] == "attention(heads=32, kv_heads=8, head_dim=128)"
    assert json.loads(json.dumps(facts)) == facts


def test_side_by_side_says_what_differs_and_nothing_else() -> None:
    models = [describe(compose(name)) for name in ("llama-3-8b", "llama-3.1-8b", "qwen3-8b")]
    rows = {row["key"]: row for row in compare(models)}
    assert rows["mixer.qk_norm"]["values"] == ["none", "none", "rmsnorm"] and rows["mixer.qk_norm"]["differs"]
    assert not rows["mixer.kv_heads"]["differs"]
    assert [row["key"] for row in compare(models[:2]) if row["differs"]] == ["context", "position.scaling"]
    assert rows["flops.4,096"]["values"][0] == f"{2 * 7_504_658_432 + 32 * 4 * 4096 * 4096:,} a token"
    assert not any(row["differs"] for row in compare([models[0], models[0]]))


def test_what_differs_is_said_in_words() -> None:
    rows = {row["key"]: row for row in compare([describe(compose(name)) for name in ("gpt2", "qwen3-0.6b")])}
    (kv_heads,) = rows["mixer.kv_heads"]["what"]
    assert (
        kv_heads
        == "key and value heads, each shared by heads / kv_heads queries (Ainslie et al. 2023; 1 is Shazeer 2019)."
    )
    assert [what[:16] for what in rows["ffn"]["what"]] == ["mlp: act(x W_in)", "swiglu: (act(x W"]
    assert rows["dim"]["differs"] and not rows["dim"]["what"]
    assert not rows["layout"]["differs"] and not rows["layout"]["what"]
    assert "flops.1,024" in rows, "the longest window that both have"


def test_parts_inside_a_part_are_explained_and_nothing_is_said_twice() -> None:
    rows = {row["key"]: row for row in compare([describe(compose(name)) for name in ("gpt2", "pythia-160m")])}
    assert [line.split(":")[0] for line in rows["ffn.act"]["what"][1:]] == ["gelu_tanh", "gelu"]
    rows = {row["key"]: row for row in compare([describe(compose(name)) for name in ("olmo-2-7b", "olmo-3-7b")])}
    what = rows["position.scaling"]["what"]
    assert [line.split(":")[0] for line in what] == ["how angles are slowed for texts longer than those of training.",
                                                     "yarn"]  # fmt: skip
    rows = {row["key"]: row for row in compare([describe(compose(name)) for name in ("smollm3-3b", "smollm2-1.7b")])}
    assert [line.split(":")[0] for line in rows["position"]["what"]] == ["rotary", "none"]


def test_proportions_stand_side_by_side() -> None:
    """The ratios that sizes hide: Llama 3 8B has four queries to a key, a wider ffn, the same depth to width."""
    rows = {row["key"]: row for row in compare([describe(compose(n)) for n in ("llama-2-7b", "llama-3-8b", "gpt2")])}
    assert rows["ratio.heads / kv_heads"]["values"] == ["1", "4", "1"]
    assert rows["ratio.hidden / dim"]["values"] == ["2.69", "3.5", "4"]
    assert rows["ratio.dim / n_layers"]["values"] == ["128", "128", "64"] and rows["ratio.dim / n_layers"]["what"]
    assert "ratio.window / context" not in rows


def test_rows_of_costs_go_up() -> None:
    rows = compare([describe(compose(name)) for name in ("gemma-2-9b", "gemma-3-12b")])
    cache = [row["key"] for row in rows if row["key"].startswith("cache.windows_only")]
    assert cache == ["cache.windows_only.4,096", "cache.windows_only.131,072"]


def test_no_cell_is_cut_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(["gemma-3-1b", "gemma-2-2b", "phi-4-mini", "command-r7b"])
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "\u2026" not in out and "plus_on" in out
    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_every_knob_of_a_model_says_what_it_does() -> None:
    for axis, (table, supplied) in AXES.items():
        for name, part in table.items() if axis.startswith(("model.", "(")) else ():
            for knob in knobs_of(part, dict.fromkeys(supplied)):
                assert knob_text(part, knob), f"{axis}: {name} has no line '{knob}: ...'"


def test_layers_that_differ_are_counted_side_by_side() -> None:
    models = [describe(compose(name)) for name in ("gemma-2-2b", "gemma-3-1b")]
    rows = {row["key"]: row["values"] for row in compare(models)}
    assert rows["mixer.window"] == ["13 x 4096 + 13 x 0", "22 x 512 + 4 x 0"]
    assert rows["mixer.softcap"] == ["50", "0"]
    assert rows["head.softcap"] == ["30", "0"]
    assert rows["pattern"][1] == "AAAAAB AAAAAB AAAAAB AAAAAB AA"


def test_a_knob_is_explained_only_by_models_that_have_it() -> None:
    rows = compare([describe(compose(name)) for name in ("gpt2", "olmo-2-1b")])
    (base,) = [row["what"] for row in rows if row["key"] == "position.base"]
    assert len(base) == 1 and "2 pi base tokens" in base[0]  # rotary's: learned places have no base


def test_one_layer_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    show(["rnn"])
    out = capsys.readouterr().out
    assert ", 1 layer, dim" in out and "\n1 layer: " in out and "1 layers" not in out
    show(["qwen3-8b", "model.n_layers=2"])
    assert ", 2 layers, dim" in capsys.readouterr().out


def test_show_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(["gemma-3-1b"], svg=tmp_path / "a.svg")
    out = capsys.readouterr().out
    assert "FLOPs per token, in windows of 32,768: " in out
    assert "999,885,952" in out and "26 layers: 5 x (mixer.window=512" in out and "139.0 MiB where layers keep" in out
    ElementTree.fromstring((tmp_path / "a.svg").read_text())
    show(["llama-3-8b", "olmo-2-7b"], json=True)
    assert any(row["key"] == "layout" and row["differs"] for row in json.loads(capsys.readouterr().out)["rows"])
    show(["mistral-7b", "llama-3-8b"])
    out = capsys.readouterr().out
    assert "mistral-7b: Mistral 7B" in out and "  mixer.window: tokens that a token can see" in out
    show(["qwen3-8b"], scale="1M", json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["preset"] == "qwen3-8b-1M" and abs(facts["total_parameters"] - 10**6) < 10**5
    with pytest.raises(UserError, match="draws one model"):
        show(["gpt2", "llama"], svg=tmp_path / "b.svg")
    for path, wrong in ((tmp_path, "is a folder"), (tmp_path / "no" / "a.svg", "there is no folder")):
        with pytest.raises(UserError, match=f"{wrong}.*nearest: --svg bigram.svg"):
            show(["bigram"], svg=path)


# ---- wiring and drawings


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("pre", [([], [["mixer_norm", "mixer"]]), ([], [["ffn_norm", "ffn"]])]),
        ("post", [([], [["mixer"]]), (["mixer_norm"], []), ([], [["ffn"]]), (["ffn_norm"], [])]),
        ("sandwich", [([], [["mixer_norm", "mixer", "mixer_out_norm"]]), ([], [["ffn_norm", "ffn", "ffn_out_norm"]])]),
        ("reordered", [([], [["mixer", "mixer_norm"]]), ([], [["ffn", "ffn_norm"]])]),
        ("parallel", [(["mixer_norm"], [["mixer"], ["ffn"]])]),
        ("parallel(norms=two)", [([], [["mixer_norm", "mixer"], ["ffn_norm", "ffn"]])]),
        ("none(residual=none)", [(["mixer"], []), (["ffn"], [])]),
    ],
)
def test_a_layout_is_read_from_its_own_forward(layout: str, expected: Any) -> None:
    config = model_config(layout=layout, mixer="attention(heads=2)", ffn="swiglu", norm="rmsnorm", dim=16)
    assert [(step.shared, step.branches) for step in wiring(config, [0])[0]] == expected


def test_a_branch_of_nothing_is_not_drawn() -> None:
    config = model_config(mixer="attention(heads=2)", norm="rmsnorm", dim=16)
    assert [step.branches for step in wiring(config, [0])[0]] == [[["mixer_norm", "mixer"]]]


@pytest.mark.parametrize("name", ["gpt2", "gemma-3-1b", "olmo-2-7b", "command-r7b", "granite-3.1-2b", "bigram", "lstm"])
def test_a_drawing_is_whole(name: str) -> None:
    facts = describe(compose(name))
    drawn = svg(facts)
    root = ElementTree.fromstring(drawn)
    said = " ".join("".join(node.itertext()) for node in root.iter() if node.tag.endswith("text"))
    assert f"{facts['total_parameters']:,} parameters" in said
    small = [node.text or "" for node in root.iter() if node.get("class") == "small mid"]
    assert small and max(map(len, small)) <= WIDE
    assert "@media screen and (prefers-color-scheme:dark)" in drawn  # paper is light
    for kind in facts["kinds"][:1]:
        for box in ("mixer", "ffn"):
            assert box not in kind["boxes"] or kind["boxes"][box]["part"] in ("none", *said.split())
    width, height = (float(root.get(side, 0)) for side in ("width", "height"))
    for node in root.iter():
        if node.tag.endswith("rect"):
            assert float(node.get("x", 0)) + float(node.get("width", 0)) <= width
            assert float(node.get("y", 0)) + float(node.get("height", 0)) <= height
    assert not facts["kinds"] or text(facts).count("x") >= 2


@pytest.mark.parametrize("name", ["lstm", "gru", "pythia-160m", "gpt2"])
def test_frames_hold_what_is_in_them(name: str) -> None:
    root = ElementTree.fromstring(svg(describe(compose(name))))
    rects = [node for node in root.iter() if node.tag.endswith("rect")]
    spans = [(n.get("class", ""), float(n.get("x", 0)), float(n.get("x", 0)) + float(n.get("width", 0))) for n in rects]
    (frame,) = ((low, high) for kind, low, high in spans if kind == "frame" and low > 340)
    inside = [(low, high) for kind, low, high in spans if kind.startswith("box") and low > 340]
    assert inside and all(frame[0] < low and high < frame[1] for low, high in inside)


def test_the_drawing_says_shapes_that_are_there() -> None:
    drawn = svg(describe(compose("makemore-wavenet", ["model.vocab_size=27"])))
    assert ">27 \u00d7 24<" in drawn and "192 \u00d7 27" not in drawn  # eight vectors of 24; the head is a tree
    assert ">1 layer<" in svg(describe(compose("lstm")))
    assert "act=gelu," in svg(describe(compose("pythia-160m"))), "an activation is always said, where no name says it"
    assert "act=" not in svg(describe(compose("llama-3-8b")))
    assert "mixer.window = 0 (off)" in svg(describe(compose("gemma-3-1b")))


def test_a_part_that_is_cut_keeps_its_commas() -> None:
    drawn = svg(describe(compose("command-r7b")))
    assert ">position = rotary(base=50000,<" in drawn and ">pairing=interleaved)<" in drawn


def test_a_factor_on_what_a_branch_adds_is_drawn() -> None:
    facts = describe(compose("granite-3.1-2b"))
    assert "scaled(by=0.22)" in text(facts) and "scaled(by=0.22)" in svg(facts)


# ---- other sizes


def check_scaled(name: str, budget: str) -> None:
    published, small = resolve_model(card(name)), scaled(name, budget, SMALL).model
    assert small.vocab_size == 0
    small = resolve_model(small.model_copy(update={"vocab_size": 2048}))
    total = cost(small).total
    assert abs(total / parse_budget(budget) - 1) <= 0.1, f"{total:,}"
    before, after = pattern(published), pattern(small)
    assert len(after.kinds) == len(before.kinds)
    assert small.context == 256 if published.context > 256 else small.context == published.context
    aspect = small.dim / small.n_layers * published.n_layers / published.dim  # type: ignore[operator]
    assert 0.7 < aspect < 1.5 or budget == "1M", aspect  # there two layers are often all, and two are the least
    for old, new in zip(before.kinds, after.kinds, strict=True):
        assert [spec.name for spec in old] == [spec.name for spec in new]
        mixer, was = new[0].knobs, old[0].knobs
        assert mixer["heads"] % mixer["kv_heads"] == 0 and mixer["head_dim"] % 2 == 0
        queries = mixer["heads"] / mixer["kv_heads"] * was["kv_heads"] / was["heads"]
        assert 0.8 < queries < 1.3 or (budget == "1M" and 0.6 < queries < 1.3)
        wide, was_wide = mixer["heads"] * mixer["head_dim"], was["heads"] * was["head_dim"]
        assert 0.9 < wide / small.dim * published.dim / was_wide < 1.1
        assert mixer["window"] in (
            round(was["window"] * small.context / published.context),
            was["window"] and LEAST_WINDOW,
        )
        ratio = new[1].knobs["hidden"] / small.dim / (old[1].knobs["hidden"] / published.dim)  # type: ignore[operator]
        assert 0.85 < ratio < 1.15


@pytest.mark.parametrize("name", FIRST[::3])
def test_a_card_at_a_million(name: str) -> None:
    check_scaled(name, "1M")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "budget"), [*zip(CARDS, cycle(["10M", "1M"])), *((name, "10M") for name in FIRST[1::2])]
)
def test_every_card_at_one_size_or_the_other(name: str, budget: str) -> None:
    check_scaled(name, budget)


def test_proportions_are_kept() -> None:
    small = resolve_model(scaled("llama-3-8b", "10M", SMALL).model.model_copy(update={"vocab_size": 2048}))
    mixer = parse(small.mixer[0]).knobs
    assert mixer["heads"] == 4 * mixer["kv_heads"]  # type: ignore[operator]
    assert 0.7 < small.dim / small.n_layers / 128 < 1.4  # type: ignore[operator]
    assert parse(small.ffn[0]).knobs["hidden"] == pytest.approx(3.5 * small.dim, abs=4)  # type: ignore[operator]
    assert mixer["scale"] == pytest.approx(mixer["head_dim"] ** -0.5)  # type: ignore[operator]


def test_windows_and_scalings_go_with_the_context() -> None:
    small = scaled("mistral-7b", "1M", [*SMALL, "model.context=512"]).model
    assert small.context == 512
    assert parse(small.mixer[0]).knobs["window"] == 4096 * 512 // 32768
    assert parse(scaled("gemma-3-1b", "1M", SMALL).model.mixer[0]).knobs["window"] == 16  # not 4
    position = parse(scaled("llama-3.1-8b", "1M", SMALL).model.position[0])
    assert "original=16" in str(position)
    long = scaled("phi-4-mini", "1M", SMALL).model
    factors = parse(long.position[0]).knobs["scaling"].knobs["long"]  # type: ignore[union-attr]
    assert len(factors) == round(0.75 * parse(long.mixer[0]).knobs["head_dim"] / 2)  # type: ignore[operator, arg-type]
    assert factors[0] < 2 and factors[-1] > 30  # type: ignore[index, operator]


@pytest.mark.parametrize(
    ("runs", "depth", "expected"),
    [("AAAAAB" * 4 + "AA", 8, "AAAAABAA"), ("AAAAAB" * 4, 3, "AAB"), ("AAAAAB" * 4, 2, "AB"), ("ABAB", 3, "ABA"),
     ("A" + "B" * 30, 6, "ABBBBB"), ("AAA" + "B" * 58, 10, "ABBBBBBBBB"), ("AAAA", 2, "AA")],
)  # fmt: skip
def test_a_shorter_cycle_has_every_kind(runs: str, depth: int, expected: str) -> None:
    of = [ord(letter) - 65 for letter in runs]
    found = Pattern([(parse(str(n)),) for n in map(chr, range(97, 99))], of, period(of))
    assert "".join(chr(65 + kind) for kind in shorter(found, depth)) == expected


def test_a_budget_that_cannot_be_met_is_refused_with_one_that_can() -> None:
    with pytest.raises(UserError, match="too few") as refused:
        scaled("qwen3-8b", "1K", SMALL)
    nearest = re.search(r"--scale ([\d.]+[KMB])", str(refused.value).split("nearest:")[1])
    assert nearest and scaled("qwen3-8b", nearest[1], SMALL)
    with pytest.raises(UserError, match="no depth and width"):
        scaled("bigram", "1M")
    for wrong in ("", "x", "-1M", "1T5", "0", "1T", "1e6"):
        with pytest.raises(UserError, match=r"a number and K, M or B, .* nearest: 10M"):
            parse_budget(wrong)
    assert [parse_budget(t) for t in ("10M", "0.3m", "1500", "2B")] == [10**7, 300_000, 1500, 2 * 10**9]
    assert [short(n) for n in (999, 1_000_000, 1_210_000, 34_504)] == ["1K", "1M", "1.3M", "34.6K"]


def test_what_became_of_it_is_one_line() -> None:
    large = ["tokenizer=gpt2"]
    line = became(scaled("gpt2", "10M", large), "10M")
    assert "vocabulary 50,257" in line and "of what was asked" not in line
    line = became(scaled("gpt2", "1M", large), "1M")  # most of it is the vocabulary: widths are far apart
    assert "of what was asked" in line and "\n" not in line


def test_a_large_vocabulary_of_the_preset_gives_way_and_one_that_was_asked_for_stays(tmp_path: Path) -> None:
    for budget in ("300K", "1M", "10M"):
        config = scaled("gpt2", budget)
        assert config.tokenizer == "bpe(vocab_size=2048)" and config.model.vocab_size == 0
        total = cost(config.model.model_copy(update={"vocab_size": 2048})).total
        assert abs(total / parse_budget(budget) - 1) <= 0.1
    assert scaled("gpt2", "10M", ["tokenizer=gpt2"]).tokenizer == "gpt2"
    own = tmp_path / "own.toml"
    own.write_text(presets()["gpt2"].read_text())
    assert scaled(str(own), "10M").tokenizer == "gpt2"
    assert scaled("gpt2", "1M", ["tokenizer=char"]).tokenizer == "char"


def test_what_was_kept_and_what_was_not_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    kept, changed = proportions_kept("qwen3-8b", scaled("qwen3-8b", "1M"))
    assert kept.startswith("as in qwen3-8b, within a tenth: ") and "hidden / dim 3" in kept
    assert "heads / kv_heads 3 (4)" in changed and "head_dim 24 (128)" in changed
    kept, changed = proportions_kept("command-r7b", scaled("command-r7b", "3M"))
    assert "window / context 0.0625 (0.031)" in changed and "layers AAB (AAAB)" in changed
    kept, _ = proportions_kept("command-r7b", scaled("command-r7b", "50M"))
    assert "layers AAAB" in kept
    kept, changed = proportions_kept("lstm", scaled("lstm", "100K"))
    assert kept.startswith("as in lstm, within a tenth: ") and "heads" not in kept + changed  # it has none
    show(["gemma-3-1b"], scale="3M")
    out = capsys.readouterr().out
    assert "as in gemma-3-1b, within a tenth: " in out and "otherwise: " in out


def test_growing_is_scaling_too() -> None:
    grown = scale_model(compose("modern").model, 5 * 10**6, 128, 1024)
    total = cost(grown.model_copy(update={"vocab_size": 1024})).total
    assert abs(total / 5e6 - 1) < 0.1


# ---- families


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_a_family_can_say_its_card(name: str) -> None:
    """What hub/ knows of config.json and what the card says are the same parts: a scaled card can be exported."""
    small = scaled(name, "1M", SMALL).model.model_copy(update={"vocab_size": 2048})
    found, _ = find_family(small)
    assert found.architecture


# ---- pages


def _maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_families", DOCS / "make_families.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_page_for_each_family_and_no_other() -> None:
    expected = {"README.md", *(f"{name}{end}" for name in FAMILIES for end in (".md", ".svg"))}
    measured = {"speed.md"}  # by benchmarks/families.py
    found = {p.name for p in (DOCS / "families").iterdir()} - measured
    assert found == expected, "run: python docs/make_families.py"


@pytest.mark.parametrize(
    "families", [["gemma-3", "smollm3", "cohere2"], pytest.param([], marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_the_pages_are_fresh(families: list[str], tmp_path: Path) -> None:
    _maker().write(tmp_path, families)
    for path in (tmp_path / "families").iterdir():
        assert path.read_text() == (DOCS / "families" / path.name).read_text(), "run: python docs/make_families.py"


def test_a_per_layer_card_names_its_layers() -> None:
    published = card("smollm3-3b")
    assert [spec.name for spec in expand(published.position, 8)] == 2 * ["rotary", "rotary", "rotary", "none"]
