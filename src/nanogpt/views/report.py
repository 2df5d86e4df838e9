"""One offline page about one run or several: every picture, samples, settings, findings, what could not be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from nanogpt.files import one_line, write_whole
from nanogpt.views import FIGURES
from nanogpt.views import page as pages
from nanogpt.views.encode import in_script, packed
from nanogpt.views.source import Runs, Source, sources
from nanogpt.views.theme import DARK, template
from nanogpt.views.view import Picture, View


def report(runs: Runs, path: Path | str) -> list[str]:
    """Write the page, whole; answers what could not be read. UserError for a folder that is not a run."""
    found = sources(runs)
    text, problems = html(found)
    with one_line(f"write {path}"):
        write_whole(Path(path), text.encode())
    return problems


def html(found: Sequence[Source]) -> tuple[str, list[str]]:
    """The page and the problems that it names."""
    problems: list[str] = []
    drawn = [Drawn.of(name, view, found, problems) for name, view in FIGURES.items()]
    there = [one for one in drawn if one.choices]
    findings = {one.name: pages.judge(one) for one in found}
    summary, settings, samples = pages.summary(found), pages.settings(found), pages.samples(found)
    problems = list(dict.fromkeys([p for one in found for p in (*one.problems, *one.layers.problems)] + problems))
    before = [
        f'<section id="runs" aria-label="Runs">{summary}</section>',
        pages.section(pages.anchor("Findings"), "Findings", pages.findings(findings)),
        pages.problems(problems),
    ]
    after = [
        pages.missing([one.view for one in drawn if not one.choices]),
        samples,
        pages.section(pages.anchor("Settings"), "Settings", settings),
    ]
    links = pages.links(["Findings"], there, [*(["Samples"] if samples else []), "Settings"])
    return page(pages.title(found), pages.file_name(found), links, before, there, after), problems


def page(title: str, file: str, links: str, before: Sequence[str], drawn: Sequence[Drawn], after: Sequence[str]) -> str:
    """A whole page: words, figures, words. All of it is HTML already. `file`: what a downloaded image is called."""
    index = {
        "themes": {theme: template(theme) for theme in ("light", "dark")},
        "dark": DARK,
        "figures": [one.index() for one in drawn],
        "file": file,
    }
    return Template(_file("report.html")).substitute(
        title=title,
        css=_file("report.css"),
        links=links,
        before="\n".join(before),
        figures=pages.figures(drawn),
        after="\n".join(after),
        index=in_script(index),
        packed="\n".join(part for one in drawn for part in one.scripts()),
        plotly=plotly_js(),
        js=_file("report.js"),
    )


@dataclass
class Drawn:
    """One view, every choice of it drawn and packed. `starts`: the first choice in each pack."""

    name: str
    view: View
    choices: list[dict[str, str]]
    packs: list[str]
    starts: list[int]
    height: int = 400

    @staticmethod
    def of(name: str, view: View, found: Sequence[Any], problems: list[str]) -> Drawn:
        """What cannot be drawn, because a file is damaged or foreign, gets a line in `problems`."""
        made = Drawn(name, view, [], [], [])

        def pictures() -> Iterator[Picture]:
            for choice in view.choices(found):
                picture = view.draw(found, **choice)
                if picture is not None:
                    made.height = made.height if made.choices else picture["layout"]["height"]
                    made.choices.append(dict(choice))
                    yield picture

        try:
            first = 0
            for count, pack in packed(pictures()):
                made.starts.append(first)
                made.packs.append(pack)
                first += count
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            problems.append(f"{view.title}: cannot be drawn ({type(error).__name__}: {error})")
            made.choices = []
        return made

    def index(self) -> dict[str, Any]:
        keys = list(self.choices[0])
        options = [[choice[key] for key in keys] for choice in self.choices]
        words = {key: list(dict.fromkeys(row[n] for row in options)) for n, key in enumerate(keys)}
        numbers = [[words[key].index(row[n]) for n, key in enumerate(keys)] for row in options]
        return {"name": self.name, "title": self.view.title, "keys": keys, "words": words, "choices": numbers,
                "starts": self.starts, "count": len(self.choices)}  # fmt: skip

    def scripts(self) -> list[str]:
        return [
            f'<script type="application/gzip" id="{self.name}-{n}">{pack}</script>' for n, pack in enumerate(self.packs)
        ]


@cache
def plotly_js() -> str:
    """The plotting library, from the installed package: no network. It may stand inside <script>: in JavaScript's
    strings and regular expressions `<\\/script` is the same."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")


@cache
def _file(name: str) -> str:
    return files("nanogpt.views").joinpath(name).read_text(encoding="utf-8")
