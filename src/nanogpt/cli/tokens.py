"""Tokens in the terminal: each on a colour of its own, or, where there are no colours, between bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from nanogpt.cli.base import show_table, table
from nanogpt.tokenizers import Tokenizer
from nanogpt.tokenizers.pieces import shown
from nanogpt.tokenizers.questions import QUESTIONS

STYLES = ("black on #56b4e9", "black on #e69f00", "black on #009e73", "black on #f0e442", "black on #cc79a7")
"""Okabe and Ito 2008: told apart by all. Neighbours never have the same."""


def print_tokens(opened: Mapping[str, Tokenizer], text: str) -> None:
    """The tokens of a text under each vocabulary."""
    console = Console(highlight=False, markup=False, emoji=False)
    for name, tokenizer in opened.items():
        ids = tokenizer.encode(text)
        many = f"{len(ids):,} token{'s' * (len(ids) != 1)}, {len(text.encode()) / max(1, len(ids)):.2f} bytes a token"
        console.print(Text(f"{name}: {many}", "bold"))
        console.print(coloured(shown(tokenizer, ids.tolist()), colours=console.color_system is not None))


def coloured(tokens: list[str], colours: bool) -> Text:
    line = Text()
    for number, token in enumerate(tokens):
        if colours:
            line.append(token, STYLES[number % len(STYLES)])
        else:
            line.append(("|" if number else "") + token)
        if token.endswith("↵"):
            line.append("\n")
    return line


def print_why(opened: Mapping[str, Tokenizer]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    for question in QUESTIONS:
        console.print(Text(f"\n{question.asked}", "bold"))
        console.print(Text(question.answer))
        for text in question.texts:
            for name, tokenizer in opened.items():
                ids = question.ids(tokenizer, text)
                console.print(Text(f"  {name} {len(ids)}  ", "dim"), end="")
                console.print(coloured(shown(tokenizer, ids), colours=console.color_system is not None))


def json_of(opened: Mapping[str, Tokenizer], text: str | None) -> dict[str, Any]:
    """The same for a program; without a text, the questions."""
    if text is not None:
        return {name: _tokens(t, t.encode(text).tolist()) for name, t in opened.items()}
    return {
        "questions": [
            {
                "asked": question.asked,
                "answer": question.answer,
                "texts": [
                    {"text": text} | {name: _tokens(t, question.ids(t, text)) for name, t in opened.items()}
                    for text in question.texts
                ],
            }
            for question in QUESTIONS
        ]
    }


def _tokens(tokenizer: Tokenizer, ids: list[int]) -> list[dict[str, Any]]:
    return [{"id": i, "token": token} for i, token in zip(ids, shown(tokenizer, ids), strict=True)]


def print_comparison(found: Mapping[str, Any]) -> None:
    """The tables of each group of texts, and what of each vocabulary all texts together use."""
    names = list(found["vocabulary"])
    for group, rows in found["texts"].items():
        made = table(group, *(f"#{name}" for name in names), title="bytes per token (tokens per word)")
        used = table(group, *(f"#{name}" for name in names), title="different tokens")
        premium = table(group, *(f"#{name}" for name in names), title="tokens beside those of the same in English")
        for title, row in rows.items():
            made.add_row(title, *(_cell(row[name]) for name in names))
            used.add_row(title, *(f"{row[name]['used']:,}" for name in names))
            if "premium" in row[names[0]]:
                premium.add_row(title, *(f"{row[name]['premium']:.2f}" for name in names))
        show_table(made)
        show_table(used)
        if premium.row_count:
            show_table(premium)
    whole = table("vocabulary", "#tokens", "#used", "#share")
    for name, row in found["vocabulary"].items():
        whole.add_row(name, f"{row['size']:,}", f"{row['used']:,}", f"{row['share']:.2%}")
    show_table(whole)


def _cell(numbers: Mapping[str, Any]) -> str:
    words = "   -  " if numbers["fertility"] is None else f"({numbers['fertility']:.2f})"
    rate = numbers["bytes_per_token"]
    return f"{'-' if rate is None else f'{rate:.2f}'} {words}"
