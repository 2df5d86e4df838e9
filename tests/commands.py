"""Commands as they are typed: in this process, which spares each the seconds in which torch is imported, or in one of
their own where that is what is tested."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from nanogpt.cli import main

Done = subprocess.CompletedProcess[str]


def nanogpt(*arguments: str, cwd: Path, status: int = 0) -> Done:
    """`nanogpt ARGUMENTS` in a folder: its exit status, which must be `status`, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["nanogpt", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    done = Done(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())
    assert done.returncode == status, f"{arguments}: {done.stderr}{done.stdout}"
    return done


def python(code: str, cwd: Path, names: dict[str, Any] | None = None) -> str:
    """A program in a folder: what it printed."""
    out = io.StringIO()
    with chdir(cwd), redirect_stdout(out):
        exec(compile(code, "program", "exec"), {"__name__": "__main__"} if names is None else names)
    return out.getvalue()


def process(*arguments: str, cwd: Path, status: int = 0) -> Done:
    """`python ARGUMENTS` in a process of its own."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, f"{arguments}: {done.stderr}{done.stdout}"
    return done
