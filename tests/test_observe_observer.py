"""Observing a loop: when it looks, what it writes, and that no trouble of its own ever stops a training."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.config import validate
from nanogpt.errors import UserError
from nanogpt.listing import list_runs
from nanogpt.observers import around, cadence, store
from nanogpt.observers.around import Observer
from nanogpt.observers.attach import attach
from nanogpt.observers.cadence import due, so_far
from nanogpt.observers.language import Words
from nanogpt.observers.neurons import STATES, histories, states
from nanogpt.observers.observer import observe
from nanogpt.observers.probes import Probe
from nanogpt.observers.store import Layers, Observation, Units
from nanogpt.runs import OBSERVED, Run
from nanogpt.training.loop import resume, train
from tests.helpers import make, tokens


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(16, 4), torch.randint(3, (16,))


def loop(model: nn.Module, optimizer: Any, steps: int, x: Tensor, y: Tensor) -> None:
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# ---- when


@pytest.mark.parametrize("steps", [50, 51, 99, 900, 5000, 10_000, 123_457])
def test_at_least_fifty_times_and_at_most_about_sixty(steps: int) -> None:
    looks = [step for step in range(1, steps + 1) if due(step, steps)]
    assert looks[-1] == steps and 50 <= len(looks) <= 120
    young = [2**n for n in range(20) if 2**n < steps // 50]
    assert looks[: len(young)] == young, "where a young model changes fastest"
    if steps >= 5000:
        assert len(looks) <= 66
        assert max(b - a for a, b in pairwise(looks)) <= steps / 50


@pytest.mark.parametrize("steps", [1, 7, 49])
def test_a_short_run_is_seen_at_every_step(steps: int) -> None:
    assert all(due(step, steps) for step in range(1, steps + 1))


def test_a_run_of_unknown_length_is_thinned_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cadence, "TIMES", 10)
    model, (x, y) = net(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = observe(model, optimizer, (x, y), out=tmp_path)
    assert watch.run is not None
    for length in (7, 18, 34, 48):
        loop(model, optimizer, length - watch.step, x, y)
        seen = Layers(watch.run.path).steps
        assert min(10, length) <= len(seen) <= 25 and seen == [s for s in range(length + 1) if due(s, so_far(length))]


def test_a_run_that_goes_on_longer_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cadence, "TIMES", 10)
    text = tmp_path / "count.txt"
    text.write_text("".join(f"line {n} and {n * 7 % 13}\n" for n in range(900)))
    config = validate(
        {"preset": "tiny", "tokenizer": "char", "data": {"corpus": str(text)},
         "model": {"dim": 8, "n_layers": 1, "context": 8, "mixer": "none", "position": "none", "ffn": "mlp(act=relu)"},
         "optim": {"optimizer": "sgd(lr=0.1)"}, "train": {"steps": 12, "batch": 2, "eval_every": 12, "threads": 1}}
    )  # fmt: skip
    run = train(config, out=tmp_path / "runs", quiet=True, observer=attach).run
    assert Layers(run.path).steps == list(range(13))
    resume(run.path, ["train.steps=44"], quiet=True, observer=attach)
    assert Layers(run.path).steps == [0, 1, 2, *range(4, 45, 4)]
    for step in (0, 4, 12, 44):
        seen = Layers(run.path).seen[Layers(run.path).steps.index(step)]
        assert ("updates" in seen.names) == (step > 0) and "lens/loss" in seen.arrays and "weights" in seen.names


def test_off_is_off(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = observe(model, optimizer, batch(), out=tmp_path, steps=10)
    watch.close()
    loop(model, optimizer, 3, *batch())
    assert watch.run is not None and Layers(watch.run.path).steps == [0]
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not model._forward_pre_hooks


# ---- what


def test_around_a_step_everything_is_what_it_was(tmp_path: Path) -> None:
    """The gradient is the real step's, the update is what the optimizer did, weights are those after it."""
    model, (x, y) = net(), batch()
    first, second = (torch.optim.Adam(part.parameters(), lr=0.01) for part in (model[0], model[2]))
    with observe(model, [first, second], lambda: F.cross_entropy(model(x), y), out=tmp_path, name="two", steps=2):
        for _ in range(2):
            old = {name: p.detach().clone() for name, p in model.named_parameters()}
            model.zero_grad()
            F.cross_entropy(model(2 * x), y).backward()
            first.step()
            second.step()
    seen = Layers(tmp_path / "two").seen[-1]
    for name, p in model.named_parameters():
        assert p.grad is not None
        want = {"weights": p.detach(), "weight_gradients": p.grad, "updates": p.detach() - old[name]}
        for kind, x_ in want.items():
            assert seen.table(kind, "norm")[name] == pytest.approx(float(x_.norm()), rel=1e-4)
            bins = seen.arrays[f"{kind}/histogram"][seen.names[kind].index(name)]
            assert np.array_equal(bins, np.histogram(x_.double().numpy(), store.EDGES)[0])
    assert float(seen.arrays["loss"]) == pytest.approx(float(F.cross_entropy(model(x), y).detach()), rel=1e-6)


def test_targets_choose_the_loss(tmp_path: Path) -> None:
    x = torch.randn(6, 4)
    images = torch.randint(3, (6, 2, 2))
    cases: list[tuple[nn.Module, Tensor, Tensor, Any]] = [
        (net(), x, torch.randint(3, (6,)), lambda o, t: F.cross_entropy(o, t)),
        (net(), x, torch.randn(6, 3), lambda o, t: F.mse_loss(o, t)),
        (nn.Linear(4, 5), torch.randn(2, 7, 4), torch.randint(5, (2, 7)),
         lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten())),
        (nn.Conv2d(1, 3, 1), torch.randn(6, 1, 2, 2), images, lambda o, t: F.cross_entropy(o, t)),
    ]  # fmt: skip
    for number, (model, inputs, targets, want) in enumerate(cases):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        observe(model, optimizer, (inputs, targets), out=tmp_path, name=str(number)).close()
        loss = Layers(tmp_path / str(number)).numbers("loss")[0]
        assert loss == pytest.approx(float(want(model(inputs), targets).detach()), rel=1e-5)


class WithLoss(nn.Module):
    """Returns its own loss, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, *, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.net(x)
        return logits, None if targets is None else F.cross_entropy(logits, targets)


def test_without_a_probe_the_first_batch_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, (x, y) = WithLoss(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with observe(model, optimizer, out=tmp_path, name="own-loss", steps=3):
        for _ in range(3):
            optimizer.zero_grad()
            model(x, targets=y)[1].backward()
            optimizer.step()
            x += 1  # the same memory, filled anew
    assert not capsys.readouterr().err
    seen = Layers(tmp_path / "own-loss")
    assert seen.steps == [0, 1, 2, 3] and all("activation_gradients" in one.names for one in seen.seen)
    plain = net()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    with observe(plain, optimizer, out=tmp_path, name="no-loss", steps=3):
        loop(plain, optimizer, 3, x, y)
    assert capsys.readouterr().err.count("without their gradients") == 1
    seen = Layers(tmp_path / "no-loss")
    assert seen.steps == [0, 1, 2, 3]
    assert "activation_gradients" not in seen.seen[-1].names and "weight_gradients" in seen.seen[-1].names


def test_the_folder_is_a_run(tmp_path: Path) -> None:
    model, (x, y) = net(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for name in ("sequential", "sequential-2"):
        with observe(model, optimizer, (x, y), out=tmp_path, steps=4) as watch:
            for step in range(1, 5):
                loop(model, optimizer, 1, x, y)
                watch.log(loss=torch.tensor(2.0 / step), val_loss=float("nan"), accuracy=0.5)
        assert watch.run is not None and watch.run.name == name
    run = Run.open(tmp_path / "sequential")
    rows = run.metrics()
    assert [(r["step"], r["train/loss"]) for r in rows] == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3)), (4, 0.5)]
    assert rows[0]["val/loss"] is None and rows[0]["accuracy"] == 0.5 and rows[0]["seconds"] >= 0
    facts = run.settings()
    assert facts[f"{OBSERVED}.parameters"] == 67 and "ReLU" in facts[f"{OBSERVED}.modules"]
    assert facts[f"{OBSERVED}.optimizer"] == "SGD" and facts[f"{OBSERVED}.learning_rate"] == 0.1
    assert run.environment()["launches"][0]["versions"]["torch"] == torch.__version__
    row = list_runs(tmp_path)[0]
    assert "error" not in row and (row["preset"], row["step"], row["steps"]) == ("Sequential", 4, 4)
    assert row["train/loss"] == 0.5 and not run.checkpoints() and run.samples() == []
    json.dumps(list_runs(tmp_path))


def test_several_processes_one_observer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    model, (x, y) = net(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with observe(model, optimizer, (x, y), out=tmp_path) as watch:
        loop(model, optimizer, 2, x, y)
        watch.log(loss=1.0)
    assert watch.run is None and not list(tmp_path.iterdir())


def test_what_cannot_be_observed_is_refused_in_one_line(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    observe(model, optimizer, out=tmp_path, name="taken").close()
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        (("net", optimizer), {}, "a torch.nn.Module, not a str"),
        ((model, model), {}, "torch.optim.Optimizer, not"),
        ((model, []), {}, "torch.optim.Optimizer, not none"),
        ((nn.ReLU(), optimizer), {}, "no parameters"),
        ((model, optimizer, 3), {}, "a function that returns the loss"),
        ((model, optimizer), {"steps": 0}, "at least 1"),
        ((model, optimizer), {"name": "taken"}, "exists already"),
        ((model, optimizer), {"name": "a/b"}, "one folder's name"),
    ]
    for args, more, words in cases:
        with pytest.raises(UserError, match=words):
            observe(*args, out=tmp_path, **more)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_long_run_of_a_deep_model_stays_small_on_disk(tmp_path: Path) -> None:
    """Under 20 MB for 10,000 steps of 12 layers: one whole observation, times the looks of such a run."""
    model = make(n_layers=12, dim=48, mixer="attention(heads=12, bias=all)", position="learned", norm="layernorm",
                 ffn="mlp(act=relu, hidden=768, bias=zeros)", context=16)  # fmt: skip
    ids = tokens(16, 16)
    probe = Probe(lambda: model.losses(ids, ids)["loss"], 256, Words(ids, ids))
    optimizer = torch.optim.Adam(model.parameters())
    Observer(model, [optimizer], tmp_path, step=lambda: 0, steps=1, probe=lambda: probe, say=pytest.fail)
    model.losses(ids, ids)["loss"].backward()
    optimizer.step()
    (path,) = tmp_path.iterdir()
    seen = store.read(path)
    assert len(seen.arrays["neurons/active"]) == 12 * 768 and len(seen.names["attention"]) == 144
    assert {*store.KINDS} <= {*seen.names} and "output/calibration" in seen.arrays
    looks = 1 + sum(due(step, 10_000) for step in range(1, 10_001))
    assert path.stat().st_size * looks < 20e6 / 2, "and four times as many neurons fit as well"


# ---- trouble


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("what", ["look", "write"])
def test_trouble_is_said_once_and_training_goes_on(
    at: int, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (x, y), torch_seed = batch(), 5
    ends = []
    for watched in (False, True):
        torch.manual_seed(torch_seed)
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

        def failing(real: Any, error: Exception) -> Any:
            def do(*args: Any, **kwargs: Any) -> Any:
                if len(Layers(tmp_path / "it").steps) >= at:
                    raise error
                return real(*args, **kwargs)

            return do

        with monkeypatch.context() as patch:
            if what == "look":
                patch.setattr(around, "look", failing(around.look, RuntimeError("no such\nthing")))
            else:
                full = OSError(errno.ENOSPC, "No space left on device")
                patch.setattr(Path, "write_bytes", failing(Path.write_bytes, full))
            watch = observe(model, optimizer, (x, y), out=tmp_path, name="it", steps=8) if watched else None
            loop(model, optimizer, 8, x, y)
            if watch is not None:
                assert watch.step == 8
                watch.close()
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(map(torch.equal, *ends))
    said = capsys.readouterr().err
    assert said.count("observing ended") == 1 and said.count("\n") == 1
    assert (": No space left on device;" if what == "write" else "no such") in said and "training goes on" in said
    assert Layers(tmp_path / "it").steps == list(range(at)) and not Layers(tmp_path / "it").problems
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not list((tmp_path / "it").glob("layers/.*")), "nothing half-written is left"


def test_trouble_in_a_run_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "count.txt"
    text.write_text("".join(f"line {n} and {n * 7 % 13}\n" for n in range(300)))
    config = validate(
        {"preset": "tiny", "tokenizer": "char", "data": {"corpus": str(text)},
         "model": {"dim": 8, "n_layers": 1, "context": 8, "mixer": "none", "position": "none"},
         "optim": {"optimizer": "sgd(lr=0.1)"}, "train": {"steps": 6, "batch": 2, "threads": 1}}
    )  # fmt: skip
    notes: list[str] = []

    def listen(event: str, facts: Mapping[str, Any]) -> None:
        if event == "note":
            notes.append(facts["text"])

    def broken(trainer: Any) -> None:
        raise MemoryError("too large a probe")

    monkeypatch.setattr("nanogpt.observers.attach.probe_of", broken)
    ended = train(config, out=tmp_path / "runs", quiet=True, observer=attach, on_event=listen)
    assert ended.ending == "finished"
    assert len([note for note in notes if "observing ended at step 0: too large a probe" in note]) == 1


# ---- reading what there is


def observation(step: int, active: list[int], bias: float = 0.0) -> Observation:
    arrays = {
        "neurons/active": np.array(active, np.uint32),
        "neurons/bias": np.full(len(active), bias, np.float16),
        "neurons/norm": np.arange(len(active)).astype(np.float16),
    }
    return Observation(step, arrays, {}, [Units("act", len(active), "rectified")], {"tokens": 200})


def test_a_folder_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = tmp_path / "layers"
    for step in (0, 1, 2, 3, 4):
        store.write(folder, observation(step, [1, 2]))
    whole = store.path_of(folder, 1).read_bytes()
    store.path_of(folder, 1).write_bytes(whole[: len(whole) // 2])
    store.path_of(folder, 2).write_bytes(b"")
    newer = observation(3, [1, 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "FORMAT", store.FORMAT + 1)
        store.write(folder, newer)
    (folder / ".step-000009.npz.0f3a9c21").write_bytes(b"left over")
    (folder / "step-000007.npz").mkdir()
    seen = Layers(tmp_path)
    assert seen.steps == [0, 4]
    assert len(seen.problems) == 4
    assert any(f"format {store.FORMAT + 1}" in problem for problem in seen.problems)
    assert not Layers(tmp_path / "nowhere").steps


def test_every_cut_of_a_file_is_a_problem_and_no_more(tmp_path: Path) -> None:
    whole = store.write(tmp_path / "layers", observation(5, list(range(40)))).read_bytes()
    random = np.random.default_rng()
    for cut in random.integers(0, len(whole), 25):
        store.path_of(tmp_path / "layers", 5).write_bytes(whole[:cut])
        assert len(Layers(tmp_path).steps) + len((one := Layers(tmp_path)).problems) + len(one.steps) <= 1
    for place in random.integers(0, len(whole), 60):
        spoiled = bytearray(whole)
        spoiled[place] ^= 0xFF
        store.path_of(tmp_path / "layers", 5).write_bytes(bytes(spoiled))
        one = Layers(tmp_path)
        assert len(one.steps) + len(one.problems) == 1


def test_the_life_of_each_neuron(tmp_path: Path) -> None:
    lives = [[5, 0, 9, 200, 1], [5, 0, 0, 200, 1], [5, 0, 3, 200, 1], [0, 0, 0, 200, 0]]
    for number, active in enumerate(lives):
        store.write(tmp_path / "layers", observation(10 * number, active, bias=-number))
    layers = Layers(tmp_path)
    found = histories(layers, "act")
    assert [(h.unit, h.died, h.back, h.dead, h.deaths, h.bias, h.norm) for h in found] == [
        (0, 30, None, True, 1, -3, 0),
        (1, 0, None, True, 1, 0, 1),
        (2, 10, 20, True, 2, -1, 2),
        (4, 30, None, True, 1, -3, 4),
    ]
    words = [[STATES[code] for code in row] for row in states(layers.active("act"))]
    assert words[0] == ["normal", "dead", "normal", "always", "rare"]
    assert words[3] == ["dead", "dead", "dead", "always", "dead"]
    assert states(np.array([np.nan, 0.01, 0.0099])).tolist() == [-1, 2, 1]


def test_a_neuron_that_a_large_step_kills(tmp_path: Path) -> None:
    """Seen to die, with the bias that it died of."""
    torch.manual_seed(0)
    model, (x, y) = net(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with observe(model, optimizer, (x, y), out=tmp_path, name="it", steps=20):
        loop(model, optimizer, 9, x, y)
        with torch.no_grad():
            model[0].bias[3] = -50.0
        loop(model, optimizer, 11, x, y)
    (history,) = [h for h in histories(Layers(tmp_path / "it"), "1") if h.unit == 3]
    assert (history.died, history.back, history.dead, history.bias) == (10, None, True, -50)


def test_what_cannot_be_logged_stops_nobody(tmp_path: Path) -> None:
    """Numpy's numbers are numbers; what is none is said once."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = observe(model, optimizer, probe=(torch.randn(4, 3), torch.randn(4, 1)), out=tmp_path, name="a", steps=2)
    for row in ({"loss": np.float32(0.5)}, {"loss": torch.zeros(3)}, {"loss": "high"}):
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()
        watch.log(**row)
    watch.close()
    assert [row["train/loss"] for row in Run(tmp_path / "a").metrics()] == [0.5]


def test_an_observation_without_numbers_is_a_word(tmp_path: Path) -> None:
    """Arrays of letters where numbers should be are damage, found when the file is read."""
    folder = tmp_path / "layers"
    seen = store.Observation(3, {"loss": np.array("high")}, {})
    store.write(folder, seen)
    layers = store.Layers(tmp_path)
    assert layers.steps == [] and "loss has no numbers" in layers.problems[0]
