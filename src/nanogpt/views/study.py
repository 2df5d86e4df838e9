"""The report of a study."""

from __future__ import annotations

from nanogpt.files import write_whole
from nanogpt.runs import as_json
from nanogpt.study.folder import Study
from nanogpt.study.report import facts, markdown


def write(study: Study) -> None:
    write_whole(study.path / "report.md", markdown(study).encode())
    write_whole(study.path / "report.json", as_json(facts(study)))
