"""A run that is observed and one that is not end in the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.utils import counters

from nanogpt.config import RunConfig, validate
from nanogpt.observers.attach import attach
from nanogpt.observers.observer import observe
from nanogpt.observers.store import Layers
from nanogpt.runs import Run
from nanogpt.training.loop import resume, train
from nanogpt.training.machine import has_compiler

STEPS = 12
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"train": {"accumulate": 2}},
    "batch norm and dropout": {
        "model": {
            "norm": "batchnorm",
            "layout": "pre(dropout=0.2, drop_path=0.1)",
            "mixer": "attention(heads=2, dropout=0.1)",
            "ffn": "mlp(act=rrelu, hidden=24)",
        }
    },
    "a mean of the weights": {"optim": {"ema": 0.9}},
    "two optimizers": {"optim": {"optimizer": "muon(lr=0.02, rest=adamw(lr=0.01))"}, "model": {"ffn": "swiglu"}},
    "recurrent": {"model": {"mixer": "rnn(act=tanh)", "position": "none"}},
    "bf16": {"train": {"precision": "bf16"}},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "count.txt"
    path.write_text("".join(f"line {n} and {n * 7 % 13}\n" for n in range(900)))
    return path


def config(text: Path, changes: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    sections: dict[str, dict[str, Any]] = {
        "data": {"corpus": str(text)},
        "model": {"dim": 16, "n_layers": 2, "context": 16, "position": "rotary", "mixer": "attention(heads=2)",
                  "ffn": "mlp(act=relu, hidden=24)", "norm": "rmsnorm"},
        "optim": {"optimizer": "adamw(lr=0.01)", "schedule": "cosine(warmup=2)"},
        "train": {"steps": STEPS, "batch": 4, "eval_every": 6, "threads": 1, "compile": "off", "device": "cpu"},
    }  # fmt: skip
    for name, values in changes.items():
        sections[name] = {**sections[name], **values}
    return validate({"preset": "tiny", "tokenizer": "char", **sections})


def ended(run: Run) -> dict[str, Tensor]:
    """Weights, their mean, and what the optimizers remember."""
    last = run.last()
    assert last is not None
    return {**load_file(last / "model.safetensors"), **load_file(last / "state.safetensors")}


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


def assert_observed(run: Run, notes: list[str] | None = None) -> None:
    seen = Layers(run.path)
    assert seen.steps == list(range(STEPS + 1)) and not seen.problems
    assert all("updates" in one.names for one in seen.seen[1:])
    assert not [note for note in notes or [] if "observing ended" in note]


@pytest.mark.parametrize("case", CASES)
def test_observed_and_not(case: str, text: Path, tmp_path: Path) -> None:
    chosen = config(text, CASES[case])
    notes: list[str] = []

    def listen(event: str, facts: Mapping[str, Any]) -> None:
        if event == "note":
            notes.append(facts["text"])

    plain = train(chosen, out=tmp_path, name="plain", quiet=True).run
    observed = train(chosen, out=tmp_path, name="observed", quiet=True, observer=attach, on_event=listen).run
    assert_observed(observed, notes)
    assert_same(ended(plain), ended(observed))
    rows = [[{k: v for k, v in row.items() if "second" not in k} for row in r.metrics()] for r in (plain, observed)]
    assert rows[0] == rows[1]


def test_observed_and_resumed(text: Path, tmp_path: Path) -> None:
    chosen = config(text, CASES["batch norm and dropout"])
    plain = train(chosen, out=tmp_path, name="plain", quiet=True).run
    short = chosen.model_copy(update={"train": chosen.train.model_copy(update={"steps": STEPS})})
    run = Run.create(tmp_path, "observed", short)

    def kill(trainer: Any) -> None:
        attach(trainer)
        step = trainer.step

        def some() -> Any:
            if trainer.progress.step == 9:
                raise KeyboardInterrupt
            return step()

        trainer.step = some

    with pytest.raises(KeyboardInterrupt):
        train(chosen, out=tmp_path, run=run, quiet=True, observer=kill)
    assert Layers(run.path).steps == list(range(10)), "it had got to step 9, and saved at step 6"
    resume(run.path, quiet=True, observer=attach)
    assert_observed(run)
    assert_same(ended(plain), ended(run))


@pytest.mark.slow
def test_observed_and_compiled(text: Path, tmp_path: Path) -> None:
    if not has_compiler("cpu"):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    chosen = config(text, {"train": {"compile": "on"}, "model": {"n_layers": 1, "layout": "pre(dropout=0.2)"}})
    before = counters["stats"]["unique_graphs"]
    plain = train(chosen, out=tmp_path, name="plain", quiet=True).run
    assert plain.config().train.compile == "on"
    graphs = counters["stats"]["unique_graphs"] - before
    observed = train(chosen, out=tmp_path, name="observed", quiet=True, observer=attach).run
    assert observed.config().train.compile == "on"
    assert_observed(observed)
    assert counters["stats"]["unique_graphs"] - before <= 2 * graphs, "after a look nothing is compiled again"
    assert_same(ended(plain), ended(observed))


class Convolved(nn.Module):
    """What disturbs easily: batch norm, dropout, an activation in place, and a buffer that counts passes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.LazyLinear(5),
        )
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes = self.passes + 1
        return self.net(x + 0.01 * torch.rand_like(x) + float(np.random.rand()))


def own_loop(out: Path | None, how: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    np.random.seed(3)
    x, y = torch.randn(8, 1, 6, 6), torch.randint(5, (8,))
    model = Convolved()
    model(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    called = torch.compile(model, backend="eager") if how == "compiled" else model
    watch = None
    if out is not None:
        probes: dict[str, Any] = {"pair": (x, y), "function": lambda: F.cross_entropy(model(x), y), "compiled": (x, y)}
        watch = observe(called, optimizer, probes.get(how), out=out, name="watched", steps=STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(called(x), y).backward()
        optimizer.step()
    if watch is not None:
        assert watch.step == STEPS
        watch.close()
    return model, torch.rand(4)


@pytest.mark.parametrize("how", ["pair", "function", "first batch", "compiled"])
def test_in_anyones_loop(how: str, tmp_path: Path) -> None:
    plain, random_after = own_loop(None, how)
    observed, after = own_loop(tmp_path, how)
    assert_same(plain.state_dict(), observed.state_dict())
    assert torch.equal(random_after, after), "not even the next random number is another"
    seen = Layers(tmp_path / "watched")
    assert seen.steps == list(range(STEPS + 1)) and not seen.problems
    assert {u.name: u.count for u in seen.units} == {"net.2": 6}, "the units of a convolution are its channels"
    assert ("activation_gradients" in seen.seen[-1].names) == (how != "first batch")
