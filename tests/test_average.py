"""The running mean of weights: its closed form, where it is used, and that a resumed run has it bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import nanogpt as ng
from nanogpt.config import RunConfig, validate
from nanogpt.errors import UserError
from nanogpt.runs import Run
from nanogpt.training.average import Average
from nanogpt.training.loop import resume, train
from nanogpt.training.trainer import Trainer


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., RunConfig]:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {n} says {n * n % 97} and {'again' * (n % 5)}.\n" for n in range(300)))

    def make(ema: float = 0.9, steps: int = 10, every: int = 5) -> RunConfig:
        return validate(
            {
                "preset": "t",
                "tokenizer": "byte",
                "data": {"corpus": str(path), "val": 0.1},
                "model": {"dim": 16, "n_layers": 1, "context": 16, "ffn": "mlp(hidden=32)", "norm": "rmsnorm"},
                "optim": {"optimizer": "adamw(lr=0.01)", "ema": ema},
                "train": {"steps": steps, "batch": 4, "eval_every": every, "threads": 1},
            }
        )

    return make


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_the_mean_is_its_closed_form(decay: float) -> None:
    """a_T = sum over t of w_t (1 - d_t) times the product of all later d, d_t = min(decay, (1 + t) / (10 + t))."""
    model = nn.Linear(3, 2)
    average, seen = Average(model, decay), []
    for step in range(1, 41):
        for p in model.parameters():
            p.data.normal_()
        average.update(step)
        seen.append(model.weight.detach().clone())
    d = [0.0, *(min(decay, (1 + t) / (10 + t)) for t in range(2, 41))]
    wanted = torch.zeros(2, 3)
    for t, w in enumerate(seen):
        share = 1 - d[t]
        for later in d[t + 1 :]:
            share *= later
        wanted += share * w
    torch.testing.assert_close(average.weights["weight"], wanted)
    before = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), wanted)
    assert torch.equal(model.weight, before)


def test_without_a_decay_nothing_is_kept() -> None:
    model = nn.Linear(3, 2)
    average = Average(model, 0.0)
    average.update(1)
    assert not average.weights
    with average.in_place():
        pass


def test_buffers_stay_as_they_are() -> None:
    model = nn.BatchNorm1d(3)
    average = Average(model, 0.5)
    for step in range(1, 4):
        model(torch.randn(8, 3))
        model.weight.data.normal_()
        average.update(step)
    running = model.running_mean.clone()
    with average.in_place():
        assert torch.equal(model.running_mean, running)
    assert average.weights.keys() == {"weight", "bias"}


def raw_of(run: Run, step: int) -> dict[str, torch.Tensor]:
    state = load_file(run.path / "checkpoints" / f"step-{step:06d}" / "state.safetensors")
    return {k.removesuffix("/raw"): v for k, v in state.items() if k.endswith("/raw")}


def test_it_changes_no_step_and_is_what_is_evaluated_and_loaded(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = []
    step = Trainer.step
    trained: list[dict[str, torch.Tensor]] = []

    def watched(self: Trainer) -> dict[str, object]:
        row = step(self)
        if self.config.optim.ema:
            trained.append({n: p.detach().clone() for n, p in self.model.named_parameters()})
        return row

    monkeypatch.setattr(Trainer, "step", watched)

    def sampler(model: nn.Module, *_: object) -> str:
        sampled.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return ""

    plain = train(config(ema=0.0), out=tmp_path, name="plain", quiet=True).run
    run = train(config(), out=tmp_path, name="mean", quiet=True, sampler=sampler).run
    last = run.last()
    assert last is not None
    mean = load_file(last / "model.safetensors")
    raw = raw_of(run, 10)
    unaveraged = load_file(plain.last() / "model.safetensors")  # type: ignore[operator]
    assert all(torch.equal(raw[k], unaveraged[k]) for k in raw) and raw.keys() == unaveraged.keys()
    assert not raw_of(plain, 10)
    a = trained[0]
    for t, w in enumerate(trained[1:], 2):
        d = min(0.9, (1 + t) / (10 + t))
        a = {k: d * a[k] + (1 - d) * w[k] for k in a}
    for name in a:
        torch.testing.assert_close(mean[name], a[name])
        assert torch.equal(sampled[-1][name], mean[name])
        assert not torch.equal(raw[name], mean[name])
    row = [r for r in run.metrics() if "val/loss" in r][-1]
    assert ng.load(run.path, "last").evaluate("val")["loss"] == row["val/loss"]
    assert [r["train/loss"] for r in run.metrics()] == [r["train/loss"] for r in plain.metrics()]
    assert row["val/loss"] != [r for r in plain.metrics() if "val/loss" in r][-1]["val/loss"]


def test_resuming_is_bitwise(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    """Weights that are trained, their mean, and what was logged."""
    straight = train(config(steps=12, every=4), out=tmp_path, name="straight", quiet=True).run
    broken = train(config(steps=12, every=4), out=tmp_path, name="broken", quiet=True, on_event=stop_at(8))
    assert (broken.ending, broken.step) == ("interrupted", 8)
    resume(broken.run.path, quiet=True)
    for file in ("model.safetensors", "state.safetensors"):
        one, two = (load_file(r.path / "checkpoints" / "step-000012" / file) for r in (straight, broken.run))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    losses = [[r.get("val/loss") for r in run.metrics()] for run in (straight, broken.run)]
    assert losses[0] == losses[1]
    with pytest.raises(UserError, match=r"optim\.ema=0\.5: this run began with 0\.9"):
        resume(broken.run.path, ["optim.ema=0.5"], quiet=True)


def stop_at(step: int) -> Callable[[str, dict[str, object]], None]:
    """Ctrl-C, as it were."""
    import os
    import signal

    def listen(event: str, facts: dict[str, object]) -> None:
        if event == "step" and facts["step"] == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    return listen


@pytest.mark.parametrize("value, said", [("1", "must be below 1"), ("-0.1", "must be at least 0")])
def test_wrong_decays_are_refused(config: Callable[..., RunConfig], value: str, said: str) -> None:
    from nanogpt.config import change

    with pytest.raises(UserError, match=rf"optim\.ema={value}: {said}"):
        change(config(), [f"optim.ema={value}"])
