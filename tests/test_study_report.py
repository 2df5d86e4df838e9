"""What a report says: endings, the interval beside a verdict, what the arms are, what a comparison is for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from nanogpt.cli.base import app
from nanogpt.study.conduct import planned
from nanogpt.study.execution import Job, Score
from nanogpt.study.folder import Study
from nanogpt.study.plan import Check
from nanogpt.study.progress import Count, Lines
from nanogpt.study.report import _check, facts, markdown, reach_lines
from nanogpt.study.statistics import bootstrap
from nanogpt.study.verdict import BETTER, EQUIVALENT, UNKNOWN, WORSE, arms_against_control, decide, reach
from nanogpt.views.studies.page import html
from tests.studies import Given, Left, finished, fixed, plan_of

CLAIM = {"says": "b is better", "left": ["b"], "right": ["a"]}
CLEAR, CLOSE = [-0.30, -0.31, -0.30, -0.29], [-0.01, 0.06, -0.05, -0.04]


def test_the_interval_beside_a_verdict_is_the_one_that_it_rests_on() -> None:
    """Whatever the word, family and place in Holm's order: within the margin, without zero, or with it."""
    random, seen = np.random.default_rng(), set()
    for _ in range(400):
        plan = plan_of("abcd", seeds=5, margin=0.02, sweep=None)
        shift = random.normal(0, 0.01, 4)
        losses = {arm: dict(zip(plan.seeds, 2 + shift[n] + random.normal(0, 0.006, 5), strict=True))
                  for n, arm in enumerate("abcd")}  # fmt: skip
        for one in decide(plan, arms_against_control(plan), losses):
            low, high = one.interval
            within, without = low > -0.02 and high < 0.02, low > 0 or high < 0
            assert {EQUIVALENT: within, UNKNOWN: not without, BETTER: high < 0, WORSE: low > 0}[one.word]
            scipys = stats.ttest_1samp(one.differences, 0.0).confidence_interval(one.confidence)
            assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=1e-9)
            assert f"{100 * one.confidence:.3g}% interval [{low:+.4f}, {high:+.4f}]" in one.sentence
            assert "not zero" not in one.sentence or without
            seen.add(one.word)
    assert seen == {EQUIVALENT, UNKNOWN, BETTER, WORSE}


def test_one_comparison_has_the_intervals_of_the_textbook() -> None:
    plan = plan_of(seeds=5, margin=0.02, sweep=None)
    losses = {"a": dict.fromkeys(plan.seeds, 2.0), "b": dict(enumerate(2.008 + 0.01 * np.array([-1, 1, 0, 1, -1]), 1))}
    equivalent = decide(plan, arms_against_control(plan), losses)[0]
    assert (equivalent.word, round(equivalent.confidence, 9)) == (EQUIVALENT, 0.9)
    assert equivalent.estimate.high > 0.02 > equivalent.interval[1]  # by the 95% interval it would not be
    worse = decide(plan, arms_against_control(plan), {**losses, "b": {s: v + 1 for s, v in losses["b"].items()}})[0]
    assert (worse.word, round(worse.confidence, 9)) == (WORSE, 0.95)
    assert worse.interval == pytest.approx((worse.estimate.low, worse.estimate.high))


@pytest.mark.parametrize(
    ("b", "check", "ending", "answer"),
    [
        (CLEAR, 99, "reproduced", "reproduced"),
        (CLEAR, 1, "not reproduced", "not reproduced"),
        ([-x for x in CLEAR], 99, "not reproduced", "not reproduced"),
        (CLOSE, 99, "not settled", r"not settled: \d+ more seeds would settle it"),
        (CLOSE, 1, "not reproduced", "not reproduced"),
    ],
)
def test_what_cannot_be_told_is_not_refuted(
    b: list[float], check: int, ending: str, answer: str, tmp_path: Path
) -> None:
    checks = [{"number": "test/c", "at_most": check}]
    study = finished(tmp_path, Left(Given({"b": b})), claims=[CLAIM], checks=checks)
    found = facts(study)
    assert found["ending"] == ending
    assert re.fullmatch(answer, found["answer"])
    assert found["answer"] in markdown(study, found)
    assert found["answer"] in html(study, found)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    arms: dict[str, Any] = {
        "a": {"about": "a short one", "reference": 1.875},
        "b": {"preset": "gpt-norm", "set": ["model.ffn=mlp(hidden=13)"]},
        "c": {"set": ["model.n_layers=1", "model.norm=none"], "solve": "model.ffn.hidden"},
    }
    return finished(tmp_path_factory.mktemp("study"), Left(Given({"b": CLEAR, "c": CLOSE})), arms=arms, claims=[CLAIM])


def test_a_report_says_what_the_arms_are(study: Study) -> None:
    found = facts(study)
    for text in (markdown(study, found), html(study, found)):
        for words in ("a short one", "gpt-norm model.ffn=mlp(hidden=13)", "model.n_layers=1"):
            assert words in text


def test_a_bootstrap_stands_beside_every_comparison(study: Study) -> None:
    found = facts(study)
    for text in (markdown(study, found), html(study, found)):
        for values in (CLEAR, CLOSE):  # b is a claim and an arm, c an arm alone
            low, high = bootstrap(values, study.plan.alpha)
            assert f"[{low:+.4f}, {high:+.4f}]" in text


def test_beside_claims_the_arms_are_exploratory_and_say_so(study: Study, tmp_path: Path) -> None:
    alone = finished(tmp_path, Left(Given({"b": CLEAR})))
    for one, there in ((study, True), (alone, False)):
        found = facts(one)
        assert ("exploratory" in markdown(one, found)) == ("exploratory" in html(one, found)) == there


def test_the_command_prints_published_numbers_beside_ours(study: Study) -> None:
    result = CliRunner().invoke(app, ["study", "report", str(study.path)])
    row = next(line for line in result.output.splitlines() if line.strip().startswith("a "))
    assert "2.0000" in row and "1.875" in row
    assert "exploratory" in result.output


def test_a_plan_says_of_what_its_noise_is() -> None:
    pilot = plan_of("abc", noise=None, pilot=4)
    assert any("of a, b at" in line for line in reach_lines(pilot, reach(pilot, 0.01, "a pilot")))
    pair = {"says": "x", "left": ["b"], "right": ["a"]}
    for claims, said in (([pair], False), ([{**pair, "left": ["b", "c"]}], True),
                         ([{"says": "x", "left": ["a", "b"], "right": ["c", "d"], "of": "spread"}], True)):  # fmt: skip
        plan = plan_of("abcd", claims=claims)
        assert any("has another" in line for line in reach_lines(plan, reach(plan, 0.01, "known"))) == said


def test_progress_shows_nothing_of_the_test_split(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of()
    lines, job = Lines(Count(fixed(plan)), quiet=False), Job("a-seed1", "a", 1, 1e-3, "modern", (), 10)
    lines(job, {"ended": Score(1.25, 1.0, 7.77, 1.0, 1.0, None, 100)})
    said = capsys.readouterr().out
    assert "1.2500" in said
    assert "7.77" not in said


def test_a_process_starts_once_however_many_runs_it_has() -> None:
    """Runs of ten steps of 0.1 s each."""
    one = fixed(plan_of())
    jobs = list(planned(one))
    for processes in (1, 2, 4):
        side_by_side = replace(one, processes=processes)
        count = Count(side_by_side)
        start = count.left() - len(jobs) / processes
        assert 0.5 < start < 10
        assert side_by_side.seconds(jobs) == pytest.approx(count.left())
        count(jobs[0], {"ended": Score(1.25, 1.0, None, None, 1.0, None, 100)})
        assert count.left() == pytest.approx((len(jobs) - 1) / processes)


@pytest.mark.parametrize(
    ("reference", "tolerance", "got", "said"),
    [(11897, 0, 11897.0, "11897,"), (2.454014, 1e-6, 2.45401449, "2.454014,"),
     (0.00049, 1e-4, 0.00041234, "0.0004123,"), (2.1e-9, 5e-11, 2.0612e-9, "2.061e-09,")],
)  # fmt: skip
def test_a_number_has_the_digits_that_it_is_held_to(reference: float, tolerance: float, got: float, said: str) -> None:
    check = Check(number="x", reference=reference, tolerance=tolerance)
    assert f"x: {said}" in _check(check, {"x": got})["sentence"]
