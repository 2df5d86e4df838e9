"""The report in a real browser, with every outside request blocked: all drawn, nothing asked for, keys suffice."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nanogpt.cli.report import report as command
from nanogpt.errors import UserError
from nanogpt.observers.store import Layers
from nanogpt.runs import Run
from nanogpt.views import FIGURES
from nanogpt.views.report import report
from nanogpt.views.source import sources
from tests.observations import make_foreign, make_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
PATIENCE = 300_000
"""Milliseconds that a browser may take for anything: a busy machine is slow, not wrong."""
EVIL = "<script>alert(1)<%2Fscript>"
SAMPLE = "To be <img src=x onerror=alert(2)> or not"


@dataclass
class Seen:
    """A page in a browser, and everything that it did besides showing itself."""

    page: Any
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def show(self, name: str) -> Any:
        """Scroll to a figure and wait until it is drawn."""
        figure = self.page.locator(f"figure#{name}")
        figure.scroll_into_view_if_needed()
        self.page.wait_for_selector(f"figure#{name}[data-drawn] .main-svg")
        return figure

    def traces(self, name: str) -> list[dict[str, Any]]:
        return self.page.evaluate("(id) => document.querySelector(`#${id} .plot`).data", name)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    first = make_run(folder, EVIL, steps=60, layers=2, dead={1: {3: 0}}, sample=SAMPLE)
    return [first, make_run(folder, "other", steps=20, layers=3, units=20, act="gelu", seed=2)]


@pytest.fixture(scope="module")
def html(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert report(runs, path) == []
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no chromium on this machine")
    with sync.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        yield started
        started.close()


@pytest.fixture(scope="module")
def seen(browser: Any, html: Path) -> Iterator[Seen]:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light", accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    seen = Seen(context.new_page())
    inside = ("file:", "data:", "blob:")
    context.route(lambda url: not url.startswith(inside), lambda route: route.abort())
    context.on("request", lambda request: None if request.url.startswith(inside) else seen.requests.append(request.url))
    seen.page.on("console", lambda line: seen.problems.append(line.text) if line.type in ("error", "warning") else None)
    seen.page.on("pageerror", lambda error: seen.problems.append(str(error)))
    seen.page.on("dialog", lambda dialog: (seen.problems.append(dialog.message), dialog.dismiss()))
    seen.page.goto(html.as_uri())
    yield seen
    context.close()


def test_every_figure_is_drawn_and_nothing_is_asked_of_the_network(seen: Seen) -> None:
    names = seen.page.eval_on_selector_all("figure", "all => all.map(one => one.id)")
    assert sorted(names) == sorted(FIGURES)
    for name in names:
        figure = seen.show(name)
        assert figure.locator(".plot").get_attribute("aria-label")
        assert figure.locator(".main-svg").count() > 0
        assert not figure.locator(".plot.failed").count()
        assert seen.traces(name), name
    assert seen.requests == []
    assert seen.problems == []


def test_what_came_from_a_run_is_shown_and_not_run(seen: Seen) -> None:
    assert EVIL in seen.page.locator("h1").inner_text()
    assert SAMPLE in seen.page.locator("pre").first.inner_text()
    seen.show("curves")
    assert EVIL in seen.page.locator("#curves .legend").text_content()
    assert seen.page.locator("img, [onerror]").count() == 0
    assert seen.problems == []


def test_choices_are_made_by_keyboard(seen: Seen) -> None:
    seen.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    order = []
    for _ in range(60):
        seen.page.keyboard.press("Tab")
        order.append(seen.page.evaluate("(document.activeElement.closest('figure') || document.activeElement).id"))
        if "neuron_map" in order:
            break
    assert order.index("theme") < order.index("curves") < order.index("neuron_map")
    seen.show("heatmap")
    select = seen.page.locator("#heatmap label", has_text="kind").locator("select")
    before = seen.page.evaluate("document.querySelector('#heatmap .plot').layout.yaxis.ticktext")
    select.focus()
    seen.page.keyboard.press("w")  # the first that begins with it: weights
    seen.page.wait_for_function(
        "(was) => document.querySelector('#heatmap .plot').layout.yaxis.ticktext.join() != was.join()", arg=before
    )
    now = seen.page.evaluate("document.querySelector('#heatmap .plot').layout.yaxis.ticktext")
    assert now[0] == "embed.weight"


def test_a_step_is_chosen_by_keyboard(seen: Seen, runs: list[Run]) -> None:
    seen.show("neuron_map")
    seen.page.locator("#neuron_map input[type=range]").focus()
    seen.page.keyboard.press("Home")
    seen.page.wait_for_function("() => document.querySelector('#neuron_map output').value == '0'")
    seen.page.keyboard.press("ArrowRight")
    second = str(Layers(runs[0].path).steps[1])
    seen.page.wait_for_function("(step) => document.querySelector('#neuron_map output').value == step", arg=second)
    assert seen.page.get_attribute("#neuron_map input[type=range]", "aria-valuetext") == f"step {second}"


def test_a_choice_shows_the_other_run(seen: Seen) -> None:
    seen.show("ridges")
    seen.page.locator("#ridges label", has_text="run").locator("select").select_option(label="other")
    seen.page.locator("#ridges label", has_text="rows").locator("select").select_option(label="blocks.*.ffn.act")
    seen.page.wait_for_function("() => document.querySelector('#ridges .plot').data[0].name == 'blocks.0.ffn.act'")
    assert len(seen.traces("ridges")) == 3 + 1


def test_both_themes_and_a_narrow_page(seen: Seen) -> None:
    paper = "getComputedStyle(document.querySelector('figure')).backgroundColor"
    ink = "document.querySelector('#curves .plot')._fullLayout.font.color"
    seen.show("curves")
    light, dark_text = seen.page.evaluate(paper), seen.page.evaluate(ink)
    seen.page.locator("#theme").select_option("dark")
    seen.page.wait_for_function(f"() => {ink} != '{dark_text}'")
    assert seen.page.evaluate(paper) != light
    seen.page.locator("#theme").select_option("auto")
    seen.page.set_viewport_size({"width": 400, "height": 800})
    seen.page.wait_for_function("() => document.querySelector('#curves .plot')._fullLayout.width < 400")
    seen.show("lens_text")  # whose words need more room: it scrolls by itself
    seen.page.wait_for_function("() => document.querySelector('#lens_text .plot')._fullLayout.width > 400")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 400
    seen.page.set_viewport_size({"width": 1200, "height": 900})
    assert seen.problems == []


@pytest.mark.parametrize(("kind", "start"), [("PNG", b"\x89PNG"), ("SVG", b"<svg")])
def test_a_figure_is_saved(seen: Seen, kind: str, start: bytes) -> None:
    seen.show("lens")
    with seen.page.expect_download() as event:
        seen.page.locator("#lens button", has_text=kind).press("Enter")
    content = Path(event.value.path()).read_bytes()
    assert content.startswith(start)
    assert event.value.suggested_filename.endswith(f"lens.{kind.lower()}")
    if kind == "SVG":
        assert b"Loss at each depth" in content
    assert seen.requests == []


# ---- without a browser


def test_a_run_that_is_damaged_everywhere_is_reported_as_far_as_it_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path, "broken", steps=16, layers=2)
    files = sorted(run.layers.glob("*.npz"))
    files[1].write_bytes(files[1].read_bytes()[:1000])
    (run.path / "tokenizer.json").write_text("{")
    (run.path / "environment.json").write_text("[]")
    with (run.path / "metrics.jsonl").open("a") as out:
        out.write('{"step": 17, "train/lo')
    with (run.path / "samples.jsonl").open("a") as out:
        out.write('{"step": 17}\nnull\n')
    found = report(run, tmp_path / "page.html")
    assert len(found) == 5
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "What could not be read" in text
    for what in (
        "step-000001.npz",
        "tokenizer.json",
        "environment.json",
        "metrics.jsonl: 1 line ",
        "samples.jsonl: 1 line ",
    ):
        assert [line for line in found if what in line], what
        assert what in text


def test_a_newer_version_is_read_as_far_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanogpt.observers import store

    run = make_run(tmp_path, "newer", steps=10, layers=2)
    seen = store.read(sorted(run.layers.glob("*.npz"))[-1])
    monkeypatch.setattr(store, "FORMAT", 99)
    store.write(run.layers, seen)
    monkeypatch.undo()
    (line,) = report(run, tmp_path / "page.html")
    assert "format 99" in line


@pytest.mark.parametrize(("content", "lost"), [("", 0), ("\n\n", 0), ("null\n[1]\n", 2), ("{\n", 1)])
def test_a_run_without_a_row_and_without_layers(tmp_path: Path, content: str, lost: int) -> None:
    run = make_run(tmp_path, "bare", steps=5, observed=False)
    (run.path / "metrics.jsonl").write_text(content)
    file = run.path / "metrics.jsonl"
    said = [f"{file}: {lost} line{'s' * (lost > 1)} of it cannot be read"] if lost else []
    assert report(run, tmp_path / "page.html") == said
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Not drawn, because these runs hold nothing of it: curves: curves" in text


def test_settings_that_cannot_be_read_leave_the_rest(tmp_path: Path) -> None:
    run = make_run(tmp_path, "odd", steps=10, layers=2)
    (run.path / "config.json").write_text("{")
    (line,) = report(run, tmp_path / "page.html")
    assert "config.json is damaged" in line
    assert 'id="heatmap"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_foreign_module_and_a_model_of_ours_side_by_side(tmp_path: Path) -> None:
    ours, theirs = make_run(tmp_path, "ours", steps=10, layers=2), make_foreign(tmp_path, "theirs", steps=10)
    assert report([ours, theirs], tmp_path / "page.html") == []
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "own module" in text
    assert re.search(r"What differs.*<code>model\.dim</code></th><td><code>16</code></td><td><code>&ndash;", text)


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, "fine", steps=10)
    with pytest.raises(UserError, match="is not a run"):
        command([tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(UserError, match="is a folder"):
        command([run.path], tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        command([run.path], tmp_path / "no" / "page.html")
    command([run.path], tmp_path / "page.html")
    assert "open it in a browser" in capsys.readouterr().out


def test_figures_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    if not CHROMIUM:
        pytest.skip("no chromium on this machine")
    from nanogpt.views import images

    monkeypatch.setattr(images, "FIGURES", {name: FIGURES[name] for name in ("curves", "neuron_map")})
    run = make_run(tmp_path, "fine", steps=10, layers=1)
    written = images.images(run, tmp_path / "figures")
    assert sorted(p.name for p in written) == ["curves.png", "curves.svg", "neuron_map.png", "neuron_map.svg"]
    assert sorted((tmp_path / "figures").iterdir()) == sorted(written)
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<svg")


def test_a_figure_in_a_file_says_of_which_step_it_is(tmp_path: Path) -> None:
    from nanogpt.views.images import _figures

    titles = {name: one["layout"]["title"]["text"] for name, one in _figures(sources(make_run(tmp_path, steps=10)))}
    assert titles["neuron_map"].endswith(", step 10") and titles["lens"].endswith(", step 10")
    assert titles["curves"] == "Loss by step"


def test_without_a_browser_figures_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kaleido = pytest.importorskip("kaleido", reason="kaleido is not installed")
    from nanogpt.views.images import images

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no browser")

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", broken)
    with pytest.raises(UserError, match=r"Chrome or Chromium.*no browser"):
        images(make_run(tmp_path, "fine", steps=4, layers=1), tmp_path / "figures")
    assert list((tmp_path / "figures").iterdir()) == []
