"""A part written as text: `attention(heads=6, norm=rmsnorm(eps=1e-5))` <-> a name and its knobs.

Grammar:

    spec   = name [ "(" [ item { "," item } ] ")" ]      item  = [ knob "=" ] value
    value  = number | word | spec | "[" values "]"       words may be quoted: 'a b'
    depth  = term { "+" term }                           term  = [ [count] "*" ] spec

A name is a word from a table of parts, or where a part of your own lives: `my_parts.py:Mine`.
`depth` says which part each layer gets: see `expand`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nanogpt.errors import UserError

Value: TypeAlias = "int | float | str | Spec | list[Value]"

TOKEN = re.compile(
    r"\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])"
    r"|(?P<word>[A-Za-z_~./\\][\w~./\\:@-]*)"
    r"|'(?P<quoted>[^']*)'"
    r"|(?P<mark>[(),=\[\]+*]))"
)


LONGEST = 20_000
"""Characters in one text: far more than any part needs, few enough to read in a moment."""
DEEPEST = 30
"""Parts inside parts."""


@dataclass(frozen=True)
class Spec:
    """A part's name, the values given by position, and those given by name. `str()` gives its text back."""

    name: str
    args: tuple[Value, ...] = ()
    knobs: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        items = [to_text(v) for v in self.args] + [f"{k}={to_text(v)}" for k, v in self.knobs.items()]
        return to_text(self.name) + (f"({', '.join(items)})" if items else "")

    def with_knob(self, name: str, value: Value) -> Spec:
        return Spec(self.name, self.args, {**self.knobs, name: value})


def to_text(value: Value) -> str:
    """The text that `parse_value` reads back as the same value."""
    if isinstance(value, Spec):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(to_text(v) for v in value)}]"
    if isinstance(value, str):
        match = TOKEN.fullmatch(value)
        return value if match and match.lastgroup == "word" and value.strip() == value else f"'{value}'"
    return repr(value)


class _Reader:
    """A cursor over the tokens of one text."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise UserError(f"'{text[:40]}...' has {len(text)} characters; at most {LONGEST} can be read")
        self.text, self.tokens = text, list(self._tokens(text))
        self.at = self.depth = 0

    def _tokens(self, text: str) -> Iterator[tuple[str, str, int]]:
        end, stop = 0, len(text.rstrip())
        while end < stop:
            match = TOKEN.match(text, end)
            if not match:
                raise UserError(f"cannot read '{text}' at '{text[end:].strip()[:20]}'")
            kind = str(match.lastgroup)
            yield kind, match[kind], match.start(kind)
            end = match.end()

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at][:2] if self.at < len(self.tokens) else ("end", "")

    def next(self) -> tuple[str, str]:
        token = self.peek()
        self.at += 1
        return token

    def accept(self, mark: str) -> bool:
        if self.peek() == ("mark", mark):
            self.at += 1
            return True
        return False

    def refuse(self, wanted: str) -> UserError:
        kind, word = self.peek()
        found = "the text ends" if kind == "end" else f"there is '{word}'"
        return UserError(f"cannot read '{self.text}': {wanted} expected, but {found}")

    def spec(self) -> Spec:
        kind, name = self.peek()
        if kind not in ("word", "quoted") or not name:
            raise self.refuse("the name of a part")
        self.next()
        args: list[Value] = []
        knobs: dict[str, Value] = {}
        if self.accept("("):
            while not self.accept(")"):
                named = self.peek()[0] == "word" and self.tokens[self.at + 1 : self.at + 2]
                if named and named[0][:2] == ("mark", "="):
                    knob = self.next()[1]
                    self.next()
                    if knob in knobs:
                        raise UserError(f"cannot read '{self.text}': '{knob}' is given twice")
                    knobs[knob] = self.value()
                elif knobs:
                    raise self.refuse("'knob=value' (values without a name come first)")
                else:
                    args.append(self.value())
                if not self.accept(",") and self.peek() != ("mark", ")"):
                    raise self.refuse("',' or ')'")
        return Spec(name, tuple(args), knobs)

    def value(self) -> Value:
        if self.peek()[0] == "number":
            return self.number()
        self.depth += 1
        if self.depth > DEEPEST:
            raise UserError(f"cannot read '{self.text[:40]}...': parts are nested more than {DEEPEST} deep")
        try:
            return self.nested()
        finally:
            self.depth -= 1

    def number(self) -> int | float:
        word = self.next()[1]
        whole = not re.search(r"[.eE]", word)
        if len(word) > 20 if whole else not math.isfinite(float(word)):
            raise UserError(f"cannot read '{self.text[:80]}': the number {word[:20]} is too large")
        return int(word) if whole else float(word)

    def nested(self) -> Value:
        """A list, a quoted word, or a part with what is inside it."""
        kind, word = self.peek()
        if self.accept("["):
            values: list[Value] = []
            while not self.accept("]"):
                values.append(self.value())
                if not self.accept(",") and self.peek() != ("mark", "]"):
                    raise self.refuse("',' or ']'")
            return values
        following = self.tokens[self.at + 1 : self.at + 2]
        if kind == "quoted" and not (following and following[0][:2] == ("mark", "(")):
            self.next()
            return word
        spec = self.spec()
        return spec if spec.args or spec.knobs else spec.name

    def end(self) -> None:
        if self.peek()[0] != "end":
            raise self.refuse("the end of the text")


def parse(text: str | Spec) -> Spec:
    """Read one part. Raises UserError with the place where the text goes wrong."""
    if isinstance(text, Spec):
        return text
    reader = _Reader(str(text))
    spec = reader.spec()
    reader.end()
    return spec


def parse_value(text: str) -> Value:
    """Read one value: a number, a word, a part or a list."""
    reader = _Reader(text)
    value = reader.value()
    reader.end()
    return value


@dataclass(frozen=True)
class Term:
    """`count` layers of one part; `fill` takes the layers that the other terms leave."""

    spec: Spec
    count: int = 1
    fill: bool = False

    def __str__(self) -> str:
        return f"{'*' if self.fill else f'{self.count}*' if self.count != 1 else ''}{self.spec}"


def parse_depth(value: str | Spec | Sequence[str | Spec]) -> list[Term]:
    """Read what a per-layer field says: one part, a list of parts, or `5*a + b`, `3*a + *b`."""
    if not isinstance(value, (str, Spec)):
        if not value:
            raise UserError("an empty list names no part; nearest: none")
        return [term for item in value for term in parse_depth(item)]
    if isinstance(value, Spec):
        return [Term(value)]
    reader = _Reader(value)
    terms = []
    while True:
        count, fill = 1, False
        if reader.accept("*"):
            fill = True
        elif reader.peek()[0] == "number":
            number = reader.next()[1]
            if not number.isdigit() or len(number) > 9 or int(number) < 1:
                raise UserError(
                    f"cannot read '{value[:80]}': {number[:20]} layers; a count is a whole number from 1 to 999999999"
                )
            count = int(number)
            if not reader.accept("*"):
                raise reader.refuse("'*' after a count")
        terms.append(Term(reader.spec(), count, fill))
        if not reader.accept("+"):
            break
    reader.end()
    return terms


def expand(value: str | Spec | Sequence[str | Spec], n_layers: int) -> list[Spec]:
    """One part for each layer.

    Without a `*` term the parts are a cycle, repeated over depth: `5*local + global` is five local
    layers, one global one, five local ones ... With one, each count is exact and the `*` part fills
    what is left: `3*mlp + *moe` is dense in the first three layers only.
    """
    terms = parse_depth(value)
    fills = [t for t in terms if t.fill]
    if len(fills) > 1:
        raise UserError(f"'{' + '.join(map(str, terms))}': only one part can fill the layers that are left")
    if not fills:
        cycle = [t.spec for t in terms for _ in range(min(t.count, n_layers))]
        return [cycle[layer % len(cycle)] for layer in range(n_layers)]
    left = n_layers - sum(t.count for t in terms if not t.fill)
    if left < 0:
        raise UserError(f"'{' + '.join(map(str, terms))}' names {n_layers - left} layers; the model has {n_layers}")
    return [t.spec for t in terms for _ in range(left if t.fill else t.count)]


def compress(specs: Sequence[Spec]) -> list[str]:
    """The shortest list of parts whose cycle is `specs`: what a resolved configuration stores."""
    texts = [str(s) for s in specs]
    for length in range(1, len(texts) + 1):
        if len(texts) % length == 0 and texts == texts[:length] * (len(texts) // length):
            return texts[:length]
    return texts


def as_plain(value: Any) -> Value:
    """A knob's value as it is written: a number, a word, a Spec or a list of these."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Spec, list, tuple)):
        raise TypeError(f"{value!r} cannot be written as a knob")
    return [as_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
