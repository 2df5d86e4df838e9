"""Health: what was planted is found, in words and with its cure, and a healthy network is called well."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt.observers.attention import described, some
from nanogpt.observers.checks.attention import uniform_entropy
from nanogpt.observers.checks.case import Case, layer_of
from nanogpt.observers.checks.cures import Cures
from nanogpt.observers.checks.limits import LIMITS
from nanogpt.observers.checks.neurons import Deaths
from nanogpt.observers.checks.updates import ratios
from nanogpt.observers.findings import Finding
from nanogpt.observers.health import health
from nanogpt.observers.store import STATISTICS, Layers, Observation, Units, write
from nanogpt.observers.summary import summary
from tests.observations import make_foreign, make_run

UNIFORM = sum(math.log(2 * k) for k in range(1, 17)) / 16
"""Nats, of heads that see all earlier tokens of a window of 32 alike, over every second query."""
STD, NORM = STATISTICS.index("std"), STATISTICS.index("norm")


def judged(run: Any) -> list[Finding]:
    return health(Layers(run.path), run.settings())


def changed(run: Any, change: Any) -> Layers:
    """The run's observations, each changed in place by a function of it."""
    layers = Layers(run.path)
    for seen in layers.seen:
        change(seen)
    return layers


def ill(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level != "good"]


def test_a_healthy_run_is_well_in_every_layer(tmp_path: Path) -> None:
    found = judged(make_run(tmp_path, steps=400, layers=3))
    assert not ill(found)
    assert {f.where for f in found} == {"embed", "blocks.0", "blocks.1", "blocks.2", "norm", "head"}


def test_planted_dead_neurons_are_counted_with_their_step(tmp_path: Path) -> None:
    planted = {1: dict.fromkeys(range(20), 0) | dict.fromkeys(range(20, 24), 200), 2: {5: 300}}
    found = judged(make_run(tmp_path, steps=400, layers=3, units=32, dead=planted))
    first = found[0]
    assert (first.level, first.where) == ("bad", "blocks.1.ffn.act")
    assert "24 of 32 neurons are dead (75%): zero on every token" in first.words
    assert "20 were so before training, the others died in step 200" in first.words
    assert "bias -0.3" in first.words
    assert first.cure == "model.init=kaiming, or model.ffn.act=leaky_relu"
    assert [f.where for f in ill(found)] == ["blocks.1.ffn.act"]  # one of 32 is no ailment


def test_neurons_that_die_while_training_want_smaller_steps(tmp_path: Path) -> None:
    found = judged(make_run(tmp_path, steps=400, layers=2, units=32, dead={0: dict.fromkeys(range(30), 96)}))
    assert "they died in step 96" in found[0].words
    assert found[0].cure.startswith("optim.optimizer.lr=0.0001, or")  # the preset gpt has 3e-4


@pytest.mark.parametrize("seed", range(5))
def test_when_neurons_died_is_what_a_loop_over_the_table_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    active = random.integers(0, 3, (9, 40)) * random.integers(0, 2, 40)
    steps = sorted(random.choice(500, 9, replace=False).tolist())
    died = Deaths.of(active.astype(float), steps)
    back = born = 0
    for unit in range(40):
        column = active[:, unit].tolist()
        since = -1
        for step, tokens in zip(steps, column, strict=True):
            since = (step if since < 0 else since) if tokens == 0 else -1
        assert died.since[unit] == since
        assert died.dead[unit] == (since >= 0)
        back += since < 0 and 0 in column
        born += not any(column)
    assert (died.back, died.born) == (back, born)


def test_units_that_came_back_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=100, layers=2, units=32, dead={0: dict.fromkeys(range(16), 0)})

    def revive(seen: Observation) -> None:
        if seen.step > 50:
            seen.arrays["neurons/active"][12:16] = 30

    layers = changed(run, revive)
    words = health(layers, run.settings())[0].words
    assert "12 of 32 neurons are dead (38%)" in words and "4 others had died and came back" in words
    assert summary(layers, run.settings())["came_back"] == 4


def test_units_of_a_tanh_are_dead_where_they_are_saturated(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=100, layers=2, act="tanh", dead={1: dict.fromkeys(range(32), 0)})

    def saturate(seen: Observation) -> None:
        row = seen.names["activations"].index("blocks.1.ffn.act")
        seen.arrays["activations/moments"][row, STATISTICS.index("saturated")] = 0.81

    found = ill(health(changed(run, saturate), run.settings()))
    assert {f.where for f in found} == {"blocks.1.ffn.act"}
    assert any("saturated on every token" in f.words for f in found)
    assert any("81% of its outputs are saturated" in f.words for f in found)
    assert all("model.ffn.act=silu" in f.cure for f in found)


@pytest.mark.parametrize(("shrink", "level"), [(0.9, "good"), (0.2, "warn"), (0.02, "bad")])
def test_gradients_through_depth(tmp_path: Path, shrink: float, level: str) -> None:
    """Planted: the gradient times `shrink` a layer; there is noise of 15% on each."""
    found = judged(make_run(tmp_path, steps=100, layers=5, shrink=shrink))
    first = next((f for f in found if "gradient vanishes" in f.words), None)
    assert (first.level if first else "good") == level
    if first:
        factor = re.search(r"times ([\d.e-]+) a layer", first.words)
        assert factor and math.isclose(float(factor[1]), shrink, rel_tol=0.2)
        assert first.where.startswith("blocks.0")


def test_gradients_that_explode_are_told_as_such(tmp_path: Path) -> None:
    found = judged(make_run(tmp_path, steps=100, layers=5, shrink=8.0))
    assert "gradient explodes: times" in found[0].words and found[0].where.startswith("blocks.0")


def test_a_gradient_that_does_not_arrive(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=100, layers=3)

    def cut(seen: Observation) -> None:
        seen.arrays["activation_gradients/moments"][:12, :7] = 0  # embed, blocks.0 and the first norm of blocks.1

    assert "no gradient arrives: it is zero at blocks.0" in health(changed(run, cut), run.settings())[0].words


@pytest.mark.parametrize(
    ("times", "level", "words"),
    [(1.0, "good", ""), (0.01, "warn", "times too small"), (300.0, "warn", "times too large")],
)
def test_updates_are_compared_with_one_in_a_thousand(tmp_path: Path, times: float, level: str, words: str) -> None:
    run = make_run(tmp_path, steps=400, layers=2)
    layers = changed(run, lambda seen: seen.arrays["updates/moments"].__imul__(np.float32(times)))
    found = [f for f in health(layers, run.settings()) if "of themselves a step" in f.words]
    assert (found[0].level if found else "good") == level
    if not found:
        return
    assert found[0].where == "" and words in found[0].words
    said = float(re.search(r"about ([\d,]+) times", found[0].words)[1].replace(",", ""))  # type: ignore[index]
    new = float(found[0].cure.removeprefix("optim.optimizer.lr="))
    assert math.isclose(new, 3e-4 * said if times < 1 else 3e-4 / said, rel_tol=0.5)  # both are rounded to one digit


def test_the_ratio_is_numpys_of_the_norms(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=50, layers=2)
    layers = Layers(run.path)
    found = ratios(Case(layers, {}))
    name = "blocks.1.ffn.up.weight"
    for n, seen in enumerate(layers.seen):
        row = {k: seen.names[k].index(name) for k in ("updates", "weights")}
        expected = (
            seen.arrays["updates/moments"][row["updates"], NORM] / seen.arrays["weights/moments"][row["weights"], NORM]
        )
        assert math.isclose(found[name][n], expected, rel_tol=1e-5)


def test_one_matrix_that_never_moves_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=200, layers=2)

    def freeze(seen: Observation) -> None:
        seen.arrays["updates/moments"][seen.names["updates"].index("blocks.1.ffn.out.weight"), :7] = 0

    found = ill(health(changed(run, freeze), run.settings()))
    assert [(f.level, f.where) for f in found] == [("bad", "blocks.1.ffn.out.weight")]
    assert "never change" in found[0].words


def test_weights_that_are_not_finite_come_first(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=100, layers=3, dead={0: dict.fromkeys(range(32), 0)})

    def burst(seen: Observation) -> None:
        if seen.step == 100:
            seen.arrays["weights/moments"][seen.names["weights"].index("blocks.2.mixer.q.weight")] = np.nan

    found = health(changed(run, burst), run.settings())
    assert found[0].where == "blocks.2" and "not finite: weights of blocks.2.mixer.q.weight" in found[0].words


@pytest.mark.parametrize(
    ("array", "value", "where", "words"),
    [
        ("attention/entropy", 0.001, "blocks.1.mixer", "looks at one token only"),
        ("attention/entropy", UNIFORM, "blocks.1.mixer", "looks at all tokens alike"),
        ("attention/logit", 900.0, "blocks.1.mixer", "attention logits reach 900"),
        ("stream/share", 1e-5, "blocks.1", "the stream runs past it"),
        ("output/error", 0.2, "output", "misses its share of right tokens by 20%"),
    ],
)
def test_what_is_planted_in_one_layer_is_found_there(
    tmp_path: Path, array: str, value: float, where: str, words: str
) -> None:
    run = make_run(tmp_path, steps=1000, layers=3, heads=2)

    def plant(seen: Observation) -> None:
        if array.startswith("output"):
            seen.arrays[array] = np.array(value)
        else:
            rows = seen.names[array.split("/")[0]]
            seen.arrays[array][[n for n, row in enumerate(rows) if row.startswith("blocks.1")]] = value

    found = ill(health(changed(run, plant), run.settings()))
    assert [f.where for f in found] == [where]
    assert words in found[0].words and found[0].cure


@pytest.mark.parametrize(("context", "window"), [(32, 0), (200, 0), (64, 5), (7, 3)])
def test_the_entropy_of_uniform_heads_is_what_an_observer_sees(tmp_path: Path, context: int, window: int) -> None:
    """Queries of zeros attend to all alike."""
    q = torch.zeros(1, 2, context, 4)
    rows, columns = torch.arange(context)[:, None], torch.arange(context)[None]
    visible = (columns <= rows) & (columns > rows - (window or context))
    seen = described([some(q, q, visible=visible, bias=None, scale=1.0, softcap=0.0)])[0]
    settings = {
        "model.context": context,
        "data.batching": "stream",
        "model.mixer": ["attention(window=9)", f"attention(window={window})"],
    }
    expected = uniform_entropy(Case(Layers(tmp_path), settings), "blocks.1.mixer")
    assert seen.tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_the_layers_of_a_foreign_model_are_told_apart() -> None:
    for name, layer in {
        "encoder.fc1.weight": "encoder.fc1", "encoder.fc2": "encoder.fc2", "conv1.bias": "conv1", "relu": "relu",
        "layer1.0.conv1.weight": "layer1.0", "rnn.weight_ih_l0": "rnn", "net.attn.in_proj_weight": "net.attn",
        "act@encoder.fc2": "encoder.fc2", "layers.3.relu@linear1": "layers.3", "dec.act@block.1": "dec.block.1",
        "act#2": "act", "blocks.3.ffn.up.weight": "blocks.3", "head.act": "head", "head.linear.weight": "head",
        "blocks.3.mixer:1": "blocks.3", "embed.weight": "embed", "weight": "weight",
    }.items():  # fmt: skip
        assert layer_of(name) == layer, name


@pytest.mark.parametrize(
    ("act", "words"),
    [("relu", "kaiming_normal_(layer.weight, nonlinearity='relu')"), ("gelu", "nonlinearity='relu'"), ("", "'relu'"),
     ("leakyrelu", "nonlinearity='leaky_relu'"), ("tanh", "xavier_normal_(layer.weight, gain=torch.nn.init."
      "calculate_gain('tanh'))"), ("hardtanh", "calculate_gain('tanh')"), ("sigmoid", "calculate_gain('sigmoid')")],
)  # fmt: skip
def test_a_foreign_model_is_told_the_law_of_its_own_activation(act: str, words: str) -> None:
    cure = Cures({}, act).initialisation()
    assert words in cure
    call = cure.removeprefix("start with ").partition(" and zero")[0]
    layer = torch.nn.Linear(400, 300)
    eval(call, {"torch": torch, "layer": layer})  # what is to be typed works
    assert float(layer.weight.detach().std()) > 0.04


def test_what_is_dead_comes_before_the_gradient_that_it_stops(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=100, layers=4, dead={2: dict.fromkeys(range(32), 0)}, act="relu")

    def stopped(seen: Observation) -> None:
        for n in range(2):
            row = seen.names["activation_gradients"].index(f"blocks.{n}.ffn.act")
            seen.arrays["activation_gradients/moments"][row, STD] = 0.0

    found = ill(health(changed(run, stopped), run.settings()))
    assert [f.where for f in found] == ["blocks.2.ffn.act", "blocks.0.ffn.act"]
    assert "blocks.2.ffn.act, which is dead, lets none through" in found[1].words
    alive = make_run(tmp_path, "alive", steps=100, layers=4)
    (finding,) = ill(health(changed(alive, stopped), alive.settings()))
    assert "no gradient arrives" in finding.words and finding.cure


def test_a_classifier_may_be_sure_of_itself(tmp_path: Path) -> None:
    """A sigmoid at the very end is saturated in whoever has learned; within the network it is an ailment."""
    run = make_run(tmp_path, steps=100, layers=2, act="tanh", dead={1: dict.fromkeys(range(32), 0)})
    assert [f.where for f in ill(judged(run))][:1] == ["blocks.1.ffn.act"]

    def last(seen: Observation) -> None:
        names = seen.names["activations"]
        names.append(names.pop(names.index("blocks.1.ffn.act")))

    assert not ill(health(changed(run, last), run.settings()))


def test_one_sharp_head_is_ordinary(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=100, layers=3, heads=2)
    layers = changed(run, lambda seen: seen.arrays["attention/entropy"].__setitem__(2, 0.0))
    assert not ill(health(layers, run.settings()))


def test_a_signal_that_grows_and_one_that_fades(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=100, layers=4, overrides=("model.layout=none(residual=none)",))

    def grow(factor: float) -> Any:
        def change(seen: Observation) -> None:
            for n in range(4):
                row = seen.names["activations"].index(f"blocks.{n}.ffn.act")
                seen.arrays["activations/moments"][row, STD] = factor**n

        return change

    for factor, verb in ((20.0, "grows: times 20 a layer"), (0.05, "fades: times 0.05 a layer")):
        found = health(changed(run, grow(factor)), run.settings())
        assert found[0].where.startswith("blocks.3") and f"the signal {verb}" in found[0].words
        assert found[0].cure == "model.init=kaiming"


def test_before_training_only_what_init_decides_is_judged(tmp_path: Path) -> None:
    """Nothing has moved yet, so neither updates nor idle blocks nor calibration are ailments."""
    run = make_run(tmp_path, steps=400, layers=3)
    layers = Layers(run.path)
    layers.seen = layers.seen[:1]
    layers.seen[0].arrays |= {"stream/share": np.zeros(3), "output/error": np.array(0.5)}
    layers.seen[0].arrays["updates/moments"][:] = 0
    layers.seen[0].arrays["activation_gradients/moments"][:, :7] = 0  # a head that starts at zero
    assert not ill(health(layers, run.settings()))


def test_a_foreign_module_is_judged_in_its_own_words(tmp_path: Path) -> None:
    run = make_foreign(tmp_path, layers=3, units=16)
    assert not ill(judged(run))

    def kill(seen: Observation) -> None:
        seen.arrays["neurons/active"][16:32] = 0

    found = health(changed(run, kill), run.settings())
    assert found[0].where == "net.3" and "16 of 16 neurons are dead" in found[0].words
    assert "kaiming_normal_" in found[0].cure and "model." not in found[0].cure


def test_what_is_missing_or_damaged_is_said_and_the_rest_is_judged(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=50, layers=2, dead={0: dict.fromkeys(range(32), 0)})

    def damage(seen: Observation) -> None:
        seen.arrays["stream/share"] = np.array("not a number")
        seen.arrays.pop("attention/entropy")

    layers = changed(run, damage)
    found = health(layers, run.settings())
    assert found[0].where == "blocks.0.ffn.act"
    assert any("what blocks add cannot be judged" in problem for problem in layers.problems)
    assert health(Layers(tmp_path / "nothing")) == []


def test_an_observation_with_nothing_but_weights_is_read(tmp_path: Path) -> None:
    moments = np.ones((1, 9), np.float32)
    arrays: dict[str, Any] = {"weights/moments": moments, "weights/histogram": np.ones((1, 323), np.uint32)}
    write(tmp_path / "layers", Observation(3, arrays, {"weights": ["w"]}, [], {}))
    found = summary(Layers(tmp_path), {})
    assert found["verdict"] == "well" and [row["layer"] for row in found["layers"]] == ["w"]
    assert found["neurons"] == 0 and found["loss"] is None


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("blocks.3.ffn.up.weight", "blocks.3"),
        ("blocks.12.mixer:4", "blocks.12"),
        ("head.act", "head"),
        ("0.weight", "0"),
        ("encoder.layers.2.attn.q", "encoder.layers.2"),
        ("fc1", "fc1"),
    ],
)
def test_what_belongs_to_a_layer(name: str, layer: str) -> None:
    assert layer_of(name) == layer


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"model.dim": 8, "model.init": "normal(std=1.0)"}, "model.init=kaiming"),
        ({"model.dim": 8, "model.init": "zero_output(rest=kaiming)", "model.layout": "none"}, "model.layout=pre"),
        ({"model.dim": 8, "model.init": "kaiming", "model.norm": ["none"]}, "model.norm=rmsnorm"),
        ({"model.dim": 8, "model.init": "kaiming", "model.norm": "rmsnorm", "optim.optimizer": "sgd(lr=0.3)"},
         "optim.optimizer.lr=0.1"),
        ({}, "torch.nn.init.kaiming_normal_"),
        ({"model.dim": 8, "model.init": "((("}, "model.init=kaiming"),
    ],
)  # fmt: skip
def test_the_cure_is_not_what_the_run_has_already(settings: dict[str, Any], cure: str) -> None:
    assert cure in Cures(settings).initialisation()


def test_every_limit_has_its_reason() -> None:
    assert all(len(limit.why) > 20 for limit in LIMITS.values())


def test_units_are_not_mistaken_for_dead_where_none_were_observed() -> None:
    died = Deaths.of(np.full((3, 4), np.nan), [0, 1, 2])
    assert not died.dead.any() and (died.since == -1).all()
    assert Units("a", 4, "smooth").count == 4
