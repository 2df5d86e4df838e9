"""The command line: the one place that connects everything. torch is imported only by the commands that need it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any

import typer

from nanogpt.cli.autograd import autograd
from nanogpt.cli.base import app
from nanogpt.cli.hub import compare, export, import_
from nanogpt.cli.init import init
from nanogpt.cli.inspect import inspect
from nanogpt.cli.machine import doctor
from nanogpt.cli.models import show
from nanogpt.cli.report import report
from nanogpt.cli.runs import runs
from nanogpt.cli.study import study
from nanogpt.cli.tokenizer import tokenizer
from nanogpt.cli.training import data, evaluate, sample, train
from nanogpt.errors import UserError

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "sample": sample,
    "eval": evaluate,
    "show": show,
    "init": init,
    "inspect": inspect,
    "report": report,
    "runs": runs,
    "data": data,
    "import": import_,
    "export": export,
    "compare": compare,
    "doctor": doctor,
}
for name, command in COMMANDS.items():
    app.command(name=name)(command)
app.add_typer(study, name="study")
app.add_typer(tokenizer, name="tokenizer")
app.add_typer(autograd, name="autograd")


def main() -> None:
    """The entry point. What the user can mend is one line on stderr; the exit status says whose move it is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a console that lacks a character shows it in another way
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(standalone_mode=False)
    except UserError as error:
        print(f"nanogpt: {error}", file=sys.stderr)
        status = error.status
    except (typer.Abort, KeyboardInterrupt):
        status = 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"nanogpt: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        status = 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # only what the command line's own parser refuses has it
            raise
        print(f"nanogpt: {error.format_message()} (nanogpt --help)", file=sys.stderr)
        status = 2
    sys.exit(status if isinstance(status, int) else 0)
