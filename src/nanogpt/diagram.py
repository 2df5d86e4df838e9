"""A model as a drawing, from what `show.describe` says of it: as text for a terminal, as SVG for a slide.

No part and no layout is known here by name: boxes and arrows are the steps that wiring.py found, words are specs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

from nanogpt.proportions import counted

Facts = dict[str, Any]

# -- text ---------------------------------------------------------------------------------------------------------


def text(facts: Facts) -> str:
    """Each distinct wiring of the model's layers as lines and corners, top to bottom as the stream flows."""
    return "\n\n".join("\n".join(_block(kind, facts["model"]["dim"])) for kind in distinct(facts["kinds"]))


def distinct(kinds: list[Facts]) -> list[Facts]:
    """One of each kind of layer that is wired otherwise, or of other parts."""
    found: dict[str, Facts] = {}
    for kind in kinds:
        parts = [box["part"] for box in kind["boxes"].values()]
        found.setdefault(f"{kind['steps']} {parts}", kind)
    return list(found.values())


def _block(kind: Facts, dim: int) -> Iterator[str]:
    yield f"  x  (tokens x {dim})"
    for step in kind["steps"]:
        if not step["branches"]:
            yield from (f"  | {_words(kind, name)}" for name in step["shared"])
            continue
        shared = "".join(f"-- {_words(kind, name)} " for name in step["shared"])
        rows = ["".join(f"-- {_words(kind, name)} " for name in branch) for branch in step["branches"]]
        starts = [f"  |{shared}"] + [f"  |{' ' * len(shared)}"] * (len(rows) - 1) if shared else ["  |"] * len(rows)
        lines = [start + ("+" if shared else "") + row for start, row in zip(starts, rows, strict=True)]
        wide = max(map(len, lines)) + 2
        for line in lines:
            yield line.ljust(wide, "-") + "+"
        label = join_words(kind, step["join"])
        yield "  + <".ljust(wide, "-") + "+" + (f"  {label}" if label else "")
    yield "  x"


def _words(kind: Facts, name: str) -> str:
    box = kind["boxes"][name]
    knobs = ", ".join(knob_words(kind, name))
    return box["part"] + (f"({knobs})" if knobs else "")


def knob_words(kind: Facts, name: str) -> list[str]:
    """What a part says of itself, less what one kind of layer has otherwise: that stands beside the layers."""
    skip = {key.partition(".")[2] for key in kind["differs"] if key.startswith(f"{name}.")}
    return [f"{k}={v}" for k, v in kind["boxes"][name]["knobs"].items() if k not in skip]


def join_words(kind: Facts, name: str) -> str:
    """How a branch meets the stream, where that is more than a sum."""
    box = kind["boxes"].get(name, {"part": "plain", "knobs": {}})
    knobs = ", ".join(f"{k}={v}" for k, v in box["knobs"].items())
    return "" if box["part"] == "plain" else box["part"] + (f"({knobs})" if knobs else "")


# -- SVG ----------------------------------------------------------------------------------------------------------

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito 2008: told apart by the colour-blind too. Each kind of layer has its own, and its letter."""
STYLE = """<style>
svg{font-family:Helvetica,Arial,sans-serif;background:#fff}
text{fill:#222;font-size:13px}.title{font-size:24px;font-weight:600}.small{font-size:11.5px;fill:#555}
.name{font-weight:600}.mid{text-anchor:middle}.end{text-anchor:end}
.box{fill:#f4f6f8;stroke:#8a949e;stroke-width:1.2}.norm{fill:#fdf6e3}
.frame{fill:none;stroke:#8a949e;stroke-dasharray:5 4}
.line{fill:none;stroke:#444;stroke-width:1.6}.join{fill:#fff;stroke:#444;stroke-width:1.6}
.letter{fill:#fff;font-weight:600}
@media screen and (prefers-color-scheme:dark){svg{background:#15181c}text{fill:#e6e6e6}.small{fill:#a9b2bb}
.box{fill:#242a31;stroke:#6b7682}.norm{fill:#33301f}.frame{stroke:#6b7682}.line{stroke:#c8ccd0}
.join{fill:#15181c;stroke:#c8ccd0}.letter{fill:#fff}.head{fill:#c8ccd0}}
</style><defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0.5L8 4L0 7.5z" fill="#444" class="head"/></marker></defs>"""
GAP, LINE, PAD = 30, 16, 9
"""Between boxes, between lines of text, around them."""
LEFT, BOX = 40, 300
"""Where the column of the whole model begins; the width of a box."""
WIDE = 42
"""Letters of small print that a box has room for, in the widest of the usual fonts."""


class Canvas:
    """Shapes so far, and how far down they reach."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        self.right = self.bottom = 0.0

    def add(self, shape: str, right: float = 0, bottom: float = 0) -> None:
        self.shapes.append(shape)
        self.right, self.bottom = max(self.right, right), max(self.bottom, bottom)

    def text(self, x: float, y: float, said: str, kind: str = "") -> None:
        self.add(f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}">{escape(said)}</text>')

    def line(self, path: str, arrow: bool = True) -> None:
        end = ' marker-end="url(#arrow)"' if arrow else ""
        self.add(f'<path class="line" d="{path}"{end}/>')

    def box(self, x: float, y: float, wide: float, name: str, lines: list[str], kind: str = "") -> float:
        """A box with a name and lines of small print; answers its lower edge."""
        tall = 2 * PAD + LINE * (1 + len(lines)) - 2
        self.add(
            f'<rect class="box {kind}" x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{tall}" rx="6"/>',
            x + wide, y + tall,
        )  # fmt: skip
        self.text(x + wide / 2, y + PAD + 12, name, "name mid")
        for n, said in enumerate(lines, 1):
            self.text(x + wide / 2, y + PAD + 12 + LINE * n, said, "small mid")
        return y + tall

    def join(self, x: float, y: float, said: str) -> None:
        self.add(f'<circle class="join" cx="{x:.0f}" cy="{y:.0f}" r="10"/>')
        self.line(f"M{x - 5:.0f} {y:.0f}h10M{x:.0f} {y - 5:.0f}v10", arrow=False)
        if said:
            self.text(x + 16, y - 6, said, "small")


def svg(facts: Facts) -> str:
    """The architecture: the whole model on the left, bottom up as in the papers' figures turned over (tokens on top),
    one block of each wiring on the right."""
    canvas = Canvas()
    model = facts["model"]
    canvas.text(LEFT, 44, facts["preset"], "title")
    sizes = [
        f"{facts['total_parameters']:,} parameters",
        counted(model["n_layers"], "layer"),
        f"width {model['dim']:,}",
    ]
    sizes += [f"context {model['context']:,}", f"vocabulary {model['vocab_size']:,}"]
    canvas.text(LEFT, 66, " · ".join(sizes), "small")
    canvas.right = LEFT + 7 * 80
    _column(canvas, facts)
    x: float = LEFT + BOX + 130
    for kind in distinct(facts["kinds"]):
        x = _draw_block(canvas, facts, kind, x) + 60
    wide, tall = canvas.right + 40, canvas.bottom + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall:.0f}" width="{wide:.0f}" '
        f'height="{tall:.0f}" role="img"><title>{escape(facts["preset"])}: architecture</title>{STYLE}\n'
        + "\n".join(canvas.shapes) + "\n</svg>\n"
    )  # fmt: skip


def _column(canvas: Canvas, facts: Facts) -> None:
    """tokens -> embed -> layers -> norm -> head -> logits."""
    model, ends = facts["model"], facts["ends"]
    middle, y = LEFT + BOX / 2, 118.0
    canvas.text(middle, y, "token ids", "mid")
    y = _arrow(canvas, middle, y + 6, "T")
    added = [f"+ {name} position" for name in ends["positions_added"]]
    tables = [" \u00d7 ".join(f"{n:,}" for n in shape) for shape in ends["embed"]["tables"]]
    y = canvas.box(LEFT, y, BOX, ends["embed"]["part"] + " embedding", [*_said(ends["embed"]), *added,
                   *_wrapped(" \u00b7 ".join(tables), WIDE, " \u00b7 ")])  # fmt: skip
    stream = f"T \u00d7 {model['dim']:,}"
    y = _arrow(canvas, middle, y, stream)
    if facts["kinds"]:
        y = _stack(canvas, facts, y)
        y = _arrow(canvas, middle, y, stream)
    if ends["norm"]["part"] != "none":
        y = canvas.box(LEFT, y, BOX, ends["norm"]["part"], _said(ends["norm"]), "norm")
        y = _arrow(canvas, middle, y, stream)
    if ends["head"]["part"] != "none":
        sizes = _sizes(ends["head"]) if len(ends["head"]["matrices"]) > 1 else []
        sizes = sizes or [f"{model['dim']:,} \u00d7 {model['vocab_size']:,}"]
        y = canvas.box(LEFT, y, BOX, ends["head"]["part"] + " head", [*_said(ends["head"]), *sizes])
        y = _arrow(canvas, middle, y, f"T \u00d7 {model['vocab_size']:,}")
    canvas.text(middle, y + 14, "logits", "mid")
    canvas.bottom = max(canvas.bottom, y + 20)


def _arrow(canvas: Canvas, x: float, y: float, said: str) -> float:
    canvas.line(f"M{x:.0f} {y:.0f}v{GAP}")
    canvas.text(x + 10, y + GAP / 2 + 4, said, "small")
    return y + GAP + 2


def _stack(canvas: Canvas, facts: Facts, y: float) -> float:
    """The layers: a square for each in rows, a colour and a letter for each kind, then what the kinds are."""
    words = facts["letters"].split(" ")
    square, top = 20, y
    x: float = LEFT + 14
    y += 26
    canvas.text(LEFT + 14, y, counted(facts["model"]["n_layers"], "layer"), "name")
    y += 10
    numbers = {kind["kind"]: n for n, kind in enumerate(facts["kinds"])}
    period = len(words[0]) * square
    for word in words:
        if x > LEFT + 14 and x + period > LEFT + BOX - 10:
            x, y = LEFT + 14, y + square + 4
        for letter in word:
            if x + square > LEFT + BOX - 8:
                x, y = LEFT + 14, y + square + 4
            color = COLORS[numbers.get(letter, 0) % len(COLORS)]
            canvas.add(
                f'<rect x="{x:.0f}" y="{y:.0f}" width="{square - 3}" height="{square - 3}" rx="3" fill="{color}"/>'
            )
            if len(numbers) > 1:
                canvas.text(x + (square - 3) / 2, y + 13, letter, "mid small letter")
            x += square
        x += 6
    y += square + 4
    for kind in facts["kinds"] if len(numbers) > 1 else []:
        color = COLORS[numbers[kind["kind"]] % len(COLORS)]
        canvas.add(f'<rect x="{LEFT + 14}" y="{y + 4:.0f}" width="12" height="12" rx="3" fill="{color}"/>')
        canvas.text(LEFT + 32, y + 15, f"{kind['kind']}: {counted(kind['layers'], 'layer')}", "small name")
        for key, value in kind["differs"].items():
            y += LINE
            said = f"{key} = {value}{' (off)' if value == '0' else ''}"  # of a window, a cap, a share
            for n, row in enumerate(_wrapped(said, WIDE)):
                y += LINE * (n > 0)
                canvas.text(LEFT + 32, y + 15, row, "small")
        y += LINE + 6
    y += 8
    canvas.add(
        f'<rect class="frame" x="{LEFT}" y="{top:.0f}" width="{BOX}" height="{y - top:.0f}" rx="8"/>', LEFT + BOX, y
    )
    return y


def _draw_block(canvas: Canvas, facts: Facts, kind: Facts, x: float) -> float:
    """One block from top to bottom; answers its right edge."""
    many = max(1, *(len(step["branches"]) for step in kind["steps"]))
    stream, first = x, x + 56
    y, top = 132.0, 96.0
    same = [k["kind"] for k in facts["kinds"] if distinct([kind, k]) == [kind]]
    title = "one layer" if len(facts["kinds"]) == 1 else f"a layer of kind {' or '.join(same)}"
    canvas.text(x - 20, top + 22, title, "name")
    y += 6
    start = y
    for step in kind["steps"]:
        y = _draw_step(canvas, facts, kind, step, stream, first, y)
    canvas.line(f"M{stream:.0f} {y:.0f}v{GAP}")
    canvas.text(stream - 8, start - 4 + 12, "x", "end")
    canvas.text(stream + 10, y + GAP - 6, f"T \u00d7 {facts['model']['dim']:,}", "small")
    right, bottom = first + many * (BOX + 24) + 4, y + GAP + 14
    canvas.add(f'<rect class="frame" x="{x - 34:.0f}" y="{top:.0f}" width="{right - x + 34:.0f}" '
               f'height="{bottom - top:.0f}" rx="8"/>', right, bottom)  # fmt: skip
    return right


def _draw_step(canvas: Canvas, facts: Facts, kind: Facts, step: Facts, stream: float, first: float, y: float) -> float:
    """What happens to the stream once: a part on it, or branches beside it that come back."""
    if not step["branches"]:
        for name in step["shared"]:
            canvas.line(f"M{stream:.0f} {y:.0f}V{y + 22:.0f}")
            low = canvas.box(
                stream - 24, y + 24, BOX + 80, kind["boxes"][name]["part"], _lines(facts, kind, name), _class(name)
            )
            y = low
        return y
    rows = step["branches"]
    middles = [first + BOX / 2 + n * (BOX + 24) for n in range(len(rows))]
    fork, top = y + 14, y
    y = fork
    canvas.line(f"M{stream:.0f} {fork:.0f}H{middles[0]:.0f}v16", arrow=bool(step["shared"] or rows[0]))
    if len(rows) > 1 and not step["shared"]:
        for middle in middles[1:]:
            canvas.line(f"M{middles[0]:.0f} {fork:.0f}H{middle:.0f}v16")
    y += 18
    for name in step["shared"]:
        y = canvas.box(
            middles[0] - BOX / 2, y, BOX, kind["boxes"][name]["part"], _lines(facts, kind, name), _class(name)
        )
        for middle in middles:
            canvas.line(
                f"M{middles[0]:.0f} {y + 10:.0f}H{middle:.0f}v12"
                if middle > middles[0]
                else f"M{middle:.0f} {y:.0f}v22"
            )
        y += 24
    ends = []
    for middle, row in zip(middles, rows, strict=True):
        at = y
        for n, name in enumerate(row):
            if n:
                canvas.line(f"M{middle:.0f} {at:.0f}v20")
                at += 22
            at = canvas.box(
                middle - BOX / 2, at, BOX, kind["boxes"][name]["part"], _lines(facts, kind, name), _class(name)
            )
        ends.append(at)
    join = max(ends) + 20
    for middle, end in zip(middles, ends, strict=True):
        canvas.line(f"M{middle:.0f} {end:.0f}V{join:.0f}", arrow=False)
    canvas.line(f"M{max(middles):.0f} {join:.0f}H{stream + 12:.0f}")
    canvas.line(f"M{stream:.0f} {top:.0f}V{join - 11:.0f}")
    canvas.join(stream, join, join_words(kind, step["join"]))
    return join + 10


def _class(name: str) -> str:
    return "norm" if name.endswith("norm") else ""


def _lines(facts: Facts, kind: Facts, name: str) -> list[str]:
    """Small print of a box: its knobs, positions that act inside it, its matrices."""
    lines = _wrapped(", ".join(knob_words(kind, name)), WIDE)
    position = kind["position"].split("(")[0]
    elsewhere = ("none", *facts["ends"]["positions_added"])
    if name == "mixer" and position not in elsewhere and "position" not in kind["differs"]:
        differs = any(key.startswith("position.") for key in kind["differs"])
        lines += _wrapped("position: " + (position if differs else kind["position"]), WIDE)
    return lines + _sizes(kind["boxes"][name])


def _sizes(box: Facts) -> list[str]:
    """Its matrices, as q 4,096→1,024."""
    sizes = " · ".join(f"{label} {n_in:,}→{n_out:,}" for label, n_in, n_out in box["matrices"])
    return _wrapped(sizes, WIDE, " · ")


def _said(box: Facts) -> list[str]:
    return _wrapped(", ".join(f"{k}={v}" for k, v in box["knobs"].items()), WIDE)


def _wrapped(said: str, wide: int, between: str = ", ") -> list[str]:
    """Cut where items end; a comma stays at the end of its line. 8.0 is 8."""
    lines: list[str] = []
    for item in re.sub(r"\.0(?=[,)]|$)", "", said).split(between) if said else []:
        if lines and len(lines[-1]) + len(between) + len(item) <= wide:
            lines[-1] += between + item
        else:
            lines[-1:] = [line + between.rstrip(" ·") for line in lines[-1:]]
            lines.append(item)
    return lines
