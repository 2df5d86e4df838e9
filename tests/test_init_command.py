"""The verdict on a start: what is wrong with it, what is not, the cure that it names; and `nanogpt init`."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from nanogpt.cli import app
from nanogpt.config import compose, presets
from nanogpt.errors import UserError
from nanogpt.init.schemes import SCHEMES
from nanogpt.model.language_model import LanguageModel
from nanogpt.observers.initial import Start, examine, warnings_at_start
from nanogpt.observers.look import look, probe_of_config
from nanogpt.observers.probes import Probe, Words
from nanogpt.observers.verdict import spans
from nanogpt.parts import build
from nanogpt.scale import scaled
from nanogpt.tokenizers import expected_size
from tests.commands import nanogpt
from tests.helpers import MATRICES, make

VOCAB = 65
PLAIN = {**MATRICES, "dim": 128, "n_layers": 20}


def probe(model: LanguageModel, seed: int = 3) -> Probe:
    """512 tokens or so, common ones and rare ones as in a text."""
    T = min(model.context, 128)
    rank = torch.arange(1, model.vocab_size + 1)
    random = torch.Generator().manual_seed(seed)
    ids = torch.multinomial(1 / rank, max(1, 512 // T) * (T + 1), replacement=True, generator=random).view(-1, T + 1)
    words = Words(ids[:, :-1], ids[:, 1:])
    return Probe(lambda: model.losses(words.tokens_BT, words.targets_BT)["loss"], words.tokens_BT.numel(), words)


def start(model: LanguageModel) -> Start:
    given = probe(model)
    return examine(model, look(model, given, weights=False), given.words)


def warned(model: LanguageModel) -> list[str]:
    given = probe(model)
    return warnings_at_start(model, look(model, given, weights=False), given.words)


def setting(line: str) -> str:
    """The scheme that a line says to type."""
    found = shlex.split(line[line.index("model.init=") :])[0]
    return found.removeprefix("model.init=")


# -- a bad start, said without being asked


@pytest.mark.parametrize(
    ("ffn", "init"),
    [
        ("dense(act=relu)", "xavier"),
        ("dense(act=relu)", "normal(std=0.4)"),
        ("mlp(act=relu)", "xavier"),
        ("mlp(act=relu)", "normal(std=0.02)"),
    ],
)
def test_a_relu_network_with_a_bad_start(ffn: str, init: str) -> None:
    """It says what is wrong, and what it says to type is a scheme of ours that mends it, measured."""
    lines = warned(make(**PLAIN, ffn=ffn, init=init))
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("start ") and "\n" not in line for line in lines)
    verb = "grow" if "0.4" in init else "shrink"
    said = next(line for line in lines if f"activations and gradients {verb} by" in line)
    assert "n Var[w]" in said
    scheme = setting(said)
    build(SCHEMES, scheme, dim=128, n_layers=20)
    cured = start(make(**PLAIN, ffn=ffn, init=scheme))
    assert not [f for f in cured.faults if f.kind == "through"]
    assert cured.as_dict()["factor_a_layer"]["activations"] == pytest.approx(1.0, abs=0.15)


def test_the_factor_is_the_papers() -> None:
    """0.71 a layer: gain 1 and a ReLU (He et al. 2015)."""
    said = start(make(**PLAIN | {"dim": 256, "n_layers": 30}, ffn="dense(act=relu)", init="xavier")).as_dict()
    assert said["factor_a_layer"]["activations"] == pytest.approx(math.sqrt(0.5), rel=0.03)
    assert said["factor_a_layer"]["activations_predicted"] == pytest.approx(math.sqrt(0.5), rel=0.01)
    assert "(1/2) n Var[w] = 0.5, where 1 keeps them" in said["findings"][0]["words"]
    assert said["verdict"] == "bad"


def test_dead_units_are_counted_and_placed() -> None:
    """Biases far below zero in two layers: those layers, and all of their units."""
    model = make(dim=32, n_layers=6, vocab_size=VOCAB, context=32, mixer="none", norm="rmsnorm", position="none",
                 ffn="mlp(act=relu, bias=zeros)", layout="pre", init="normal(std=0.02)")  # fmt: skip
    with torch.no_grad():
        for layer in (2, 3):
            model.blocks[layer].ffn.up.bias.fill_(-100.0)
    found = start(model)
    (fault,) = found.faults
    assert (fault.kind, fault.where, fault.level) == ("dead", "blocks.2-3", "bad")
    assert "100% of the units are dead at birth" in fault.words
    assert "biases" in fault.words
    assert found.measured.dead["blocks.2.ffn.act"] == 1.0
    assert found.measured.dead["blocks.1.ffn.act"] < 0.1
    assert found.predicted.dead["blocks.3.ffn.act"] == pytest.approx(1.0, abs=0.02)


def test_so_deep_that_nothing_is_left() -> None:
    """Numbers too small for float32 are zeros, and what zeros feed is dead."""
    lines = warned(make(**PLAIN | {"n_layers": 60, "dim": 32}, ffn="dense(act=relu)", init="normal(std=0.02)"))
    assert "nothing comes through: activations are 0 from blocks." in lines[0]
    assert setting(lines[0]) == "kaiming"


def test_overflow_is_said_and_no_traceback(corpus: Path) -> None:
    found = json.loads(said(*DEEP, "model.init=normal(std=10000)", "--json"))
    assert found["loss"] is None
    assert [f["kind"] for f in found["findings"]] == ["overflow"]
    model = make(**PLAIN | {"dim": 32}, ffn="dense(act=relu)", init="normal(std=1000)")
    with np.errstate(all="ignore"):
        (line,) = warned(model)
        assert json.dumps(start(model).as_dict(), allow_nan=False)
    assert "overflows" in line


def test_logits_and_tanh_of_makemore() -> None:
    """Part 3 of the lectures: the loss starts at 27, ln 27 is 3.3, and most of tanh is flat; its repair is well."""
    ill, well = (
        LanguageModel(compose(name).model.model_copy(update={"vocab_size": 27}))
        for name in ("makemore-mlp", "makemore-mlp-repaired")
    )
    for model in (ill, well):
        model.initialise(1)
    found = start(ill)
    assert found.measured.loss > 15
    assert found.predicted.loss == pytest.approx(found.measured.loss, rel=0.3)
    assert {f.kind for f in found.faults} == {"loss", "saturated"}
    scheme = setting(warned(ill)[0])
    ill.scheme = build(SCHEMES, scheme, dim=ill.dim, n_layers=0)
    ill.initialise(2)
    assert not start(ill).faults
    assert start(ill).measured.loss == pytest.approx(math.log(27), abs=0.1)
    assert warned(well) == []


def test_attention_that_has_made_up_its_mind() -> None:
    model = make(dim=64, n_layers=2, vocab_size=VOCAB, context=64, mixer="attention(heads=2)", norm="rmsnorm",
                 ffn="mlp", layout="pre", position="rotary", head="linear",
                 init="by_role(rest=kaiming, hidden=normal(std=1.5), head=normal(std=0.01))")  # fmt: skip
    faults = start(model).faults
    assert "focused" in {f.kind for f in faults}
    assert not {f.kind for f in start(make(dim=64, n_layers=2, vocab_size=VOCAB, context=64, norm="rmsnorm",
                                           mixer="attention(heads=2)", init="kaiming")).faults}  # fmt: skip


def test_what_has_learned_is_not_judged_as_newborn() -> None:
    """A run that starts from another's weights: its attention may look at one token, that is what it learned."""
    model = make(dim=32, n_layers=1, vocab_size=VOCAB, context=32, mixer="attention(heads=2)", norm="rmsnorm",
                 init="by_role(rest=kaiming, hidden=normal(std=3), head=normal(std=0.01))")  # fmt: skip
    given = probe(model)
    seen = look(model, given, weights=False)
    assert warnings_at_start(model, seen, given.words)
    seen.arrays["loss"] = np.float32(1.5)
    assert warnings_at_start(model, seen, given.words) == []


def test_any_module_is_judged() -> None:
    """PyTorch's own start is gain 1/sqrt(3): it halves and more in every ReLU layer."""

    def stack(gain: float) -> nn.Sequential:
        torch.manual_seed(1)
        layers = [m for _ in range(20) for m in (nn.Linear(64, 64), nn.ReLU())]
        for layer in layers[::2]:
            nn.init.normal_(layer.weight, std=gain / 8)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(*layers, nn.Linear(64, 10))

    x, y = torch.randn(256, 64), torch.randint(10, (256,))
    ill, well = stack(0.6), stack(2**0.5)
    said = warnings_at_start(ill, look(ill, Probe(lambda: F.cross_entropy(ill(x), y))))
    assert "shrink by 0.4" in said[0]
    assert "kaiming_normal_" in said[0]
    shrinking = [
        s for s in warnings_at_start(well, look(well, Probe(lambda: F.cross_entropy(well(x), y)))) if "shr" in s
    ]
    assert not shrinking


# -- no false alarm


def built(name: str, scale: str | None = None) -> LanguageModel:
    config = scaled(name, scale, ["tokenizer=char"]) if scale else compose(name)
    size = config.model.vocab_size or min(1024, expected_size(config.tokenizer)[0])
    model = LanguageModel(config.model.model_copy(update={"vocab_size": size}))
    model.initialise(1)
    return model


OWN = sorted(name for name, path in presets().items() if "families" not in str(path))
FAMILIES = ["command-r7b", "gemma-3-270m", "gpt2", "granite-3.1-2b", "llama-3.2-1b", "nanochat-d20", "olmo-2-1b",
            "pythia-160m", "qwen3-0.6b", "starcoder2-3b", "stories260k"]  # fmt: skip
"""One of each kind."""


@pytest.mark.parametrize("name", OWN)
def test_no_preset_of_ours_is_called_ill_but_the_one_that_is(name: str) -> None:
    model = built(name)
    if next(model.parameters(), None) is None:  # counts
        return
    assert bool(warned(model)) == (name == "makemore-mlp")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_no_published_family_is_called_ill(name: str) -> None:
    assert warned(built(name, "1M")) == []


# -- the command

SMALL = ["tokenizer=char", "data.corpus=my.txt", "model.dim=32", "model.context=32"]
DEEP = ["gpt", *SMALL, "model.n_layers=12", "model.mixer=none", "model.ffn=dense(act=relu)", "model.position=none",
        "model.layout=none(residual=none)"]  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [f"line {n} says {n * n} and the quick brown fox jumps over {n % 7} lazy dogs\n" for n in range(400)]
    Path("my.txt").write_text("".join(lines))
    return tmp_path


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_command_measures_a_cure(corpus: Path) -> None:
    found = json.loads(said(*DEEP, "model.init=normal(std=0.05)", "--json"))
    assert found["verdict"] == "bad"
    assert len(found["depth"]) == 12
    rows = {row["name"]: row for row in found["modules"]}
    for name in found["depth"]:
        for key in ("variance", "gradient"):
            assert 0.05 < rows[name][key] / rows[name][f"{key}_predicted"] < 20
    assert found["cure"]["settings"].startswith("model.init=")
    assert found["cure"]["factor_a_layer"]["activations"] == pytest.approx(1.0, abs=0.2)
    again = json.loads(said(*DEEP[1:], "gpt", *shlex.split(found["cure"]["settings"]), "--json"))
    assert again["factor_a_layer"]["activations"] == pytest.approx(found["cure"]["factor_a_layer"]["activations"])
    command = shlex.split(found["next"])
    assert command[:3] == ["nanogpt", "train", "gpt"]
    assert sum(word.startswith("model.init=") for word in command) == 1
    compose(command[2], command[3:])


def test_a_healthy_regression_is_told_nothing() -> None:
    """The gradient of what comes out is the loss's own, and no part of the depth."""
    for seed in range(5):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
        x, y = torch.randn(256, 8), torch.randn(256, 1)
        probe = Probe(lambda: F.mse_loss(model(x), y))  # noqa: B023
        assert warnings_at_start(model, look(model, probe)) == []


@pytest.mark.parametrize(("act", "words"), [(nn.Tanh, "calculate_gain('tanh')"), (nn.ReLU, "nonlinearity='relu'")])
def test_a_foreign_start_is_told_its_own_law(act: type[nn.Module], words: str) -> None:
    layers = [part for _ in range(12) for part in (nn.Linear(64, 64), act())]
    model = nn.Sequential(*layers, nn.Linear(64, 3))
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.mul_(0.1)
    x, y = torch.randn(128, 64), torch.randint(0, 3, (128,))
    said_at_start = warnings_at_start(model, look(model, Probe(lambda: F.cross_entropy(model(x), y))))
    assert said_at_start and all(words in line for line in said_at_start)


def test_theory_beyond_what_a_float_holds(corpus: Path) -> None:
    """Forty layers without norms: a gradient of e^1100 is no reason to end observing."""
    found = json.loads(said("gpt-64", *SMALL, "model.init=kaiming", "model.n_layers=40", "model.norm=none", "--json"))
    assert found["verdict"] == "bad" and found["cure"]["settings"] == "model.init=gpt2"


def test_where_nothing_cures_no_cure_is_named(corpus: Path) -> None:
    """Saturated sigmoids one upon the other: neither a scheme nor norms were measured to help."""
    deep = [*DEEP, "model.ffn=dense(act=sigmoid)", "model.n_layers=20", "model.init=normal(std=1)"]
    found = json.loads(said(*deep, "--json"))
    assert found["verdict"] == "bad" and found["cure"] is None
    assert not any(finding["cure"] for finding in found["findings"])
    text = said(*deep)
    assert "no setting that was tried" in text and "->" not in text and "next:" not in text
    config = compose("gpt", deep[1:])
    model, probe, _ = probe_of_config(config)
    lines = warnings_at_start(model, look(model, probe), probe.words)
    assert lines and not any("model." in line.partition("birth")[2] for line in lines)


def test_units_that_no_scheme_keeps_alive_want_another_activation(corpus: Path) -> None:
    deep = [*DEEP, "model.n_layers=60", "model.init=kaiming"]
    found = json.loads(said(*deep, "--json"))
    assert found["cure"]["settings"] == "model.ffn.act=leaky_relu" and not found["cure"]["left"]
    again = json.loads(said(*deep, "model.ffn.act=leaky_relu", "--json"))
    assert not any("dead" in finding["words"] for finding in again["findings"])


def test_the_screen(corpus: Path) -> None:
    text = said(*DEEP, "model.init=normal(std=0.05)", "model.n_layers=50")
    for words in ("variance of", "theory", "dead at", "blocks.49", "layers are left out", "first loss", "ILL", "next:"):
        assert words in text
    narrow = [line for line in text.splitlines() if "model." not in line]
    assert max(map(len, narrow)) <= 80
    well = said("gpt", *SMALL, "model.n_layers=2", "model.mixer=attention(heads=2)")
    assert "well  nothing to change" in well
    assert "ILL" not in well
    assert "next:" not in well


def test_a_stream_whose_growth_no_theory_predicts(corpus: Path) -> None:
    embed = "model.embed=hashed(tokens=3, rows=50, forget=0.5, norm=layernorm(bias=none))"
    done = nanogpt("init", "gpt-64", embed, "model.layout=pre(dropout=0.15)", *SMALL, cwd=corpus)
    assert "the residual stream" in done.stdout and "-fold (theory" not in done.stdout


def test_what_cannot_be_looked_at(corpus: Path) -> None:
    for arguments, words in (
        (["bigram", *SMALL[:2], "model.init=kaimin"], "kaiming"),
        (["ngram", *SMALL[:2]], "no weights"),
        (["gpt", "data.corpus=nothere.txt"], "nothere.txt"),
        (["gpt", "model.n_layers=two"], "model.n_layers"),
    ):
        with pytest.raises(UserError, match=words):
            said(*arguments)
    done = nanogpt("init", "ngram", *SMALL[:2], cwd=corpus, status=2)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_layers_of_a_plain_sequence_are_numbers() -> None:
    assert spans(["5", "7", "8", "blocks.0", "blocks.1", "head"]) == "5, 7-8, blocks.0-1, head"
