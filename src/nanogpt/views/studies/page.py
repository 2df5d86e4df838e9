"""The report of a study: one offline page, Markdown, and the same for a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nanogpt.files import write_whole
from nanogpt.runs import as_json
from nanogpt.study.folder import Study
from nanogpt.study.report import NOT_REPRODUCED, NOT_SETTLED, facts, markdown, plan_lines, tables
from nanogpt.study.verdict import EQUIVALENT, UNKNOWN
from nanogpt.views import page as pages
from nanogpt.views.report import Drawn, page
from nanogpt.views.studies import figures_of

MARKS = {"good": "✔", "warn": "▲", "bad": "✖", "plain": "•"}


def write(study: Study) -> dict[str, Any]:
    """Write all three into the study's folder; answers the facts. Unfinished where a run is missing."""
    found = facts(study)
    write_whole(study.path / "report.md", markdown(study, found).encode())
    write_whole(study.path / "report.html", html(study, found).encode())
    write_whole(study.path / "report.json", as_json(found))  # the last: with it the study has ended
    return found


def html(study: Study, found: Mapping[str, Any]) -> str:
    problems: list[str] = []
    drawn = [Drawn.of(name, view, [study], problems) for name, view in figures_of(study).items()]
    there = [one for one in drawn if one.choices]
    before = [_head(found), _verdicts(study, found), pages.problems(problems)]
    after = [
        _section("Tables", _tables(study, found)) if found["arms"] else "",
        _section("The plan", _list(plan_lines(study))),
        _section("Not controlled", _list(found["not_controlled"]) or "<p>Nothing is known.</p>"),
    ]
    links = pages.links(["Verdicts"], there, [*(["Tables"] if found["arms"] else []), "The plan", "Not controlled"])
    return page(escape(study.name), study.name, links, before, there, after)


def words(study: Study) -> str:
    """Question and verdicts alone, as HTML."""
    found = facts(study)
    return _head(found) + _verdicts(study, found)


def _head(found: Mapping[str, Any]) -> str:
    """The question, and in one word the answer."""
    ending = found["answer"] + (" (in its quick form)" if found["quick"] else "")
    mark = {NOT_REPRODUCED: "bad", NOT_SETTLED: "warn"}.get(found["ending"], "good")
    source = f'<p class="missing">{escape(found["source"])}</p>' if found["source"] else ""
    items = "".join(_item(mark, ending if n == 0 else "", line) for n, line in enumerate(found["misses"]))
    answer = items or _item(mark, ending, "")
    return (
        f'<section aria-label="Question"><h2>{escape(found["question"])}</h2>{source}'
        f'<ul class="findings">{answer}</ul></section>'
    )


def _verdicts(study: Study, found: Mapping[str, Any]) -> str:
    parts = []
    if found["claims"]:
        parts.append("<h3>What was claimed</h3>" + _answers(found["claims"]))
    if found["checks"]:
        rows = [_item("good" if one["holds"] else "bad", "", one["sentence"]) for one in found["checks"]]
        parts.append(f'<h3>Numbers beside published ones</h3><ul class="findings">{"".join(rows)}</ul>')
    if found["against_control"]:
        title = f"<h3>Each arm against {escape(str(study.plan.control))}</h3>"
        note = f'<p class="missing">{escape(found["against_control_is"])}</p>' if found["claims"] else ""
        parts.append(title + note + _answers(found["against_control"]))
    if found["findings"]:
        parts.append("<h3>Measured</h3>" + _list(found["findings"]))
    return _section("Verdicts", "".join(parts) or "<p>Nothing was compared.</p>")


def _answers(verdicts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in verdicts:
        level = "plain" if one["fits"] is None else "good" if one["fits"] else "bad"
        level = "warn" if one["word"] == UNKNOWN else level
        word = "equivalent" if one["word"] == EQUIVALENT else ""
        rows.append(_item(level, one["comparison"] + ":", one["sentence"].replace("equivalent", word, 1)))
    return f'<ul class="findings">{"".join(rows)}</ul>'


def _item(level: str, word: str, text: str) -> str:
    said = f'<span class="level">{escape(word)}</span> ' if word else ""
    return f'<li class="{level}"><span class="mark" aria-hidden="true">{MARKS[level]}</span> {said}{escape(text)}</li>'


def _tables(study: Study, found: Mapping[str, Any]) -> str:
    parts = []
    for title, (head, rows) in tables(study.plan, found).items():
        cells = [[escape(cell) for cell in row] for row in rows]
        kind = "words" if title == "Arms" else "runs"
        parts.append(f"<h3>{title}</h3>" + pages.table([escape(cell) for cell in head], cells, kind))
        if title == "Losses" and study.plan.reference:
            parts.append(f'<p class="missing">published: {escape(study.plan.reference)}</p>')
    return "".join(parts)


def _section(name: str, inside: str) -> str:
    return pages.section(pages.anchor(name), name, inside)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def images(study: Study, folder: Path | str) -> list[Path]:
    """Every figure, as it is shown unasked, as PNG and SVG."""
    from nanogpt.views.images import save

    figures = []
    for name, view in figures_of(study).items():
        if there := view.choices([study]):
            picture = view.draw([study], **there[0])
            if picture is not None:
                figures.append((name, picture))
    return save(figures, folder)
