"""The tokens of a text as they are shown: each one's bytes, and letters for what cannot be seen."""

from __future__ import annotations

from collections.abc import Iterable

from nanogpt.tokenizers.base import Tokenizer
from nanogpt.tokenizers.bytepair import Merging, SentencePiece


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes that an id stands for. The library gives text only, so there a part of a character is U+FFFD."""
    return tokenizer.tokens[token] if isinstance(tokenizer, Merging) else tokenizer.decode([token]).encode()


def visible(token: bytes) -> str:
    """A token as text: bytes that are no character by themselves as <e4 b8>, a space as a dot."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return "<" + token.hex(" ") + ">"
    return "".join(SHOWN.get(c) or (c if c.isprintable() else f"<U+{ord(c):04X}>") for c in text)


SHOWN = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}


def shown(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Each token, visible."""
    return [visible(token_bytes(tokenizer, int(i))) for i in ids]


def steps(tokenizer: Tokenizer, text: str) -> list[tuple[str, list[list[str]]]]:
    """Each different word of a text, and what it is after each merge. Empty where no merges are known."""
    if not isinstance(tokenizer, Merging):
        return []
    words = dict.fromkeys(tokenizer.words(text))
    space = "▁" if isinstance(tokenizer, SentencePiece) else ""
    return [
        (word.replace(space, " ") if space else word, [shown(tokenizer, ids) for ids in tokenizer.steps(word)])
        for word in words
    ]
