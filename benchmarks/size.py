"""How large the code is beside the five modeling files of `transformers` that it was to be smaller than.

    python benchmarks/size.py

All lines, and lines of code: without blank ones, comments and documentation.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import transformers

import nanogpt

OURS = Path(nanogpt.__file__).parent
THEIRS = Path(transformers.__file__).parent / "models"
FIVE = ("llama", "gpt2", "gemma3", "qwen3", "phi3")
ROWS = {
    "model/ and hub/": ("model", "hub"),
    "activations/, init/, kernels/, classic/, rehearsal.py": (
        "activations",
        "init",
        "kernels",
        "classic",
        "rehearsal.py",
    ),
}
"""The second row was in model/ once; transformers has its activations and its initial values elsewhere too."""
BLANK = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def count(path: Path) -> tuple[int, int]:
    """(lines, lines of code) of a file."""
    text = path.read_text(encoding="utf-8")
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in BLANK:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(text.splitlines()), len(code - set(documentation(ast.parse(text))))


def documentation(tree: ast.Module) -> Iterator[int]:
    """Lines of texts that stand alone: they say something to a reader only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def total(paths: list[Path]) -> tuple[int, int]:
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    lines, code = zip(*map(count, files), strict=True)
    return sum(lines), sum(code)


if __name__ == "__main__":
    print("| | lines | of code |\n|---|---:|---:|")
    table = {name: [OURS / part for part in parts] for name, parts in ROWS.items()}
    table["transformers, five files"] = [THEIRS / name / f"modeling_{name}.py" for name in FIVE]
    for name, paths in table.items():
        print("| {} | {:,} | {:,} |".format(name, *total(paths)))
