"""The loop: what it computes, what it writes, and what it says when it cannot go on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from nanogpt.config import RunConfig, validate
from nanogpt.cost import cost
from nanogpt.data.batches import Sampler, windows
from nanogpt.data.corpora import open_corpus
from nanogpt.errors import RunError, UserError
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.runs import Run
from nanogpt.training import machine, trainer
from nanogpt.training.card import Memory, card
from nanogpt.training.evaluate import evaluate
from nanogpt.training.interrupt import Interrupt
from nanogpt.training.loop import resume, train
from nanogpt.training.machine import Machine
from nanogpt.training.nonfinite import first_bad_module
from nanogpt.training.progress import Display, Lines, duration
from nanogpt.training.trainer import Trainer

PLAIN = Machine("cpu", "fp32", "off", 2)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text with something to learn: lines that count."""
    path = tmp_path_factory.mktemp("text") / "count.txt"
    path.write_text("".join(f"line {n} and {n * 7 % 13}\n" for n in range(900)))
    return path


@pytest.fixture
def config(text: Path) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        """`config(train={"steps": 5}, model={...})`, over a model that trains in moments."""
        sections: dict[str, Any] = {
            "preset": "tiny",
            "tokenizer": "char",
            "data": {"corpus": str(text)},
            "model": {
                "dim": 16,
                "n_layers": 2,
                "context": 16,
                "position": "rotary",
                "mixer": "attention(heads=2)",
                "ffn": "mlp(hidden=32)",
                "norm": "rmsnorm",
            },
            "optim": {"optimizer": "adamw(lr=0.01)", "schedule": "cosine(warmup=2)"},
            "train": {"steps": 12, "batch": 4, "eval_every": 6, "threads": 1},
        }
        for section, values in changes.items():
            if isinstance(values, dict):
                sections[section] = {**sections[section], **values}
            else:
                sections[section] = values
        return validate(sections)

    return make


def weights(run: Run) -> dict[str, torch.Tensor]:
    last = run.last()
    assert last is not None
    return load_file(last / "model.safetensors")


def same(a: Run, b: Run) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# ---- what it computes


def test_training_is_what_a_few_lines_of_torch_say(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    """The same batches, model and rule in the plainest loop end in the same weights."""
    run = train(config(optim={"clip": 0.5}), out=tmp_path, name="a", quiet=True).run
    resolved = run.config()
    material = trainer_of(run).material
    model = LanguageModel(resolved.model)
    model.initialise(resolved.seed)
    both = [[p for p in model.parameters() if p.dim() >= 2], [p for p in model.parameters() if p.dim() < 2]]
    groups = [{"params": p, "weight_decay": d} for p, d in zip(both, (0.1, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    batches = Sampler(material.splits["train"], 4, 16, "stream", resolved.seed)
    for step, row in zip(range(12), run.metrics(), strict=True):
        lr = 0.01 * (step + 1) / 3 if step < 2 else 0.001 + 0.5 * (1 + math.cos(math.pi * (step - 2) / 10)) * 0.009
        batch = batches.batch(step)
        logits = model(torch.from_numpy(batch.tokens_BT))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets_BT).flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        assert row["train/loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
        assert row["lr"] == pytest.approx(lr)
        assert (row["step"], row["tokens"]) == (step + 1, (step + 1) * 64)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(weights(run)[name], parameter.detach(), rtol=1e-3, atol=1e-5)


def trainer_of(run: Run) -> Trainer:
    """A trainer over a run, as it would be at its first step."""
    from nanogpt.training.setup import prepare
    from nanogpt.training.world import World

    with run.own_parts():
        return Trainer(run, prepare(run, run.config(), World()), World(), [])


@pytest.mark.parametrize("batching", ["stream", "pad", "pack"])
def test_how_a_batch_is_cut_changes_nothing(
    tmp_path: Path, text: Path, config: Callable[..., RunConfig], batching: str
) -> None:
    """Also where micro-batches hold different numbers of scored tokens: the sum is divided by the whole batch's."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for n, line in enumerate(text.read_text().splitlines()[:120]):
        (folder / f"{n}.txt").write_text(line * (n % 4 + 1))
    rows = []
    for accumulate in (1, 4):
        changes = {
            "data": {"corpus": str(folder), "batching": batching},
            "train": {"batch": 8, "accumulate": accumulate},
        }
        rows.append(train(config(**changes), out=tmp_path, quiet=True).run.metrics())
    for one, four in zip(*rows, strict=True):
        for key in ("train/loss", "grad_norm", "tokens"):
            assert four[key] == pytest.approx(one[key], rel=2e-4)


def test_it_learns(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    summary = train(config(train={"steps": 150, "batch": 8, "eval_every": 50}), out=tmp_path, quiet=True)
    losses = [row["val/loss"] for row in summary.run.metrics() if "val/loss" in row]
    untrained = math.log(summary.run.config().model.vocab_size)
    assert losses[-1] < losses[0] < untrained / 2 and summary.row["val/loss"] == losses[-1]


def test_evaluation_is_complete_and_repeatable(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    """The mean over every token of the split, here summed one window at a time by hand; dropout is off."""
    made = train(config(model={"layout": "pre(dropout=0.5)"}), out=tmp_path, quiet=True).run
    job = trainer_of(made)
    tokens = job.material.splits["val"]
    job.model.train()
    first, again = (evaluate(job.model, tokens, batching="stream", machine=PLAIN) for _ in range(2))
    assert first == again and job.model.training
    nats, scored = 0.0, 0
    job.model.eval()
    for batch in windows(tokens, 1, 16, "stream"):
        keep = batch.targets_BT[0] >= 0
        with torch.no_grad():
            log_p = job.model(torch.from_numpy(batch.tokens_BT))[0].double().log_softmax(-1)
        nats -= sum(log_p[t, batch.targets_BT[0, t]].item() for t in np.flatnonzero(keep))
        scored += int(keep.sum())
    assert first.tokens == scored == len(tokens) - 1
    assert first.loss == pytest.approx(nats / scored, rel=1e-5)
    assert first.bpb == pytest.approx(nats / math.log(2) / tokens.n_bytes, rel=1e-5)


def test_the_evaluation_of_training_is_the_one_of_its_checkpoint(
    tmp_path: Path, config: Callable[..., RunConfig]
) -> None:
    run = train(config(), out=tmp_path, quiet=True).run
    job = trainer_of(run)
    job.model.load_state_dict(weights(run))
    assert job.evaluate().loss == run.metrics()[-1]["val/loss"]


def test_samples_evaluations_and_dropout_leave_the_weights_alone(
    tmp_path: Path, config: Callable[..., RunConfig]
) -> None:
    """The same steps, with and without interruptions that draw random numbers."""
    dropout = {"layout": "pre(dropout=0.3)"}
    plain = train(config(model=dropout, train={"eval_every": 12}), out=tmp_path, quiet=True).run

    def sampler(model: Any, tokenizer: Any, documents: bool) -> str:
        assert not model.training
        return tokenizer.decode(torch.randint(5, (9,)).tolist())

    noisy = train(config(model=dropout, train={"eval_every": 1}), out=tmp_path, quiet=True, sampler=sampler).run
    assert same(plain, noisy)
    assert [row["step"] for row in noisy.samples()] == list(range(1, 13))
    assert not same(plain, train(config(model=dropout, seed=2), out=tmp_path, quiet=True).run)


def test_early_stopping_keeps_the_best(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.4, 1.0])
    real = trainer.evaluate

    def scripted(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        return type(found)(next(losses), found.bpb, found.tokens)

    monkeypatch.setattr(trainer, "evaluate", scripted)
    stopping = config(train={"steps": 50, "eval_every": 3, "patience": 2})
    summary = train(stopping, out=tmp_path, name="a", quiet=True)
    assert (summary.ending, summary.step) == ("stopped early", 12)
    assert [p.name for p in summary.run.checkpoints()] == ["step-000006", "step-000012"]
    assert summary.run.best() == summary.run.path / "checkpoints" / "step-000006"
    said: list[str] = []
    again = resume(
        summary.run.path, ["train.steps=60"], quiet=True, on_event=lambda _, facts: said.append(facts.get("text", ""))
    )
    assert (again.ending, again.step) == ("stopped early", 12)  # it stays stopped ...
    assert said[-1] == "stopped early at step 12; go on with train.patience=0"
    assert (
        resume(summary.run.path, ["train.patience=0", "train.steps=13"], quiet=True).step == 13
    )  # ... until told otherwise


# ---- going on


def test_more_steps_can_be_added(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    constant = {"schedule": "constant"}
    short = train(config(optim=constant), out=tmp_path, quiet=True).run
    resume(short.path, ["train.steps=20"], quiet=True)
    long = train(config(optim=constant, train={"steps": 20}), out=tmp_path, quiet=True).run
    assert same(short, long)
    assert [row["step"] for row in short.metrics()] == list(range(1, 21))
    assert short.config().train.steps == 20


def test_resuming_refuses_what_would_change_the_past(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    run = train(config(), out=tmp_path, quiet=True).run
    before = (run.path / "config.json").read_bytes()
    for override, said in [
        ("model.dim=32", "model.dim=32: this run began with 16"),
        ("train.batch=8", "train.batch=8"),
        ("seed=3", "seed=3"),
        ("train.steps=5", "train.steps=5: this run has already taken 12"),
    ]:
        with pytest.raises(UserError, match=said):
            resume(run.path, [override], quiet=True)
    assert (run.path / "config.json").read_bytes() == before


def test_a_finished_run_stays_finished(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    run = train(config(), out=tmp_path, quiet=True).run
    before = weights(run), run.metrics()
    said: list[str] = []
    summary = resume(run.path, quiet=True, on_event=lambda event, facts: said.append(facts.get("text", "")))
    assert summary.ending == "finished" and said[-1] == "all 12 steps are taken; go on with train.steps=24"
    assert run.metrics() == before[1] and all(torch.equal(weights(run)[k], v) for k, v in before[0].items())


def test_resolving_twice_changes_nothing(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    run = train(config(optim={"optimizer": "muon", "schedule": "wsd"}), out=tmp_path, quiet=True).run
    first = run.config()
    assert "weight_decay=" in first.optim.optimizer and "decay=" in first.optim.schedule
    assert first.model.vocab_size > 0 and first.data.batching == "stream" and first.train.precision != "auto"
    assert trainer_of(run).config == first


def test_another_text_is_refused_on_resuming(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    own = tmp_path / "own.txt"
    own.write_text("some lines\nof text\n" * 99)
    run = train(config(data={"corpus": str(own)}), out=tmp_path, quiet=True).run
    own.write_text("other lines\nof text\n" * 99)
    with pytest.raises(UserError, match="the corpus is not the one that this run began with"):
        resume(run.path, ["train.steps=14"], quiet=True)
    assert run.config().train.steps == 12


def test_a_text_may_have_moved(tmp_path: Path, config: Callable[..., RunConfig], text: Path) -> None:
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_bytes(text.read_bytes())
    run = train(config(data={"corpus": str(old)}), out=tmp_path / "runs", quiet=True).run
    old.rename(new)
    assert resume(run.path, [f"data.corpus={new}", "train.steps=14"], quiet=True).step == 14
    assert run.config().data.corpus == str(new)
    (tmp_path / "folder").mkdir()
    new.rename(tmp_path / "folder" / "new.txt")  # the same bytes, but as one document
    with pytest.raises(UserError, match="split by another rule"):
        resume(run.path, [f"data.corpus={tmp_path / 'folder'}"], quiet=True)
    new.write_text(text.read_text() + "more\n")
    with pytest.raises(UserError, match="the corpus is not the one"):
        resume(run.path, [f"data.corpus={new}"], quiet=True)


def test_a_folder_is_the_same_text_while_it_is_trained_on(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("".join(f"{name} {n}\n" for n in range(500)))
    around = config(data={"corpus": str(tmp_path)})
    one, two = (train(around, out=tmp_path / "runs", quiet=True).run for _ in range(2))
    assert resume(one.path, ["train.steps=14"], quiet=True).step == 14
    assert one.environment()["corpus_sha256"] == two.environment()["corpus_sha256"]
    assert open_corpus(around.data).sha256 == one.environment()["corpus_sha256"]


def test_a_device_that_is_gone_says_how_to_go_on(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    run = train(config(), out=tmp_path, quiet=True).run
    run.save_config(run.config().model_copy(update={"train": config(train={"device": "cuda:77"}).train}))
    with pytest.raises(UserError, match=r"train\.device=cuda:77: .*; or --resume .* train\.device=auto"):
        resume(run.path, quiet=True)


def test_starting_from_another_runs_weights(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    first = train(config(), out=tmp_path, name="first", quiet=True).run
    gentle = {"optimizer": "sgd(lr=1e-9)"}
    second = train(config(seed=5, optim=gentle), out=tmp_path, name="second", source=first.path, quiet=True).run
    for name, tensor in weights(second).items():
        torch.testing.assert_close(tensor, weights(first)[name])
    assert (second.path / "tokenizer.json").read_bytes() == (first.path / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match="tokenizer=byte"):
        train(config(tokenizer="byte"), out=tmp_path, name="third", source=first.path, quiet=True)
    with pytest.raises(UserError, match=r"is \[.*\], the model's is"):
        train(config(model={"dim": 32}), out=tmp_path, name="third", source=first.path, quiet=True)


# ---- refusals and accidents


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model": {"mixer": "atention"}}, "model.mixer.*did you mean 'attention'"),
        ({"optim": {"optimizer": "adamw(rate=1)"}}, "optim.optimizer: adamw: no knob 'rate'"),
        ({"optim": {"schedule": "cosine(final=3)"}}, "optim.schedule: cosine: final=3.0"),
        ({"optim": {"optimizer": "sgd(lr=1e30)"}}, r"optim.optimizer: sgd: lr=1e\+30 must be at most 1e\+18"),
        ({"train": {"accumulate": 3}}, "train.batch=4 cannot be cut into train.accumulate=3.*nearest: train.batch=3"),
        ({"tokenizer": "chars"}, "'chars'; did you mean 'char'"),
        ({"model": {"vocab_size": 3}}, "model.vocab_size=3: the tokenizer has"),
        ({"data": {"corpus": "no/such.txt"}}, "no/such.txt"),
        ({"train": {"device": "cuda:77"}}, "train.device=cuda:77"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_no_folder(
    tmp_path: Path, config: Callable[..., RunConfig], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        train(config(**changes), out=tmp_path, name="a", quiet=True)
    assert caught.value.status == 2 and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("why", ["shape", "damaged", "memory"])
def test_what_ends_before_its_first_step_leaves_no_folder(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    source = train(config(), out=tmp_path / "old", name="source", quiet=True).run
    changes: dict[str, Any] = {"model": {"dim": 32}} if why == "shape" else {}
    if why == "damaged":
        last = source.last()
        assert last is not None
        (last / "model.safetensors").write_bytes(b"x")
    if why == "memory":
        monkeypatch.setattr(Trainer, "step", lambda self: (_ for _ in ()).throw(RuntimeError("out of memory")))
    else:  # refused before the data is touched
        monkeypatch.setattr("nanogpt.training.loop.prepare", lambda *_: pytest.fail("data was prepared"))
    with pytest.raises((RunError, RuntimeError)):
        train(config(**changes), out=tmp_path / "new", name="a", source=source.path, quiet=True)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("first", [True, False])
def test_ctrl_c_and_work_keep_the_folder(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    def plant(job: Trainer) -> None:
        raise KeyboardInterrupt if first else RuntimeError("out of memory")

    planted(monkeypatch, 1 if first else 2, plant)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        train(config(), out=tmp_path, name="a", quiet=True)
    monkeypatch.undo()
    assert resume(tmp_path / "a", quiet=True).step == 12


def test_a_validation_split_that_is_too_short_is_refused_before_training(
    tmp_path: Path, config: Callable[..., RunConfig]
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("".join(f"line {n}\n" for n in range(50)) + "x")
    with pytest.raises(UserError, match=r"short\.txt: the val split has 1 token, at least 2 .* larger data\.val"):
        train(config(data={"corpus": str(short), "val": 1e-9}), out=tmp_path / "runs", quiet=True)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_tokenizer_that_loses_something_says_so_once(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt.tokenizers.tables.CharTokenizer.note", "capitals are lost")
    said: list[tuple[str, str]] = []
    train(config(), out=tmp_path, quiet=True, on_event=lambda e, facts: said.append((e, str(facts.get("text")))))
    notes = [n for n, (_, text) in enumerate(said) if "capitals are lost" in text]
    assert len(notes) == 1 and notes[0] < [event for event, _ in said].index("card")


def test_the_card_counts_its_threads(config: Callable[..., RunConfig]) -> None:
    made = config()
    model = resolve_model(made.model.model_copy(update={"vocab_size": 40}))
    made = made.model_copy(update={"model": model})
    for threads, words in ((1, "cpu, 1 thread;"), (2, "cpu, 2 threads;")):
        one = Machine("cpu", "fp32", "off", threads)
        assert words in card(made, cost(model), Memory(1, 1, 1, 1), one)[-1]


def planted(monkeypatch: pytest.MonkeyPatch, at: int, plant: Callable[[Trainer], None]) -> None:
    """Do something to the model just before step `at` (counted from 1)."""
    real = Trainer.step

    def step(self: Trainer) -> dict[str, Any]:
        if self.progress.step == at - 1:
            plant(self)
        return real(self)

    monkeypatch.setattr(Trainer, "step", step)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_module(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plant(job: Trainer) -> None:
        with torch.no_grad():
            next(p for n, p in job.model.named_parameters() if n.startswith("blocks.1.ffn.")).fill_(math.inf)

    planted(monkeypatch, 9, plant)
    with pytest.raises(
        RunError, match=r"the loss is not finite in step 9: .* is blocks\.1\.ffn\..*step-000006 is kept"
    ) as caught:
        train(config(), out=tmp_path, name="a", quiet=True)
    assert caught.value.status == 1 and "\n" not in str(caught.value)
    run = Run.open(tmp_path / "a")
    assert [p.name for p in run.checkpoints()] == ["step-000006"]
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    assert [row["step"] for row in run.metrics()] == list(range(1, 9))


def test_a_validation_loss_that_is_not_finite_names_the_module_and_what_is_kept(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer.evaluate

    def broken(self: Trainer) -> Any:
        if self.progress.step == 12:
            with torch.no_grad():
                next(p for n, p in self.model.named_parameters() if n.startswith("blocks.1.ffn.")).fill_(math.inf)
        return real(self)

    monkeypatch.setattr(Trainer, "evaluate", broken)
    said = r"the validation loss is not finite after step 12: .* is blocks\.1\.ffn\..*step-000006 is kept"
    with pytest.raises(RunError, match=said):
        train(config(), out=tmp_path, name="a", quiet=True)


def test_a_gradient_that_is_not_finite_names_its_parameter(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plant(job: Trainer) -> None:
        victim = next(p for n, p in job.model.named_parameters() if n == "embed.weight")
        victim.register_hook(lambda gradient: gradient * math.nan)

    planted(monkeypatch, 3, plant)
    with pytest.raises(RunError, match=r"the gradient is not finite in step 3: .* of embed\.weight; no checkpoint"):
        train(config(), out=tmp_path, quiet=True)


def test_the_innermost_bad_module_is_named() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))
    x = torch.ones(1, 2)
    assert first_bad_module(model, lambda: model(x)) is None
    torch.nn.init.constant_(model[1][0].weight, math.nan)
    assert first_bad_module(model, lambda: model(x)) == "1.0 (Linear)"
    assert not model[0]._forward_hooks


def test_a_real_divergence_is_caught_before_the_weights_are_touched(
    tmp_path: Path, config: Callable[..., RunConfig]
) -> None:
    wild = config(optim={"optimizer": "sgd(lr=1e18)", "schedule": "constant", "clip": 0}, train={"checkpoint_every": 1})
    with pytest.raises(RunError, match="is not finite"):
        train(wild, out=tmp_path, name="a", quiet=True)


DRIVER = """
import sys, json
from pathlib import Path
from nanogpt.config import validate
from nanogpt.training.loop import train, resume
if __name__ == "__main__":
    how, path, steps = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if how == "resume":
        summary = resume(path, steps)
    else:
        summary = train(validate(json.loads(Path(how).read_text())), out=path.parent, name=path.name)
    print(summary.ending)
    sys.exit(130 if summary.ending == "interrupted" else 0)
"""


def start_driver(tmp_path: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, "-u", str(tmp_path / "driver.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_at_a_steps_end_and_the_run_goes_on_as_if_nothing_had_been(
    tmp_path: Path, config: Callable[..., RunConfig], number: signal.Signals
) -> None:
    (tmp_path / "c.json").write_text(json.dumps(config(train={"steps": 3000, "eval_every": 3000}).model_dump()))
    process = start_driver(tmp_path, tmp_path / "c.json", tmp_path / "a")
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("step"):
        assert line, "it ended before its first step"
    process.send_signal(number)
    rest, _ = process.communicate()
    assert process.returncode == 130 and rest.rstrip().endswith("interrupted"), rest
    run = Run.open(tmp_path / "a")
    last = run.last()
    assert last is not None
    step = int(last.name[5:])
    assert 0 < step < 3000 and run.metrics()[-1]["step"] == step
    resume(run.path, [f"train.steps={step + 5}"], quiet=True)
    assert [row["step"] for row in run.metrics()] == list(range(1, step + 6))


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    """Rows shared between two processes: the same losses and weights as one, to rounding; one writes."""
    made = config(train={"accumulate": 2, "steps": 8, "eval_every": 4, "threads": 1}, model={"layout": "pre"})
    (tmp_path / "c.json").write_text(json.dumps(made.model_dump()))
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29000 + os.getpid() % 999)}
    processes = [
        start_driver(tmp_path, tmp_path / "c.json", tmp_path / "two", RANK=str(n), **together) for n in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    two = Run.open(tmp_path / "two")
    one = train(made, out=tmp_path, name="one", quiet=True).run
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        for key in ("train/loss", "grad_norm", "tokens", "val/loss"):
            assert a.get(key, 0.0) == pytest.approx(b.get(key, 0.0), rel=1e-3)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(two)[name], rtol=1e-2, atol=1e-4)


# ---- the machine


def test_choices_follow_from_the_run_and_not_from_the_clock(
    config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config().train
    small = machine.choose(wanted, dim=64, flops=1e9)
    assert small == machine.choose(wanted, dim=64, flops=1e9) and small.compile == "off"
    monkeypatch.setattr(machine, "choose_device", lambda wanted, local_rank=0: "cpu")
    monkeypatch.setattr(machine, "has_compiler", lambda kind: True)
    monkeypatch.setattr(machine, "bf16_kind", lambda: "AVX512_BF16")
    assert machine.choose(wanted, dim=512, flops=1e15).compile == "off"
    monkeypatch.setattr(machine, "bf16_kind", lambda: "AMX")
    assert machine.choose(wanted, dim=512, flops=1e15).compile == "on"
    assert machine.choose(wanted, dim=512, flops=1e15, loops=True).compile == "off"
    monkeypatch.setattr(machine, "has_compiler", lambda kind: False)
    without = machine.choose(wanted, dim=512, flops=1e15)
    assert without.compile == "off" and "no C++ compiler" in without.reasons["compile"]
    monkeypatch.setattr(machine, "bf16_kind", lambda: "AMX")
    assert [machine.choose(wanted, dim=d, flops=1).precision for d in (64, 512)] == ["fp32", "bf16"]
    monkeypatch.setattr(machine, "bf16_kind", lambda: None)
    assert machine.choose(wanted, dim=512, flops=1).precision == "fp32"


def test_bf16_trains_and_keeps_fp32_weights(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    low, full = (train(config(train={"precision": p}), out=tmp_path, quiet=True).run for p in ("bf16", "fp32"))
    assert all(tensor.dtype == torch.float32 for tensor in weights(low).values())
    losses = [[row["train/loss"] for row in run.metrics()] for run in (low, full)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.03)


def test_where_compiling_fails_the_run_goes_on_and_says_so(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no such compiler\nand a long trace")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(machine, "has_compiler", lambda kind: True)
    said: list[str] = []
    summary = train(
        config(train={"compile": "on"}),
        out=tmp_path,
        quiet=True,
        on_event=lambda event, facts: said.append(facts.get("text", "")),
    )
    assert "cannot compile (no such compiler); going on without" in said
    assert summary.run.config().train.compile == "off"
    assert same(summary.run, train(config(), out=tmp_path, quiet=True).run)


@pytest.mark.slow
def test_a_compiled_run_is_the_same_run(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    if not machine.has_compiler("cpu"):
        pytest.skip("no C++ compiler on this machine")
    said: list[str] = []
    counters.clear()
    fast = train(
        config(train={"compile": "on"}, model={"n_layers": 1}),
        out=tmp_path,
        quiet=True,
        on_event=lambda event, facts: said.append(facts.get("text", "")),
    ).run
    assert counters["stats"]["unique_graphs"] == 1  # compiled once, before the first step
    plain = train(config(train={"compile": "off"}, model={"n_layers": 1}), out=tmp_path, quiet=True).run
    assert any(line.startswith("compiled in") for line in said) and fast.config().train.compile == "on"
    for a, b in zip(fast.metrics(), plain.metrics(), strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-3)


# ---- what is said


def test_plain_lines_and_the_live_display(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    from rich.console import Console

    lines: list[str] = []
    console = Console(force_terminal=True, width=100, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    plain, live = Lines(lines.append), Display(console)

    def both(event: str, facts: Any) -> None:
        plain(event, facts)
        live(event, facts)

    train(config(), out=tmp_path, quiet=True, on_event=both, sampler=lambda model, tokenizer, documents: "a sample")
    console.file.close()
    text = "\n".join(lines)
    for wanted in (
        "parameters: embed",
        "FLOP a token",
        "memory",
        "machine    cpu, 1 thread",
        "step 12/12",
        "val ",
        "bpb ",
        "tokens/s",
        "0s left",
        "--- sample at step 12\na sample",
    ):
        assert wanted in text, wanted
    shown = console.export_text()
    assert "12/12" in shown and "a sample" in shown and "FLOP a token" in shown


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_nobody_reading_is_no_reason_to_stop(error: Exception) -> None:
    calls: list[str] = []

    def out(text: str) -> None:
        calls.append(text)
        raise error

    listen = Lines(out)
    listen("note", {"text": "one"})
    listen("note", {"text": "two"})
    assert calls == ["one"]


def test_letters_that_the_output_has_not_are_replaced() -> None:
    said: list[str] = []

    def latin(text: str) -> None:
        said.append(text.encode("latin-1").decode("latin-1"))

    Lines(latin)("note", {"text": "né 世"})
    assert said == ["n? ?"]


def test_a_closed_pipe_lets_the_run_finish(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "config.json").write_text(json.dumps(config().model_dump()))
    job = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "config.json"), str(tmp_path / "a")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stdout is not None and job.stderr is not None
    job.stdout.close()
    said = job.stderr.read()
    job.stderr.close()
    assert (job.wait(), said) == (0, "")
    last = Run(tmp_path / "a").last()
    assert last is not None and last.name == "step-000012"


def test_the_first_ctrl_c_is_answered_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        assert capfd.readouterr().err.strip() == "finishing this step, then saving; Ctrl-C again quits now"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_durations() -> None:
    assert [duration(s) for s in (-1, 42.4, 185, 7620)] == ["0s", "42s", "3m05s", "2h07m"]
