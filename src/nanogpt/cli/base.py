"""What the commands share: the app, its arguments, tables."""

from __future__ import annotations

import json as json_text
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    help="A laboratory for studying modern LLM architectures by building small language models.\n\n"
    "\b\nnanogpt train                                        the default model on Python's own source\n"
    "nanogpt train gpt data.corpus=shakespeare            another model, another text\n"
    "nanogpt train model.ffn=geglu data.corpus=my.txt     one part changed, a file of your own\n"
    "nanogpt sample runs/NAME --prompt 'def '             let it write",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="PRESET SECTION.KEY=VALUE", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="A run folder, as runs/NAME.")]
Checkpoint = Annotated[str, typer.Option(help="best, last, or a step's number.")]


def split_arguments(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """['gpt', 'train.steps=5'] -> ('gpt', ['train.steps=5']): what has no '=' is the preset."""
    words = [a for a in arguments or [] if "=" not in a]
    if len(words) > 1:
        raise UserError(f"two presets, '{words[0]}' and '{words[1]}'; settings are written section.key=value")
    return (words[0] if words else None), [a for a in arguments or [] if "=" in a]


def few(lines: list[str], most: int = 5) -> list[str]:
    """A screen's worth of lines that are much alike."""
    return lines if len(lines) <= most + 1 else [*lines[:most], f"and {len(lines) - most} more of these"]


def print_json(value: Any) -> None:
    print(json_text.dumps(value, ensure_ascii=False))


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; columns that start with '#' hold numbers."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(
            column.lstrip("#"), justify="right" if column.startswith("#") else "left", overflow="fold"
        )  # nothing is cut: a word that is wider than its column goes on below
    return made


def say(text: str, indent: int = 0) -> None:
    """A paragraph; on a terminal it is wrapped between words, and goes on further in."""
    if sys.stdout.isatty():
        width = max(40, shutil.get_terminal_size().columns)
        text = textwrap.fill(text, width, subsequent_indent=" " * (indent + 2), break_on_hyphens=False)
    print(text)


def show_table(made: Table) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160  # a pipe has no width: wide enough to be read by a program
    Console(width=width, highlight=False, markup=False).print(made)  # no markup: E[f^2] is text
