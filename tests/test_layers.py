"""The house has floors: a module imports only from those above it, and what needs no torch imports none."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nanogpt

SOURCE = Path(nanogpt.__file__).parent
ORDER = [
    "errors",
    "files",
    "spec",
    "parts",
    "config",
    "runs",
    "listing",
    "data",
    "tokenizers",
    "kernels",
    "model.part",
    "model.linear",
    "rehearsal",
    "activations",
    "model.norms",
    "init",
    "classic",
    "model",
    "pattern",
    "proportions",
    "cost",
    "wiring",
    "scale",
    "optim",
    "training",
    "generate",
    "hub",
    "observers",
    "study",
    "doctor",
    "diagram",
    "show",
    "autograd",
    "views",
    "notebook",
    "api",
    "cli",
]
"""A floor is a module or a package; `model.part` is the one file, that lies beneath the rest of its package."""
OUTSIDE = {"__init__", "__main__"}
"""The two faces: they open every floor, and do so when asked."""
WITHOUT_TORCH = [
    "nanogpt",
    "nanogpt.spec",
    "nanogpt.parts",
    "nanogpt.config",
    "nanogpt.runs",
    "nanogpt.data",
    "nanogpt.tokenizers",
    "nanogpt.autograd",
]


def floor(*names: str) -> str:
    """Of the module nanogpt.NAME.NAME..."""
    two = ".".join(names[:2])
    return two if two in ORDER else names[0]


def floor_of(path: Path, root: Path = SOURCE) -> str:
    return floor(*path.relative_to(root).with_suffix("").parts)


def imports(path: Path, root: Path = SOURCE) -> list[tuple[int, str]]:
    """(line, floor) of every nanogpt module that a file imports, at its top or inside a function."""
    package = ["nanogpt", *path.relative_to(root).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"nanogpt.{a.name}" for a in node.names] if module == "nanogpt" else [module]
        found += [(node.lineno, floor(*n.split(".")[1:])) for n in names if n.startswith("nanogpt.")]
    return found


def wrong(path: Path, root: Path = SOURCE) -> list[str]:
    here = floor_of(path, root)
    if here in OUTSIDE:
        return []
    if here not in ORDER:
        return [f"{here} has no floor"]
    return [
        f"{path.relative_to(root)}:{line} imports {name}"
        for line, name in imports(path, root)
        if name not in ORDER or ORDER.index(name) > ORDER.index(here)
    ]


def test_every_module_has_a_floor() -> None:
    unknown = {floor_of(p) for p in SOURCE.rglob("*.py")} - set(ORDER) - OUTSIDE
    assert not unknown, f"add to ORDER in this file: {unknown}"


def test_imports_go_only_upward_in_the_list() -> None:
    assert not [line for path in sorted(SOURCE.rglob("*.py")) for line in wrong(path)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("spec.py", "from nanogpt.config import RunConfig"),
        ("spec.py", "def f():\n    import nanogpt.init.base"),
        ("data/batches.py", "from nanogpt import tokenizers"),
        ("data/batches.py", "from ..tokenizers import char"),
        ("data/batches.py", "from .. import training"),
        ("model/ends.py", "from nanogpt.nowhere import x"),
        ("model/norms.py", "from nanogpt.model.blocks import Block"),
        ("classic/window.py", "from nanogpt.model import ends"),
    ],
)
def test_the_check_itself_finds_what_is_wrong(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert wrong(path, tmp_path)


def test_a_file_may_import_from_its_own_floor(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.py").write_text(
        "from .b import c\nfrom nanogpt.spec import parse\nfrom nanogpt.data import d\n"
    )
    assert not wrong(tmp_path / "data" / "a.py", tmp_path)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_torch_is_imported_late(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or f"{module} imports torch"
