"""What the pictures of a study draw: a finished study, given as itself or as its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanogpt.study.folder import Study
from nanogpt.views.theme import plain

LETTERS = 34
"""Of a label, until it goes on in the next line."""


def studies(given: Study | str | Path | Sequence[Study]) -> list[Study]:
    if isinstance(given, (str, Path)):
        return [Study.open(given)]
    return [given] if isinstance(given, Study) else list(given)


def number_of(study: Study, arm: str) -> int:
    """Its place in the plan: an arm has one colour, dash and symbol in all figures."""
    return list(study.plan.arms).index(arm)


def wrapped(text: str, letters: int = LETTERS) -> str:
    """A label in lines."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(plain(line) for line in lines)
