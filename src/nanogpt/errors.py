"""What a person did that cannot work, said in one line, and what would work instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A problem that the user can mend. The command line prints it as one line, without a traceback.

    The message says what is wrong, where, and what would be right. `status` is the exit status:
    2 for input that was refused before anything started, 1 for work that had to stop.
    """

    status = 2

    def __init__(self, message: object = "") -> None:
        line = " ".join(str(message).splitlines())  # what a person typed may hold line breaks, or a book
        super().__init__(line if len(line) <= 2000 else f"{line[:1400]} ... {line[-500:]}")


class RunError(UserError):
    """A run that had started and cannot go on (a full disk, a loss that is not finite, a damaged file)."""

    status = 1


MANY = 60
"""Names that still make a line that is read; of more only the closest are said."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """'; did you mean 'x'? choices: x, y, z' — the tail of every error about a wrong name."""
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    guess = f"; did you mean '{close[0]}'?" if close else ""
    if len(choices) <= MANY:
        return f"{guess} (there is: {', '.join(choices)})"
    said = difflib.get_close_matches(word, choices, n=6, cutoff=0.0)
    return f"{guess} (there is: {', '.join(said)} and {len(choices) - len(said)} more)"
