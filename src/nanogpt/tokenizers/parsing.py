"""The text of a tokenizer.json, parsed and made a tokenizer; what is none is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from nanogpt.errors import UserError

MOST_IDS = 2**31
"""Ids are int32 everywhere."""
T = TypeVar("T")


def from_json(text: str, where: str, make: Callable[[dict[str, Any]], T]) -> T:
    """What `make` makes of the file's parts. UserError for what is no tokenizer.json; `where` it is from is said."""
    try:
        parts = json.loads(text)
        check_ids(_ids(parts))
        return make(parts)
    except RecursionError:
        reason = "not a tokenizer.json: nested too deeply"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, UserError) else "not a tokenizer.json"
    raise UserError(f"{where}: {reason}")


def _ids(parts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each token and its id: of the vocabulary (a list has its places for ids), and of what was added to it."""
    vocab = parts["model"]["vocab"]
    if isinstance(vocab, dict):
        yield from vocab.items()
    for token in parts.get("added_tokens") or ():
        yield token["content"], token["id"]


def check_ids(pairs: Iterable[tuple[str, Any]]) -> None:
    """UserError where an id is no id, where two tokens have the same, or a token has two."""
    ids: dict[str, int] = {}
    tokens: dict[int, str] = {}
    for token, i in pairs:
        if type(i) is not int or not 0 <= i < MOST_IDS:
            raise UserError(f"the token {token!r} has the id {i!r}; ids are whole numbers from 0 to {MOST_IDS - 1}")
        if ids.setdefault(token, i) != i:
            raise UserError(f"the token {token!r} has two ids, {ids[token]} and {i}")
        if tokens.setdefault(i, token) != token:
            raise UserError(f"the tokens {tokens[i]!r} and {token!r} have the same id, {i}")
