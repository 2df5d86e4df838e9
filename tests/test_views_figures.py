"""Each picture shows what was observed: numbers against closed forms and numpy, on runs of every kind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt import views
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.observers.store import BINS, EDGES, KINDS, STATISTICS, Layers, Observation, Units, read, write
from nanogpt.runs import Run
from nanogpt.views import FIGURES
from nanogpt.views.curves import smooth, thin
from nanogpt.views.ridges import SCALES
from nanogpt.views.rows import groups
from nanogpt.views.source import differences, distinct, sources
from nanogpt.views.theme import COLORS, by_depth, ticks
from tests.observations import PROBE, make_foreign, make_run

DEAD = {1: {3: 0, 7: 200}, 2: {30: 300}}
"""Layer -> unit -> step of its death."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), dead=DEAD, shrink=0.5)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "other", layers=2, units=20, steps=300, act="gelu", seed=2)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_foreign(tmp_path_factory.mktemp("runs"))


def column(values: Any) -> np.ndarray:
    return np.asarray(values, float)


# ---- all of them


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_stands_alone_with_a_title_and_named_axes(run: Run, name: str) -> None:
    figure = FIGURES[name](run)  # plotly checks every property
    assert figure.layout.title.text
    assert len(figure.data) > 0
    across = [figure.layout[key] for key in figure.layout if key.startswith("xaxis")]
    assert all(axis.title.text for axis in across)
    named_rows = any(trace.type == "heatmap" for trace in figure.data) or name == "ridges"
    upward = [figure.layout[key] for key in figure.layout if key.startswith("yaxis")]
    assert all(axis.title.text or (named_rows and axis.tickvals is not None) or named_rows for axis in upward)


@pytest.mark.parametrize("name", FIGURES)
def test_every_choice_of_every_picture_draws(run: Run, other: Run, foreign: Run, name: str) -> None:
    found = sources([run, other, foreign])
    there = FIGURES[name].choices(found)
    some = [there[n] for n in sorted(set(np.linspace(0, len(there) - 1, 25).astype(int)))]
    assert all(FIGURES[name].draw(found, **choice) is not None for choice in some)


@pytest.mark.parametrize("name", FIGURES)
def test_beside_every_colour_is_a_dash_or_a_marker(run: Run, other: Run, name: str) -> None:
    """Two lines that differ in colour differ in a dash or a marker too, so that no colour has to be seen."""
    found = sources([run, other])
    picture = FIGURES[name].draw(found, **FIGURES[name].choices(found)[0])
    assert picture is not None
    looks: dict[tuple[str, str, str, str], str] = {}
    for trace in picture["data"]:
        line = trace.get("line", {})
        if trace["type"] != "scatter" or not line.get("width") or trace.get("fill"):
            continue  # cells are told apart by lightness, ridges by their place
        marker = str(trace.get("marker", {}).get("symbol", "")) if "markers" in trace["mode"] else ""
        look = (line.get("dash", "solid"), marker, str(line["width"]), trace.get("yaxis", "y"))
        assert (
            looks.setdefault(look, line["color"]) == line["color"]
            or trace.get("hoverinfo") == "skip"
            or (
                line["dash"] == "dot"
                and "rgba" in line["color"]  # where a run began: its line at the step shown is beside
            )
        ), f"{trace['name']} is told from another by its colour alone"


def test_a_picture_of_what_was_not_observed_says_so(tmp_path: Path, foreign: Run) -> None:
    bare = make_run(tmp_path, observed=False, steps=20)
    with pytest.raises(UserError, match="nothing of this was observed"):
        views.heatmap(bare)
    with pytest.raises(UserError, match="nothing of this was observed"):
        views.lens(foreign)
    assert len(views.curves(bare).data) >= 2


def test_a_wrong_choice_gets_the_nearest_right_one(run: Run) -> None:
    with pytest.raises(UserError, match=r"did you mean 'statistic'"):
        views.heatmap(run, statistics="std")
    with pytest.raises(UserError, match=r"did you mean 'weights'"):
        views.heatmap(run, kind="weight")
    figure = views.heatmap(run, kind="weights", statistic="norm")
    assert figure.layout.title.text == "Norm of weights"


# ---- curves


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_thinned_line_keeps_its_spikes_and_its_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    y = random.normal(size=50_000)
    y[random.integers(0, 50_000, 5)] = [90, -80, 70, -60, 50]
    x = np.cumsum(random.random(50_000))
    kept_x, kept_y = thin(x, y, 2000)
    assert len(kept_x) <= 2002
    assert {y.max(), y.min(), 70, -60, 50} <= set(kept_y)
    assert (np.diff(kept_x) > 0).all()
    places = np.searchsorted(x, kept_x)
    assert (x[places] == kept_x).all()
    assert (y[places] == kept_y).all()


def test_a_smoothed_line_is_the_weighted_mean_of_what_was_before() -> None:
    y = np.random.default_rng(5).normal(2, 1, 600)
    keep = 1 - 1 / 8
    weights = keep ** np.arange(600)[::-1]
    for n in (0, 1, 50, 599):
        expected = (weights[599 - n :] * y[: n + 1]).sum() / weights[599 - n :].sum()
        assert smooth(y)[n] == pytest.approx(expected)
    assert smooth(np.full(300, 1.5)) == pytest.approx(np.full(300, 1.5))


def test_what_is_along_the_bottom_can_be_chosen(run: Run) -> None:
    last = run.metrics()[-1]
    flops = cost(run.config().model).training_flops
    ends = {"steps": last["step"], "tokens": last["tokens"], "seconds": last["seconds"],
            "FLOPs": last["tokens"] * flops}  # fmt: skip
    for choice, end in ends.items():
        figure = views.curves(run, x=choice)
        assert max(float(np.max(trace.x)) for trace in figure.data) == pytest.approx(end, rel=1e-6)
    val = next(trace for trace in views.curves(run).data if trace.name == "val")
    expected = [(row["step"], row["val/loss"]) for row in run.metrics() if "val/loss" in row]
    assert np.stack([column(val.x), column(val.y)], 1) == pytest.approx(np.array(expected), rel=1e-6)
    assert "markers" in val.mode


def test_nobody_knows_the_unit_or_the_operations_of_a_foreign_module(run: Run, foreign: Run) -> None:
    assert views.curves(run).layout.yaxis.title.text == "loss (nats per token)"
    assert views.curves(foreign).layout.yaxis.title.text == "loss"
    with pytest.raises(UserError, match="x=FLOPs"):
        views.curves(foreign, x="FLOPs")
    assert views.curves(foreign, y="accuracy").layout.yaxis.title.text == "accuracy"


def test_numbers_that_are_not_finite_or_not_numbers_are_not_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path, observed=False, steps=3)
    rows = [{"step": n + 1, "train/loss": loss} for n, loss in enumerate([2.0, math.nan, "high", True, 1.0, math.inf])]
    (run.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 7, "tra')
    (line,) = views.curves(run).data
    assert list(line.x) == [1, 5]
    assert list(line.y) == [2, 1]


# ---- layers


def test_a_cell_of_the_heat_map_is_what_was_written(run: Run) -> None:
    layers = Layers(run.path)
    for kind, words in (("weights", "weights"), ("activation_gradients", "activation gradients")):
        trace = views.heatmap(run, kind=words, statistic="standard deviation", rows="all").data[0]
        seen = layers.seen[7]
        row, name = 4, seen.names[kind][4]
        std = seen.arrays[f"{kind}/moments"][row, STATISTICS.index("std")]
        assert trace.y[row] == name
        assert trace.x[7] == str(seen.step)
        assert trace.z[row][7] == pytest.approx(math.log10(std), rel=1e-5)


def test_rows_are_gathered_by_what_they_are_in_their_layer() -> None:
    names = ["embed", "blocks.0.ffn.act", "blocks.0.ffn", "blocks.1.ffn.act", "blocks.1.ffn", "blocks.10.ffn.act"]
    assert groups(names) == {
        "blocks.*.ffn.act": ["blocks.0.ffn.act", "blocks.1.ffn.act", "blocks.10.ffn.act"],
        "blocks.*.ffn": ["blocks.0.ffn", "blocks.1.ffn"],
        "outside the layers": ["embed"],
    }
    assert list(groups(["0", "1", "2"])) == ["*"]
    assert groups(["conv1.weight", "conv2.weight"]) == {"outside the layers": ["conv1.weight", "conv2.weight"]}


def one_row(folder: Path, values: np.ndarray) -> Run:
    """A run whose one activation was seen to hold these values."""
    run = Run(folder / "one")
    (run.path / "checkpoints").mkdir(parents=True)
    (run.path / "config.json").write_text('{"observed": {}}')
    counts = np.histogram(values, EDGES)[0].astype(np.uint32)
    moments = np.zeros((1, 9), np.float32)
    arrays = {"activations/histogram": counts[None], "activations/moments": moments}
    write(run.layers, Observation(0, arrays, {"activations": ["act"]}))
    return run


@pytest.mark.parametrize("std", [1e-4, 0.7, 30])
def test_a_ridge_is_the_density_of_what_was_counted(tmp_path: Path, std: float) -> None:
    """Drawn from a Gaussian, counted by numpy, it is exp(-x^2 / 2 std^2) times its highest point."""
    values = np.random.default_rng(3).normal(0, std, 400_000)
    trace = views.history(one_row(tmp_path, values), values="linear").data[0]
    x, y = column(trace.x)[1:-1], column(trace.y)[1:-1] / 170
    assert y == pytest.approx(np.exp(-(x**2) / (2 * std**2)), abs=0.05)
    assert np.abs(x).max() > 2.5 * std


def test_a_ridge_on_a_logarithmic_axis_counts_by_size(tmp_path: Path) -> None:
    """Sizes spread evenly over octaves give a flat line; exact zeros are said, not drawn."""
    random = np.random.default_rng(4)
    sizes = 2 ** random.uniform(-12, -2, 200_000) * random.choice([-1, 1], 200_000)
    figure = views.history(one_row(tmp_path, np.concatenate([sizes, np.zeros(50_000)])), values="logarithmic")
    y = column(figure.data[0].y)[1:-1] / 170
    assert y[2:-2] == pytest.approx(np.ones(len(y) - 4), abs=0.06)
    assert list(figure.data[-1].text) == ["20% zero"]


def test_ridges_show_each_layer_at_each_step(run: Run) -> None:
    figure = views.ridges(run, kind="activations", rows="blocks.*.ffn.act")
    assert [t.name for t in figure.data[:-1]] == [f"blocks.{n}.ffn.act" for n in range(3)]
    assert [frame.name for frame in figure.frames] == [str(step) for step in Layers(run.path).steps]
    floors = [min(trace.y) for trace in figure.data[:-1]]
    assert floors == [0, -100, -200]


# ---- neurons


def test_the_map_shows_exactly_the_dead_neurons(run: Run) -> None:
    figure = views.neuron_map(run)
    (trace,) = figure.data
    texts = np.array(trace.text)

    def dead_at(step: int) -> set[str]:
        frame = next(frame for frame in figure.frames if frame.name == str(step))
        return set(texts[np.asarray(frame.data[0].z) == 0])

    planted = {
        (f"blocks.{layer}.ffn.act[{unit}]", step) for layer, units in DEAD.items() for unit, step in units.items()
    }
    for step in (0, 200, 400):
        assert dead_at(step) == {name for name, since in planted if since <= step}
    alive = set(texts.ravel()) - {name for name, _ in planted}
    assert {f"blocks.{layer}.ffn.act[{unit}]" for layer in range(3) for unit in range(32)} <= set(texts.ravel())
    assert len(alive) >= 3 * 32 - 3


@pytest.mark.parametrize("counts", [[5], [300, 7, 1536], [1, 1]])
def test_the_map_has_a_cell_for_each_neuron_of_layers_of_any_size(tmp_path: Path, counts: list[int]) -> None:
    run = Run(tmp_path / "sizes")
    (run.path / "checkpoints").mkdir(parents=True)
    (run.path / "config.json").write_text('{"observed": {}}')
    active = np.random.default_rng(1).choice([0, 2, 100, PROBE], sum(counts)).astype(np.uint32)
    units = [Units(f"layer{n}", count, "rectified") for n, count in enumerate(counts)]
    write(run.layers, Observation(1, {"neurons/active": active}, {}, units, {"tokens": PROBE}))
    (trace,) = views.neuron_map(run).data
    found = dict(zip(np.array(trace.text).ravel(), column(trace.z).ravel(), strict=True))
    expected = {0: 0, 2: 1, 100: 2, PROBE: 3}
    names = [f"layer{n}[{unit}]" for n, count in enumerate(counts) for unit in range(count)]
    assert [found[name] for name in names] == [expected[int(n)] for n in active]
    assert sum(np.isfinite(value) for value in column(trace.z).ravel()) == sum(counts)


def test_the_history_of_a_neuron_says_when_it_died(run: Run) -> None:
    (trace,) = views.neuron_history(run).data
    row = list(trace.y).index("blocks.1.ffn.act[7]")
    first_dead = trace.x[int(np.argmax(np.asarray(trace.z)[row] == 0))]
    assert first_dead == "200"
    last = np.asarray(trace.customdata)[row][-1]
    assert last[0] == 0
    assert last[1] == pytest.approx(-0.3, abs=1e-3)  # as planted
    assert "blocks.0.ffn.act[0]" not in trace.y


def test_neurons_that_died_are_shown_before_those_that_never_lived(tmp_path: Path) -> None:
    dead = {0: dict.fromkeys(range(30), 0) | {31: 300}, 1: {5: 200}}
    (trace,) = views.neuron_history(make_run(tmp_path, steps=400, layers=2, dead=dead)).data
    assert {"blocks.0.ffn.act[31]", "blocks.1.ffn.act[5]"} < set(trace.y)
    many = {n: dict.fromkeys(range(80), 0) | {99: 200} for n in range(2)}
    (trace,) = views.neuron_history(make_run(tmp_path, "many", steps=400, layers=2, units=100, dead=many)).data
    assert {"blocks.0.ffn.act[99]", "blocks.1.ffn.act[99]"} < set(trace.y), "there is no room for all that are dead"


def test_the_share_of_dead_neurons(run: Run) -> None:
    traces = {trace.name: trace for trace in views.neuron_share(run, state="dead").data}
    assert traces["blocks.1.ffn.act"].y[-1] == pytest.approx(100 * 2 / 32)
    assert traces["blocks.1.ffn.act"].y[0] == pytest.approx(100 * 1 / 32)
    assert traces["blocks.0.ffn.act"].y[-1] == 0


# ---- ratios, depth, output


def test_ratios_are_norms_over_norms(run: Run) -> None:
    figure = views.ratios(run, ratio="update to data", rows="blocks.*.ffn.up.weight")
    seen = Layers(run.path).seen[-1]
    table = {kind: seen.table(kind, "norm") for kind in ("updates", "weights")}
    for n in range(3):
        name = f"blocks.{n}.ffn.up.weight"
        trace = next(trace for trace in figure.data if trace.name == name)
        assert trace.y[-1] == pytest.approx(math.log10(table["updates"][name] / table["weights"][name]), rel=1e-5)
    usual = next(trace for trace in figure.data if "usual" in trace.name)
    assert list(usual.y) == [-3, -3]


def test_gradients_that_vanish_are_seen_to_vanish(run: Run) -> None:
    traces = views.gradients(run, rows="blocks.*.mixer.q.weight").data
    last = [float(np.median(trace.y)) for trace in traces]
    assert last[0] < last[1] < last[2]  # planted: half in each layer on the way down


def test_through_depth(run: Run, other: Run) -> None:
    seen, figure = Layers(run.path).seen, views.lens([run, other])
    assert [trace.name for trace in figure.data] == [
        "made, step 0", "made, at the step shown", "other, step 0", "other, at the step shown",
    ]  # fmt: skip
    assert column(figure.data[1].y) == pytest.approx(seen[-1].arrays["lens/loss"])
    assert len(figure.data[3].y) == 2
    assert "64 tokens" in figure.layout.title.text
    assert column(figure.data[1].error_y.array) == pytest.approx(seen[-1].arrays["lens/error"])
    assert column(figure.frames[4].data[0].error_y.array) == pytest.approx(seen[4].arrays["lens/error"])
    low, high = figure.layout.yaxis.range
    assert all(low < value < high for one in seen for value in one.arrays["lens/loss"])
    stream = views.stream(run)
    assert column(stream.data[3].y) == pytest.approx(seen[-1].arrays["stream/share"])
    assert column(stream.frames[5].data[2].y) == pytest.approx(seen[5].arrays["stream/cosine"])


def test_what_it_would_say_is_decoded_by_the_runs_tokenizer(run: Run) -> None:
    from nanogpt.tokenizers import load_tokenizer

    (trace,) = views.lens_text(run).data
    tokens = Layers(run.path).seen[-1].arrays["lens/tokens"]
    decode = load_tokenizer(run.tokenizer_path).decode
    shown = {" ": "\u00b7", "\n": "\u21b5"}
    expected = [[shown.get(decode([token]), decode([token])) for token in row] for row in tokens.tolist()]
    assert [list(row) for row in trace.text] == expected
    assert views.lens_text(run).layout.xaxis.ticktext[0] == "F<br><i>i</i>"


def test_heads_stand_in_their_layer(run: Run) -> None:
    (trace,) = views.attention(run, quantity="largest logit").data
    logits = Layers(run.path).seen[-1].arrays["attention/logit"].reshape(3, 2)
    assert column(trace.z) == pytest.approx(logits)
    assert list(trace.y) == [f"blocks.{n}.mixer" for n in range(3)]


def test_the_reliability_diagram(run: Run) -> None:
    table = Layers(run.path).seen[-1].arrays["output/calibration"].astype(float)
    _, points, bars = views.calibration(run).data
    kept = table[table[:, 0] > 0]
    assert np.stack([column(points.x), column(points.y)], 1) == pytest.approx(kept[:, 1:])
    assert sum(bars.y) == pytest.approx(100)
    n, p = kept[:, 0] + 4, (kept[:, 0] * kept[:, 2] + 2) / (kept[:, 0] + 4)
    assert column(points.error_y.array) == pytest.approx(np.sqrt(p * (1 - p) / n))


def test_loss_by_position_stands_at_places_of_the_window(run: Run) -> None:
    trace = views.position(run).data[1]
    assert column(trace.x) == pytest.approx(np.arange(32))
    assert column(trace.error_y.array) == pytest.approx(np.full(32, 0.3))
    assert "512 tokens" in views.position(run).layout.title.text
    assert views.frequency(run).data[1].x[0] == 1


# ---- several runs


def test_names_that_are_alike_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "run", tmp_path / "c" / "mine"]
    assert distinct(paths) == ["a/run", "b/run (1)", "b/run (2)", "mine"]


def test_what_differs_between_runs(run: Run, other: Run, foreign: Run) -> None:
    found = sources([run, other, foreign])
    differ = differences(found)
    assert differ["train.steps"] == [400, 300, None]
    assert differ["seed"] == [1, 2, None]
    assert "optim.clip" in differ
    assert "optim.clip" not in differences(found[:2])


# ---- what is damaged


def test_a_damaged_run_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=100)
    files = sorted(run.layers.glob("*.npz"))
    files[3].write_bytes(files[3].read_bytes()[:700])
    files[5].write_bytes(b"")
    files[6].write_bytes(b"nonsense")
    files[7].unlink()
    files[7].mkdir()
    (one,) = sources(run)
    assert len(one.steps) == len(files) - 4
    assert len(one.problems) == 4 and one.problems[-1] == f"{files[7]}: Is a directory"
    assert views.heatmap(run).data[0].z.shape[1] == len(files) - 4


def test_what_is_zero_everywhere_has_ridges_too(tmp_path: Path) -> None:
    """As biases before the first step, in a run that was killed right after it."""
    run = make_run(tmp_path, steps=1)
    for path in run.layers.glob("*.npz"):
        seen = read(path)
        counts = seen.arrays["weights/histogram"]
        counts[:, BINS // 2] += counts.sum(1) - counts[:, BINS // 2]
        counts[:, [n for n in range(BINS) if n != BINS // 2]] = 0
        write(run.layers, seen)
    for values in SCALES:
        assert set(views.ridges(run, kind="weights", values=values).data[-1].text) == {"100% zero"}


def test_arrays_that_are_missing_leave_their_picture_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=50)
    for path in run.layers.glob("*.npz"):
        seen = read(path)
        for key in [k for k in seen.arrays if k.startswith(("lens/", "neurons/bias", "output/", "updates/"))]:
            del seen.arrays[key]
        seen.names.pop("updates")
        write(run.layers, seen)
    found = sources(run)
    assert not views.lens.choices(found)
    assert not views.calibration.choices(found)
    assert {choice["ratio"] for choice in views.ratios.choices(found)} == {"gradient to data"}
    assert np.isfinite(column(views.neuron_map(run).data[0].z)).any()
    assert {choice["kind"] for choice in views.heatmap.choices(found)} == {k.replace("_", " ") for k in KINDS[:4]}


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=50)
    path = sorted(run.layers.glob("*.npz"))[-1]
    seen = read(path)
    seen.arrays["activations/moments"][4] = np.inf
    seen.arrays["weights/moments"][:] = np.nan
    write(run.layers, seen)
    z = column(views.heatmap(run, kind="activations").data[0].z)
    assert np.isnan(z[4, -1])
    assert np.isfinite(z[:4]).all()
    views.ratios(run)


# ---- looks


def test_colours_of_the_theme_are_those_of_okabe_and_ito() -> None:
    assert set(COLORS) <= {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000"}
    assert by_depth(1) == by_depth(4)[:1] == ["rgb(0,114,178)"]
    assert len(set(by_depth(24))) == 24


@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 57, 300])
def test_ticks_are_few_and_hold_both_ends(count: int) -> None:
    shown = ticks(list(range(count)))["tickvals"]
    assert shown[0] == "0"
    assert shown[-1] == str(count - 1)
    assert len(shown) <= 13
