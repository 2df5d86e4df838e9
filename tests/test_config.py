"""Configurations: presets, overrides, and one line for everything that does not fit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from nanogpt.config import SECTIONS, RunConfig, change, compose, keys, presets, validate
from nanogpt.errors import RunError, UserError, nearest


def refused(preset: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose(preset, overrides)
    assert caught.value.status == 2
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("name", ["bigram", "gpt", "gpt2", "llama", "modern"])
def test_presets_are_complete(name: str) -> None:
    assert name in presets()
    config = compose(name)
    assert config.preset == name
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_overrides_reach_every_section() -> None:
    config = compose(
        "llama",
        [
            "seed=7",
            "data.corpus=names",
            "model.dim=64",
            "model.ffn=geglu",
            "optim.clip=0.5",
            "train.steps=9",
            "tokenizer=char",
        ],
    )
    assert (config.seed, config.data.corpus, config.model.dim, config.tokenizer) == (7, "names", 64, "char")
    assert (config.model.ffn, config.optim.clip, config.train.steps) == ("geglu", 0.5, 9)


def test_the_last_override_wins_and_equals_signs_belong_to_the_value() -> None:
    config = compose("gpt2", ["model.dim=8", "model.dim=16", "model.mixer=attention(heads=2, window=3)"])
    assert (config.model.dim, config.model.mixer) == (16, "attention(heads=2, window=3)")


def test_one_knob_of_a_part() -> None:
    assert compose("llama", ["model.mixer.heads=4"]).model.mixer == "attention(heads=4, kv_heads=2)"
    config = compose("llama", ["model.mixer=5*attention(window=4) + attention", "model.mixer.heads=2"])
    assert config.model.mixer == "5*attention(window=4, heads=2) + attention(heads=2)"
    config = compose("llama", ['model.ffn=["mlp(relu)", "*swiglu"]', "model.ffn.hidden=32"])
    assert config.model.ffn == ["mlp(relu, hidden=32)", "*swiglu(hidden=32)"]
    assert compose("llama", ["tokenizer.vocab_size=300"]).tokenizer == "bpe(vocab_size=300)"
    assert compose("llama", ["optim.optimizer.lr=0.5"]).optim.optimizer.startswith("adamw(lr=0.5")


def test_lists_of_parts() -> None:
    assert compose("llama", ["model.mixer=[attention(window=4), attention]"]).model.mixer == [
        "attention(window=4)",
        "attention",
    ]
    assert compose("llama", ['data.corpus=["a b.txt", "names"]']).data.corpus == ["a b.txt", "names"]


def test_a_changed_copy() -> None:
    config = compose("gpt2")
    other = change(config, ["train.steps=3"])
    assert (other.train.steps, config.train.steps) == (3, 600000)
    assert other.model == config.model


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modl.dim=3", "no key 'modl.dim'; did you mean 'model.dim'?"),
        ("model.dmi=3", "no key 'model.dmi'; did you mean 'model.dim'?"),
        ("sed=3", "did you mean 'seed'?"),
        ("train.step=3", "did you mean 'train.steps'?"),
        ("model.dim=0", "model.dim=0: must be at least 1; nearest: 1"),
        ("model.dim=-4", "nearest: 1"),
        ("model.dim=1000000000000", "model.dim=1000000000000: must be at most"),
        ("model.dim=" + "9" * 40, "model.dim="),
        ("model.dim=" + "9" * 5000, "model.dim="),
        ("model.dim=3.5", "model.dim=3.5: must be a whole number; nearest: 4"),
        ("model.dim=1e999", "model.dim=1e999: must be a whole number"),
        ("model.dim=abc", "model.dim=abc: must be a whole number"),
        ("model.dim=", "model.dim="),
        ("model.context=0", "model.context=0: must be at least 1; nearest: 1"),
        ("model.n_layers=-1", "nearest: 0"),
        ("model.n_layers=1000000000", "model.n_layers=1000000000: must be at most"),
        ("model.vocab_size=" + "9" * 20, "model.vocab_size"),
        ("seed=" + "9" * 30, "seed="),
        ("optim.clip=nan", "optim.clip=nan"),
        ("optim.clip=inf", "optim.clip=inf"),
        ("optim.clip=-1", "optim.clip=-1: must be at least 0"),
        ("data.val=0.9", "data.val=0.9: must be at most 0.5; nearest: 0.5"),
        ("data.batching=pck", "did you mean 'pack'?"),
        ("train.precision=fp16", "did you mean 'bf16'?"),
        ("train.device=cdua", "did you mean 'cuda'?"),
        ("train.steps=many", "train.steps=many: must be a whole number"),
        ("train.batch=0", "train.batch=0: must be at least 1"),
        ("tokenizer=bpe((", "tokenizer: cannot read 'bpe(('"),
        ("model.mixer=attention(", "model.mixer: cannot read 'attention('"),
        ("model.mixer=attention)", "model.mixer: cannot read 'attention)'"),
        ('model.mixer=["attention("]', "model.mixer: cannot read 'attention('"),
        ("model.mixer=", "model.mixer: cannot read ''"),
        ("model.mixer=[]", "model.mixer: an empty list"),
        ("model.mixer=" + "[" * 100_000, "model.mixer"),
        ("model.mixer=" + "a(" * 10_000, "model.mixer: cannot read"),
        ("model.mixer=" + "a" * 1_000_000, "model.mixer: 'aaa"),
        ("model.mixer=a\nb", "model.mixer: cannot read"),
        ("model.mixer.heads=(", "model.mixer.heads=("),
        ("model.mixer.a.b=3", "no key 'model.mixer.a.b'"),
        ("model.dim.x=3", "no key 'model.dim.x'"),
        ("train.steps.x=3", "no key 'train.steps.x'"),
        ("data.corpus.x=3", "no key 'data.corpus.x'"),
        ("model=3", "no key 'model'"),
        ("=3", "write section.key=value"),
        ("model.dim", "write section.key=value"),
        ("", "write section.key=value"),
        ("é=3", "no key 'é'"),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_key(override: str, words: str) -> None:
    message = refused("llama", override)
    assert words in message
    assert len(message) < 2100


def test_any_edit_of_a_key_names_a_right_one() -> None:
    dice = random.Random()
    for _ in range(100):
        key = dice.choice(keys())
        at = dice.randrange(len(key))
        wrong = key[:at] + dice.choice("QXZ") + key[at + 1 :]
        message = refused("gpt2", f"{wrong}=1")
        assert "there is: " in message, wrong
        if "." in wrong and wrong.split(".")[0] in SECTIONS:
            assert wrong.split(".")[0] + "." in message.split("there is:")[1]


def test_an_unknown_preset() -> None:
    assert "did you mean 'llama'?" in refused("lama")
    assert "cannot read preset" in refused("not_there.toml")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "[model]\ndim = ", "a.toml"),
        ("a.toml", "[model]\ndim = 8", "model.n_layers: needs a value"),
        ("a.toml", "[modell]\ndim = 8", "did you mean"),
        ("a.toml", "[model]\ndim = 8\nn_layers = 1\ncontext = 4\nmixer = 5", "model.mixer"),
        ("a.toml", "[model]\ndim = 8\nn_layers = 1\ncontext = 4\nmixer = [5]", "model.mixer"),
        ("a.toml", "[model]\ndim = 8\nn_layers = 1\ncontext = 4\nmixer = ['attention', 'x(']", "model.mixer"),
        ("a.toml", "[model]\ndim = 8\nn_layers = 1\ncontext = 4\nhead = []", "model.head"),
        ("a.toml", "model = 3", "model"),
        ("a.json", "[1, 2]", "a preset is a table of sections"),
        ("a.json", "{", "a.json"),
        ("a.json", "[" * 100_000, "a.json"),
        ("a.toml", "\ud800", "a.toml"),
    ],
)
def test_a_preset_of_your_own_that_is_wrong(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert words in refused(str(path))
    assert refused(str(path), "train.steps=4", "model.mixer.heads=4")


def test_a_preset_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[model]\ndim = 8\nn_layers = 1\ncontext = 4\nmixer = ["attention"]\n')
    assert compose(str(path), ["model.mixer.heads=2"]).model.mixer == ["attention(heads=2)"]
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(compose("llama").model_dump()))
    assert compose(str(saved)).model == compose("llama").model


def test_a_saved_configuration_has_no_number_that_json_lacks() -> None:
    for section in SECTIONS.values():
        assert section.model_config["allow_inf_nan"] is False
    assert "Infinity" not in compose("gpt2").model_dump_json()


def test_errors_are_one_line_whatever_was_typed() -> None:
    assert str(UserError("a\nb\r\nc\u2028d")) == "a b c d"
    assert len(str(RunError("x" * 10**6))) < 2100
    assert (UserError("").status, RunError("").status) == (2, 1)
    assert nearest("swigl", ["swiglu", "geglu"]) == "; did you mean 'swiglu'? (there is: geglu, swiglu)"
    assert nearest("zzzz", ["swiglu"]) == " (there is: swiglu)"


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(Exception, match="frozen"):
        compose("llama").model.dim = 3  # type: ignore[misc]


def test_validate_refuses_what_is_no_mapping_of_sections() -> None:
    with pytest.raises(UserError, match="model"):
        validate({"model": None})
