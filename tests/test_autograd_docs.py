"""The two chapters on autograd: every block of Python runs, and prints what the page says that it prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.commands import nanogpt, process

DOCS = Path(__file__).parents[1] / "docs"
CHAPTERS = ["internals.md", "autograd.md"]


def blocks(chapter: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / chapter).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_block_runs_and_prints_what_it_says(chapter: str, tmp_path: Path) -> None:
    code = "\n".join(blocks(chapter, "python"))
    expected = re.findall(r"# -> (.*)", code)
    done = process("-W", "error", "-c", code, cwd=tmp_path)  # of its own: an operation that it registers stays
    assert len(expected) > 8 and done.stdout.splitlines() == expected


def test_every_command_runs(tmp_path: Path, data_dir: Path) -> None:
    lines = [line for block in blocks("autograd.md", "bash") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("nanogpt ")]
    assert {tuple(c[1:3]) for c in commands} == {("autograd", "trace"), ("autograd", "ninja")}
    for command in commands:
        small = ["model.n_layers=2"] if "trace" in command else []
        nanogpt(*command[1:], *small, cwd=tmp_path)
