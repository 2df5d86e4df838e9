"""The chapter on tokens: every block of Python runs, every command too, and its table counts as we do."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from nanogpt.tokenizers.opening import open_tokenizer
from tests.commands import nanogpt

CHAPTER = (Path(__file__).parents[1] / "docs" / "tokenizer.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", CHAPTER, re.DOTALL)


def test_every_block_runs(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(blocks("python")) >= 9
    names: dict[str, object] = {}
    for block in blocks("python"):
        assert "assert" in block
        exec(compile(block, "tokenizer.md", "exec"), names)


@pytest.mark.slow
def test_every_command_runs(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "tokenizers" / "llama2", tmp_path / "llama2")
    (tmp_path / "notes.txt").write_text("the cat sat on the mat, and the mat was flat\n" * 50, encoding="utf-8")
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert {c[2] for c in commands} == {"train", "encode", "show", "compare", "import"}
    for command in commands:
        nanogpt(*command[1:], cwd=tmp_path)


def test_the_counts_of_the_table(data_dir: Path) -> None:
    opened = [open_tokenizer(name) for name in ("gpt2", "cl100k_base", "o200k_base")]
    rows = re.findall(r"^\|.*?`([^`\n]+)`.*\| (\d+) \| (\d+) \| (\d+) \|$", CHAPTER, re.MULTILINE)
    counted = {text: [len(t.encode(text)) for t in opened] for text, *_ in rows if "endoftext" not in text}
    assert len(counted) == 7
    assert counted == {text: list(map(int, numbers)) for text, *numbers in rows if text in counted}
