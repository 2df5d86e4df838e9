"""The README is right: each of its commands and its Python examples is run, made small where it trains."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.commands import nanogpt, process, python

README = (Path(__file__).parents[1] / "README.md").read_text()
SMALL = ["train.steps=2", "train.batch=2", "model.context=32", "train.eval_every=2"]


def commands() -> list[list[str]]:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("nanogpt ")]


def test_the_readme_has_commands() -> None:
    assert {c[0] for c in commands()} >= {"train", "show", "sample", "eval", "runs", "data"}


@pytest.mark.slow
def test_every_command_of_the_readme_works(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "my_notes.txt").write_text(
        "".join(f"note {n}: the sum of {n} and {n} is {2 * n}\n" for n in range(3000))
    )
    part = re.search(r"```python\n(# my_parts\.py.*?)```", README, re.DOTALL)
    assert part
    (tmp_path / "my_parts.py").write_text(part[1])
    own = ["data.corpus=my_notes.txt"]  # a whole validation split of Shakespeare takes a large model half a minute
    process("-m", "nanogpt", "train", *own, *SMALL, "--name", "modern-python", cwd=tmp_path)
    for command in commands():
        if command[0] == "train":
            command += SMALL + own if "ngram" not in command else ["train.steps=1"]  # which has no other
        nanogpt(*command, cwd=tmp_path)


@pytest.mark.slow
def test_the_python_of_the_readme_works(tmp_path: Path) -> None:
    example = re.search(r"```python\n(import nanogpt.*?)```", README, re.DOTALL)
    assert example
    small = ", ".join(f'"{s}"' for s in SMALL[1:])
    code = example[1].replace('"train.steps=500"', f'"train.steps=2", {small}').replace("=shakespeare", "=my.txt")
    assert code.count("train.steps=2") == code.count("my.txt") == 1
    (tmp_path / "my.txt").write_text("".join(f"To be {n} or not to be {n * n}\n" for n in range(300)))
    process("-c", code, cwd=tmp_path)
    assert (tmp_path / "runs/gpt-64-my/metrics.jsonl").exists()


@pytest.mark.slow
def test_the_example_script_works(tmp_path: Path) -> None:
    code = (Path(__file__).parents[1] / "examples/swap_a_part.py").read_text()
    small = code.replace("train.steps=150", "train.steps=2").replace("data.corpus=python", "data.corpus=my.txt")
    assert small.count("train.steps=2") == small.count("my.txt") == 1
    (tmp_path / "my.txt").write_text("".join(f"def f{n}(x): return x + {n}\n" for n in range(3000)))
    assert "nats per token" in python(small, tmp_path) and (tmp_path / "runs/modern-my-2").is_dir()
