"""Rows of a kind of tensor, gathered: the same part of every layer belongs together, `blocks.*.ffn.act`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nanogpt.views.source import Source
from nanogpt.views.view import Choice

ALL = "all"
OTHER = "outside the layers"
WORDS = {
    "activations": "activations",
    "activation_gradients": "activation gradients",
    "weights": "weights",
    "weight_gradients": "weight gradients",
    "updates": "updates",
}
KEYS = {word: kind for kind, word in WORDS.items()}


def role(name: str) -> str:
    """What a row is, whatever layer it stands in: `blocks.3.ffn.act` is `blocks.*.ffn.act`."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Role -> its rows in the model's order; what stands alone is together under OTHER."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(role(name), []).append(name)
    alone = [rows[0] for rows in found.values() if len(rows) == 1]
    found = {key: rows for key, rows in found.items() if len(rows) > 1}
    return found | ({OTHER: alone} if alone else {})


def chosen(names: Sequence[str], rows: str) -> list[str]:
    return list(names) if rows == ALL else groups(names).get(rows, [])


def per_run(found: Sequence[Source], has: dict[str, Sequence[Choice]]) -> list[Choice]:
    """Choices of each run, with the run before them where there are several."""
    return [{"run": one.name, **choice} for one in found for choice in has.get(one.name, ())]


def of(found: Sequence[Source], run: str) -> Source:
    return next(one for one in found if one.name == run)
