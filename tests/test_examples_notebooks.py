"""The notebooks of examples/ run from top to bottom, and what docs/observing.md says can be typed."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from nanogpt.observers.checks.limits import LIMITS
from tests.commands import nanogpt, process, python

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
GUIDE = (ROOT / "docs/observing.md").read_text(encoding="utf-8")
SMALL = ["train.steps=200", "model.dim=32", "model.n_layers=2", "model.mixer=attention(heads=2)", "train.batch=2"]
SMALL += ["train.eval_every=200", "model.context=64", "train.threads=1"]


def test_there_are_two_and_they_are_committed_without_outputs() -> None:
    assert [path.name for path in NOTEBOOKS] == ["dead_neurons.ipynb", "inside_a_gpt.ipynb"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    bin_folder = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where `!nanogpt` is
    monkeypatch.setenv("PATH", bin_folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(path, 4)
    notebook.metadata.kernelspec.name = "python3"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    expected = {"dead_neurons": "neurons are dead", "inside_a_gpt": "without blocks.0.mixer"}
    assert expected[path.stem] in said and "nanogpt: " not in said, said


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.slow
def test_what_the_guide_says_can_be_typed(tmp_path: Path, data_dir: Path) -> None:
    """In its order, since later blocks look at what earlier ones trained; smaller where it trains."""
    benchmarks = set[str]()
    for language, text in re.findall(r"```(bash|python)\n(.*?)```", GUIDE, re.DOTALL):
        if language == "python":
            python(text, tmp_path)
            continue
        for line in text.splitlines():
            command = shlex.split(line, comments=True)
            if command[0] == "python":  # a benchmark: it is there and knows its options
                benchmarks.add(command[1])
            else:
                nanogpt(*command[1:], *(SMALL if command[1] == "train" else []), cwd=tmp_path)
    for benchmark in benchmarks:
        process(str(ROOT / benchmark), "--help", cwd=tmp_path)


def test_the_limits_of_the_guide_are_those_of_the_code() -> None:
    rows = {row[0]: row[1:] for row in re.findall(r"^\| ([a-z ]+) \| (\S+) \| (\S+) \| (.+) \|$", GUIDE, re.MULTILINE)}
    for name, limit in LIMITS.items():
        warn, bad, why = rows[name]
        assert (float(warn), why) == (pytest.approx(limit.warn, rel=0.02), limit.why)
        assert bad == "-" if abs(limit.bad) == float("inf") else float(bad) == pytest.approx(limit.bad)
