"""Tokens on a page that opens offline: a text under several vocabularies, words as they form, the lecture's questions.

Colours only separate neighbours, and a line before each token does too. All that comes from a text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from nanogpt.files import one_line, write_whole
from nanogpt.tokenizers import Tokenizer
from nanogpt.tokenizers.pieces import shown, steps, visible
from nanogpt.tokenizers.questions import QUESTIONS

COLOURS = 5
LETTERS = 20_000
"""How much of a text is shown."""
WORDS = 12
"""Words whose merges are shown, those with the most merges first."""


def write_page(path: Path, page: str) -> None:
    """Write it, whole."""
    with one_line(f"write {path}"):
        write_whole(path, page.encode())


def tokens_page(opened: Mapping[str, Tokenizer], text: str) -> str:
    """One text under each vocabulary, and how its words form."""
    cut = "" if len(text) <= LETTERS else f"<p>The first {LETTERS:,} of {len(text):,} characters.</p>"
    text = text[:LETTERS]
    cards = "".join(_card(name, tokenizer, text, tokenizer.encode(text).tolist()) for name, tokenizer in opened.items())
    forming = "".join(_forming(name, tokenizer, text) for name, tokenizer in opened.items())
    parts = f'<h2>The tokens</h2>{cut}<div class="beside">{cards}</div>'
    if forming:
        about = "A word begins as its bytes (or characters). The pair with the lowest rank is merged, again and again."
        parts += f'<h2>How words form</h2><p class="answer">{about}</p><div class="beside">{forming}</div>'
    return _page("tokens of one text: " + ", ".join(Path(name).name for name in opened), parts)


def why_page(opened: Mapping[str, Tokenizer]) -> str:
    """The lecture's questions, each with the tokens that explain it."""
    parts = ""
    for question in QUESTIONS:
        parts += f'<section><h2>{escape(question.asked)}</h2><p class="answer">{escape(question.answer)}</p>'
        for text in question.texts:
            cards = "".join(_card(name, t, text, question.ids(t, text)) for name, t in opened.items())
            parts += f'<div class="beside">{cards}</div>'
        parts += "</section>"
    return _page("why can't language models ...", parts)


def _page(title: str, body: str) -> str:
    css = _file("report.css") + _file("tokens.css")
    return Template(_file("tokens.html")).substitute(title=escape(title), css=css, body=body)


def _card(name: str, tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> str:
    rate = f", {len(text.encode()) / len(ids):.2f} bytes a token" if ids else ""
    count = f"{len(ids):,} token{'s' * (len(ids) != 1)}{rate}"
    return (
        f'<div class="card"><h3>{escape(name)}</h3><p class="count">{count}</p>'
        f'<p class="tokens">{_spans(shown(tokenizer, ids), ids)}</p></div>'
    )


def _spans(tokens: Sequence[str], ids: Sequence[int] = (), new: int = -1) -> str:
    parts = []
    for n, token in enumerate(tokens):
        title = f' title="id {ids[n]}"' if ids else ""
        kind = f"t t{n % COLOURS}" + (" new" if n == new else "")
        end = "\n" if token.endswith("↵") else ""
        parts.append(f'<span class="{kind}"{title}>{escape(token)}</span>{end}')
    return "".join(parts)


def _forming(name: str, tokenizer: Tokenizer, text: str) -> str:
    """The words that take the most merges, each merge a row."""
    words = sorted(steps(tokenizer, text), key=lambda word: -len(word[1]))[:WORDS]
    boxes = "".join(_word(word, rows) for word, rows in words if len(rows) > 1)
    return f'<div class="card"><h3>{escape(name)}</h3>{boxes}</div>' if boxes else ""


def _word(word: str, rows: Sequence[Sequence[str]]) -> str:
    items = []
    for before, row in zip([rows[0], *rows], rows, strict=False):
        new = next((n for n, (a, b) in enumerate(zip(before, row, strict=False)) if a != b), -1)
        items.append(f'<li class="tokens">{_spans(row, new=new)}</li>')
    label = escape(visible(word.encode()))
    slider = f'<input type="range" min="0" aria-label="merges of {label}">'
    control = f"<label><code>{label}</code> {slider} <output></output></label>"
    return f'<div class="forming">{control}<ol>{"".join(items)}</ol></div>'


def _file(name: str) -> str:
    return files("nanogpt.views").joinpath(name).read_text(encoding="utf-8")
