"""Studies that train: verdicts, reports, and that nothing is lost when they are killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nanogpt.cli.base import app
from nanogpt.errors import RunError, UserError
from nanogpt.runs import Run
from nanogpt.study.conduct import pilot
from nanogpt.study.folder import Study, Unfinished
from nanogpt.study.plan import Plan
from nanogpt.study.pool import Pool
from nanogpt.study.reading import read
from nanogpt.study.report import facts
from nanogpt.training import checkpoint as checkpoints
from tests.studies import Simulated, fixed, quiet
from tests.studies import plan_of as plans_of

KILLS = 10
GO = """
import sys
from nanogpt.study.folder import Study
from nanogpt.study.pool import Pool
Study.open(sys.argv[1]).conduct(Pool(1, 1), lambda job, facts: None)
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"line {n} and {n * 7 % 13}\n" for n in range(400)))
    return str(path)


def plan_of(text: str, **fields: Any) -> Plan:
    settings = ["tokenizer=char", "model.dim=16", "model.n_layers=1", "model.context=16", "train.batch=4"]
    settings += ["train.steps=150", "train.checkpoint_every=10", "train.eval_every=75"]
    table: dict[str, Any] = {
        "name": "tiny",
        "question": "Does a hidden layer help?",
        "preset": "gpt-64",
        "set": [
            f"data.corpus={text}",
            *settings,
            "train.steps=150",
            "train.checkpoint_every=10",
            "train.eval_every=75",
        ],
        "arms": {"without": ["model.ffn=none"], "with": ["model.ffn=mlp"]},
        "control": "without",
        "seeds": 2,
        "noise": 0.001,
        "noise_from": "a guess",
        "margin": 0.05,
        "sweep": {"lr": [1e-3, 3e-3, 1e-2], "widen": 0},
    }
    return read({**table, **fields})


def said(study: Study) -> dict[str, Any]:
    """The report without what a clock or a process measured."""
    found = facts(study)
    for arm in found["arms"]:
        arm.pop("seconds"), arm.pop("memory")
    return found


@pytest.fixture(scope="module")
def whole(text: str, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that nobody disturbed."""
    study = Study.begin(plan_of(text), tmp_path_factory.mktemp("studies"), 1, 1)
    study.conduct(Pool(1, 1), quiet)
    return Study.open(study.path)


@pytest.mark.slow
def test_every_run_is_an_ordinary_run(whole: Study) -> None:
    run = whole.run("with", seed=2)
    assert Run.open(run.path).last() is not None
    assert run.config().seed == 2
    assert run.metrics()[-1]["step"] == 150
    score = whole.scores("with")[2]
    assert score.val_loss == min(row["val/loss"] for row in run.metrics() if "val/loss" in row)
    assert score.memory is None or score.memory > 0
    from nanogpt.api import load

    assert load(run.path).evaluate("test")["loss"] == pytest.approx(score.test_loss, rel=1e-6)


@pytest.mark.slow
def test_a_process_trains_one_run_after_the_other_as_each_alone(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting Python and torch takes longer than a small run: it is done once. What was before leaves no trace."""
    study = Study.begin(plan_of(text), tmp_path / "together", 1, 1)
    jobs = [study.fixed.job("without", 1001, 0.01), study.fixed.job("with", 1, 0.003)]
    alone = [replace(jobs[1], folder=str(tmp_path / "alone"))]
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a) or popen(*a, **k))
    after_another, apart = dict(Pool(1, 1).run(jobs, quiet)), dict(Pool(1, 1).run(alone, quiet))
    assert len(started) == 2
    tried, claimed = after_another.values()
    assert tried.test_loss is None and tried.test_bpb is None
    assert replace(claimed, seconds=0, memory=0) == replace(apart[alone[0]], seconds=0, memory=0)
    weights = [Run(Path(job.folder) / job.name).checkpoint("last") for job in (jobs[1], *alone)]
    one, other = (checkpoints.load(path).weights for path in weights)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_study_killed_ten_times_ends_in_the_same_report(whole: Study, text: str, tmp_path: Path) -> None:
    study = Study.begin(plan_of(text), tmp_path, 1, 1)
    command = [sys.executable, "-c", GO, str(study.path)]
    started = time.monotonic()
    for _ in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            before = _things(study.path)
            while process.poll() is None and _things(study.path) == before and time.monotonic() - started < 500:
                time.sleep(0.02)  # until it has done something that a kill could lose
            time.sleep(random.uniform(0, 0.4))
            process.kill()
    subprocess.run(command, check=True, timeout=600)
    assert said(Study.open(study.path)) == said(whole)


def _things(folder: Path) -> int:
    """Grows whenever a run begins, logs or ends."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "plan.json")


@pytest.mark.slow
def test_ctrl_c_saves_what_is_at_work_and_leaves_nobody_behind(text: str, tmp_path: Path) -> None:
    """Its first checkpoint of its own would come after 10,000 steps."""
    long = [*plan_of(text).set, "train.steps=100000", "train.eval_every=10000", "train.checkpoint_every=10000"]
    study = Study.begin(plan_of(text, sweep=None, set=long), tmp_path, 1, 1)
    job = study.fixed.job("without", 1, None)
    run, started = Run(Path(job.folder) / job.name), time.monotonic()
    with subprocess.Popen([sys.executable, "-c", GO, str(study.path)], stderr=subprocess.DEVNULL) as process:
        while not (run.path / "metrics.jsonl").exists() and time.monotonic() - started < 100:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    assert run.last() is not None
    with run.held():
        assert run.metrics()[-1]["step"] < 10000


@pytest.mark.slow
def test_a_study_that_is_done_runs_nothing_again(whole: Study) -> None:
    asked = []

    class Nobody:
        def run(self, jobs: Any, said: Any) -> Any:
            asked.extend(jobs)
            return {}

    Study.open(whole.path).conduct(Nobody(), quiet)
    assert not asked


@pytest.mark.slow
def test_the_command_ends_in_a_verdict_and_a_report(whole: Study) -> None:
    command = [sys.executable, "-m", "nanogpt", "study", "report", str(whole.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    verdict = whole.against_control[0]
    assert f"with: {verdict.sentence}" in done.stdout
    table = json.loads((whole.path / "report.json").read_text())
    assert table["against_control"][0]["word"] == verdict.word
    assert "## Each arm against without" in (whole.path / "report.md").read_text()
    page = (whole.path / "report.html").read_text()
    assert 'id="forest"' in page and 'id="curves"' in page and 'id="cost"' in page
    assert "http://" not in page.partition("<script>")[0]


@pytest.mark.slow
def test_a_run_that_diverges_counts_as_the_uniform_guess(text: str, tmp_path: Path) -> None:
    import math

    arms = {"calm": [], "wild": ["optim.optimizer=sgd(lr=1e18)", "optim.clip=0"]}
    study = Study.begin(plan_of(text, arms=arms, control="calm", sweep=None), tmp_path, 1, 1)
    study.conduct(Pool(1, 1), quiet)
    wild = Study.open(study.path).scores("wild")
    assert all(score.diverged for score in wild.values())
    assert {score.test_loss for score in wild.values()} == {math.log(len(set(Path(text).read_text())))}
    assert any("diverged" in line for line in facts(Study.open(study.path))["not_controlled"])


@pytest.mark.slow
def test_a_run_that_cannot_go_on_stops_the_study_in_one_line(text: str, tmp_path: Path) -> None:
    study = Study.begin(plan_of(text, sweep=None), tmp_path, 1, 1)
    job = study.fixed.job("with", 1, None)
    broken = job.__class__(**{**vars(job), "overrides": (*job.overrides, "train.batch=0")})
    with pytest.raises(UserError, match=r"with-seed1: train\.batch=0"):
        list(Pool(1, 1).run([broken], quiet))


def test_another_plan_in_the_same_folder_is_refused(text: str, tmp_path: Path) -> None:
    Study.begin(plan_of(text), tmp_path, 1, 1)
    with pytest.raises(UserError, match="another seeds; a changed plan is a new study"):
        Study.begin(plan_of(text, seeds=3), tmp_path, 1, 1)


def test_what_is_not_there_is_said_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a study"):
        Study.open(tmp_path)
    study = Study.begin(plan_of(text), tmp_path, 1, 1)
    with pytest.raises(Unfinished, match="has not run yet"):
        facts(study)
    score = study.path / "scores" / f"{study.fixed.job('without', 1001, 0.001).name}.json"
    for damaged in ("{", "{}", "3", '{"val_loss": "low"}'):
        score.write_text(damaged)
        with pytest.raises(RunError, match="damaged"):
            facts(Study.open(study.path))
    (study.path / "report.json").write_text("{}")
    listed = CliRunner().invoke(app, ["study", "list", "--out", str(tmp_path)])
    assert listed.exit_code == 0 and "damaged" in listed.output
    for damaged in ("{", "{}", "[]", '{"plan": {}, "arms": {}, "processes": 1, "threads": 1}'):
        (study.path / "plan.json").write_text(damaged)
        with pytest.raises(RunError, match="damaged"):
            Study.open(study.path)


def test_a_pilot_that_measures_no_noise_says_so() -> None:
    """Two arms that do the same, or are counted and not trained."""
    plan = plans_of(noise=None, noise_from="", pilot=2)
    with pytest.raises(UserError, match="a and b differ by 0 with every seed, so it measured no noise"):
        pilot(fixed(plan), Simulated(np.random.default_rng(), noise=0.0), quiet)
