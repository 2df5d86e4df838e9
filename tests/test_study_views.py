"""The figures and the page of a study whose runs were made up: what is drawn is what the verdicts say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plotly.graph_objects import Figure
from pydantic import TypeAdapter

from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series
from nanogpt.views.studies import FIGURES, figures_of, forest
from nanogpt.views.studies.charts import draw
from nanogpt.views.studies.page import write
from nanogpt.views.view import standalone
from tests.studies import Left, Simulated, finished

EVIL = "</script><b>claim</b> %{x}"
MEASURE = """
from nanogpt.study.measurement import Chart, Measurement, Series

def look(study):
    losses = [score.test_loss for score in study.scores("b").values()]
    line = Series("measured", [1, 2], [0.5, 0.25], low=[0.4, 0.2], high=[0.6, 0.3])
    return Measurement({"lowest": min(losses)}, ["A finding."], [Chart("Halves", "Text.", "layer", "variance", [line])])
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    (folder / "look.py").write_text(MEASURE)
    return finished(
        folder, Left(Simulated(np.random.default_rng(2), effects={"b": -0.3})), measure=["look.py:look"],
        sweep={"lr": [1e-3, 3e-3, 1e-2]}, claims=[{"says": EVIL, "left": ["b"], "right": ["a", "c"]}],
        checks=[{"number": "lowest", "at_most": 99, "says": "the lowest loss"}],
    )  # fmt: skip


def test_every_figure_can_be_drawn_and_plotly_takes_it(study: Study) -> None:
    for name, view in figures_of(study).items():
        there = view.choices([study])
        assert there, name
        for choice in there:
            picture = view.draw([study], **choice)
            assert picture is not None
            Figure(**standalone(picture))
            assert picture["layout"]["height"] > 100
    assert isinstance(forest(study.path), Figure)


def test_the_forest_shows_the_verdicts(study: Study) -> None:
    picture = FIGURES["forest"].draw([study], comparisons="each arm against a, exploratory")
    assert picture is not None
    better = next(trace for trace in picture["data"] if trace["name"] == "better")
    verdict = next(one for one in study.against_control if one.comparison.name == "b")
    assert better["x"] == [verdict.estimate.mean]
    assert better["error_x"]["array"] == pytest.approx([verdict.interval[1] - verdict.estimate.mean])
    band = picture["layout"]["shapes"][0]
    assert (band["x0"], band["x1"]) == (-0.05, 0.05)


def test_the_page_escapes_what_a_plan_says_and_holds_everything(study: Study) -> None:
    found = write(study)
    assert found["ending"] == "reproduced"
    page = (study.path / "report.html").read_text()
    assert "<b>claim</b>" not in page
    for words in ("Is b better?", "A finding.", "the lowest loss", "Not controlled", "chart-1-halves"):
        assert words in page, words
    assert "better" in (study.path / "report.md").read_text()


def test_curves_begin_with_a_loss_that_has_more_than_two_points(study: Study, tmp_path: Path) -> None:
    few = finished(tmp_path, Left(Simulated(np.random.default_rng()), looks=1))
    shown = [FIGURES["curves"].choices([one])[0]["loss"] for one in (study, few)]
    assert shown == ["validation", "training"]


def test_curves_of_many_arms_are_drawn_by_claims_and_beside_the_control(tmp_path: Path) -> None:
    arms = {f"arm{n}": [f"train.batch={n + 1}"] for n in range(10)}
    claim = {"says": "three are better", "left": ["arm1", "arm2"], "right": ["arm3"]}
    many = finished(tmp_path, Left(Simulated(np.random.default_rng())), arms=arms, control="arm0", claims=[claim])
    curves = FIGURES["curves"]
    first = curves.choices([many])[0]
    drawn = {
        words: [trace["name"] for trace in curves.draw([many], **{**first, "arms": words})["data"]]  # type: ignore[index]
        for words in ("three are better", "arm7")
    }
    assert first["arms"] == "three are better"
    assert {words: set(names) for words, names in drawn.items()} == {
        "three are better": {"arm1", "arm2", "arm3"},
        "arm7": {"arm0", "arm7"},
    }


@pytest.mark.parametrize("kind", ["lines", "points", "bars", "heatmap"])
def test_a_chart_of_every_kind_is_drawn_from_plain_data(kind: str) -> None:
    rows = [Series(name, ["x", "y"], [1.0, 2.0], low=[0.5, 1.5], high=[1.5, 2.5]) for name in ("one", EVIL)]
    chart = Chart("Title", "Text.", "x", "y", rows, kind=kind)  # type: ignore[arg-type]
    again = TypeAdapter(Measurement).validate_python(Measurement({}, [], [chart]).as_dict()).charts[0]
    assert draw(again) == draw(chart)
    assert "<b>" not in str(draw(chart))
    Figure(**standalone(draw(chart)))


def test_what_is_predicted_has_the_colour_of_what_is_measured() -> None:
    rows = [Series("one", [1, 2], [1.0, 2.0]), Series("one: predicted", [1, 2], [1.0, 2.0], dash="dot"),
            Series("two", [1, 2], [2.0, 1.0]), Series("bound", [1, 2], [3.0, 3.0], dash="dot")]  # fmt: skip
    one, predicted, two, bound = (trace["line"] for trace in draw(Chart("T", "", "x", "y", rows))["data"])
    assert one["color"] == predicted["color"]
    assert one["dash"] != predicted["dash"]
    assert len({one["color"], two["color"], bound["color"]}) == 3


def test_a_notebook_shows_a_study(study: Study, tmp_path: Path) -> None:
    from nanogpt.notebook import study_html

    assert "Is b better?" in study_html(study)
    (study.path / "measured" / "look.json").rename(tmp_path / "look.json")
    try:
        assert "not finished" in study_html(Study.open(study.path))
    finally:
        (tmp_path / "look.json").rename(study.path / "measured" / "look.json")
