"""A run, a model and a comparison draw themselves, without network, and what they hold stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nanogpt import notebook
from nanogpt.api import build
from nanogpt.errors import UserError
from nanogpt.notebook import compare
from nanogpt.runs import Run
from tests.helpers import TINY, make
from tests.observations import make_foreign, make_run


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a session of its own."""
    monkeypatch.setattr(notebook, "_sent", False)


def html(thing: object) -> str:
    return thing._repr_html_()  # type: ignore[attr-defined,no-any-return]


def words(page: str) -> str:
    parser = HTMLParser()
    found: list[str] = []
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(page)
    return " ".join(" ".join(found).split())


def test_a_run_shows_numbers_findings_and_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path, dead={1: dict.fromkeys(range(16), 0)}, steps=100)
    page = html(run)
    best = min(row["val/loss"] for row in run.metrics() if "val/loss" in row)
    assert f"{best:.4f}" in page
    assert "16 of 32 neurons are dead" in words(page)
    data = re.search(r"window\.Plotly\.newPlot\(at, (\[.*?\]), \{\"title\"", page)
    assert data is not None
    assert [trace["name"] for trace in json.loads(data[1])] == ["train, every step", "train, smoothed", "val"]


def test_the_library_is_in_the_first_output_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=20, observed=False)
    first, second = html(run), html(run)
    assert len(first) > 1_000_000 > 100_000 > len(second)
    assert "DecompressionStream" in first
    assert not re.search(r"(src|href)=[\"']?http", first)


def test_a_run_that_has_only_begun_says_how_it_is_set_up(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=7, observed=False)
    (run.path / "metrics.jsonl").unlink()
    page = words(html(run))
    assert "Nothing is trained yet" in page
    assert "train.steps 7" in page


def test_names_stay_text(tmp_path: Path) -> None:
    run = make_run(tmp_path, "<script>alert(1)<%2Fscript>", steps=20)
    page = html(run) + html(compare(run, run))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_damaged_run_draws_what_is_left(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=20)
    sorted(run.layers.glob("*.npz"))[0].write_bytes(b"nothing")
    (run.path / "environment.json").write_text("{")
    page = html(run)
    assert "What could not be read" in page
    assert "newPlot" in page


@pytest.mark.parametrize("name", TINY)
def test_a_model_shows_its_parts_and_how_they_are_joined(name: str) -> None:
    model = make(**TINY[name])
    page = html(model)
    total = sum(p.numel() for p in model.parameters())
    assert f"{total:,} parameters" in words(page)
    table = re.findall(r'<th scope="row">([^<]*)</th><td>([\d,]+)</td>', page)
    assert sum(int(count.replace(",", "")) for _, count in table) == total
    assert 'src="data:image/svg+xml;base64,' in page


def test_a_model_without_layers_and_one_of_counts() -> None:
    assert "0 layers" in html(make(n_layers=0))
    assert "newPlot" not in html(build("bigram"))


def test_a_comparison(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "a", steps=50), make_run(tmp_path, "b", steps=60, layers=2, seed=2)
    both = compare(a, b.path)
    assert both.differences["train.steps"] == [50, 60]
    assert set(both.differences) == {"seed", "train.steps", "model.n_layers", "model.mixer", "model.ffn", "model.norm",
                                     "model.layout", "model.position"}  # fmt: skip
    assert re.fullmatch(r"Comparison\(a \d\.\d{4}, b \d\.\d{4}; 8 settings differ\)", repr(both))
    page = html(both)
    assert "train.steps 50 60" in words(page)
    assert '"a train"' in page
    assert '"b val"' in page
    with pytest.raises(UserError, match="two runs"):
        compare(a)
    with pytest.raises(UserError, match="is not a run"):
        compare(a, tmp_path / "nowhere")


def test_a_foreign_run_beside_one_of_ours(tmp_path: Path) -> None:
    page = html(compare(make_run(tmp_path, steps=20), make_foreign(tmp_path, steps=20)))
    assert "own module" in words(page)


def test_runs_and_models_have_the_method() -> None:
    assert callable(Run._repr_html_)  # type: ignore[attr-defined]
