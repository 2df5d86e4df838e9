"""Writes docs/catalogue.md and the plots of the activations from the tables of parts.

    python docs/make_catalogue.py [FOLDER]

A part's text is its docstring, its knobs are its signature, so the page cannot say what the code does not; a test
compares the page with what this writes.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nanogpt.activations import ACTIVATIONS
from nanogpt.config import presets, read_preset, validate
from nanogpt.parts import build, knobs_of
from nanogpt.show import AXES
from nanogpt.spec import Spec, parse, parse_depth

TITLES = {
    "tokenizer": "Tokenizers",
    "model.embed": "Embeddings: token ids to vectors",
    "model.position": "Positions",
    "(scaling)": "Scalings of rotary positions: `rotary(scaling=...)`",
    "model.mixer": "Mixers: what moves information between positions",
    "model.ffn": "Feed-forward: what works on each position alone",
    "(act)": "Activations: `mlp(act=...)`, `glu(act=...)`",
    "model.norm": "Norms",
    "model.layout": "Layouts: how a block joins its parts to the stream",
    "(residual)": "Residual joins: `pre(residual=...)`",
    "model.head": "Heads: vectors to logits",
    "(smoothing)": "Smoothings of counts: `ngram(smoothing=...)`",
    "model.init": "Initial weights",
    "model.objective": "Objectives",
    "optim.optimizer": "Optimizers",
    "optim.schedule": "Schedules of the learning rate",
}
KNOB_AXES = {"act": "(act)", "norm": "model.norm", "qk_norm": "model.norm", "residual": "(residual)",
             "scaling": "(scaling)", "smoothing": "(smoothing)"}  # fmt: skip
"""The axis of a part inside a part. Any other (`rest`) is of its parent's axis."""
INTRO = """# The catalogue

Every part that there is, from the code itself (`python docs/make_catalogue.py` writes this page). In the terminal:
`nanogpt show --parts`. One line switches a part, as in

    nanogpt train gpt data.corpus=shakespeare model.ffn="mlp(act=mish)" model.norm=rmsnorm

D is the width of the stream, F the hidden width, B rows, T tokens, H heads, E numbers in a head, V the vocabulary.
A knob without a default must be given.
"""


def used() -> dict[tuple[str, str], list[str]]:
    """(axis, part) -> the presets that name it."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for preset in presets():
        sections = read_preset(preset)
        config = validate(sections)
        fields = {"tokenizer": config.tokenizer} if "tokenizer" in sections else {}
        fields |= {f"model.{k}": v for k, v in config.model}
        fields |= {f"optim.{k}": v for k, v in config.optim}
        names = {pair for axis, value in fields.items() if axis in AXES for pair in _named(axis, value)}
        for pair in names:
            found[pair].append(preset)
    return found


def _named(axis: str, value: str | list[str]) -> Iterator[tuple[str, str]]:
    """The parts that a field names, inner ones too."""
    for term in parse_depth(value):
        yield from _inside(axis, term.spec)


def _inside(axis: str, spec: Spec) -> Iterator[tuple[str, str]]:
    yield axis, spec.name
    for knob, value in spec.knobs.items():
        inner = KNOB_AXES.get(knob, axis)
        if isinstance(value, Spec) or (isinstance(value, str) and value in AXES[inner][0]):
            yield from _inside(inner, parse(value))


def text_of(part: Any) -> str:
    """The docstring as one flowing paragraph for each of its own."""
    doc = inspect.getdoc(getattr(part, "func", part)) or ""
    doc = re.sub(r"\n(?=[a-z_0-9, ]+: )", "\n\n", doc)  # each knob on a line of its own
    return "\n\n".join(" ".join(p.split()) for p in doc.split("\n\n"))


def knobs(part: Any, supplied: tuple[str, ...]) -> str:
    found = knobs_of(part, dict.fromkeys(supplied))
    return ", ".join(f"`{k}`" if p.default is p.empty else f"`{k}={p.default}`" for k, p in found.items())


def section(axis: str, uses: dict[tuple[str, str], list[str]]) -> Iterator[str]:
    table, supplied = AXES[axis]
    yield f"\n## {TITLES[axis]}\n"
    for name, part in table.items():
        yield f"\n### {name}\n"
        if isinstance(part, partial):
            base = next(k for k, p in table.items() if p is part.func)
            said = ", ".join(f"{k}={v}" for k, v in part.keywords.items())
            yield f"[{base}](#{base}) with {said}.\n"
        else:
            yield escaped(text_of(part)) + "\n"
        if axis == "(act)":
            yield f'<img src="figures/activations/{name}.svg" width="300" alt="{name} and its derivative">\n'
        if said := knobs(part, supplied):
            yield f"Knobs: {said}\n"
        if presets_of := uses.get((axis, name)):
            more = f" and {len(presets_of) - 8} more" if len(presets_of) > 8 else ""
            yield f"In: {', '.join(presets_of[:8])}{more}\n"


def escaped(text: str) -> str:
    """Markdown takes * and _ and < for its own, outside of `code`."""
    return re.sub(r"(`[^`]*`)|([*_<|])", lambda found: found[1] or "\\" + found[2], text)


def page() -> str:
    uses = used()
    lines = [INTRO, *(line for axis in AXES for line in section(axis, uses))]
    return "\n".join(lines)


# -- plots -----------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, EDGE, SPAN = 300, 180, 26, 4.0
STYLE = """<style>text{font:10px sans-serif;fill:#444}.axis{stroke:#999}.f,.d{fill:none;stroke-width:2}
.f{stroke:#0072b2}.d{stroke:#d55e00;stroke-dasharray:5 3}
@media screen and (prefers-color-scheme:dark){text{fill:#ccc}.axis{stroke:#777}.f{stroke:#56b4e9}.d{stroke:#e69f00}}
</style>"""


def curve(f: Callable[[torch.Tensor], torch.Tensor], title: str) -> str:
    """An SVG of a function (solid) and its derivative (dashed) from -4 to 4."""
    x = torch.linspace(-SPAN, SPAN, 321, dtype=torch.float64, requires_grad=True)
    y = f(x)
    slope = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros_like(x)
    both = torch.cat([y, slope]).detach()
    low, high = max(-3.0, min(-0.25, float(both.min()))), min(5.0, max(1.25, float(both.max())))

    def across(value: float) -> float:
        return EDGE + (value + SPAN) / (2 * SPAN) * (WIDTH - 2 * EDGE)

    def up(value: float) -> float:
        return HEIGHT - EDGE - (value - low) / (high - low) * (HEIGHT - 2 * EDGE)

    def path(values: torch.Tensor) -> str:
        """A line; it is lifted where the curve leaves the frame."""
        points, pen = [], "M"
        for a, b in zip(x.tolist(), values.tolist(), strict=True):
            inside = low <= b <= high
            if inside:
                points.append(f"{pen}{across(a):.1f} {up(b):.1f}")
            pen = "L" if inside else "M"
        return "".join(points)

    labels = [(f"{v:g}", across(v), up(0) + 11) for v in (-4, -2, 2, 4)]
    labels += [(f"{v:g}", across(0) + 4, up(v) + 3) for v in (-2, -1, 1, 2, 3, 4) if low < v < high]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{title}: f(x), and f'(x) dashed, for x from -4 to 4</title>{STYLE}",
        f'<path class="axis" d="M{EDGE} {up(0):.1f}H{WIDTH - EDGE}M{across(0):.1f} {EDGE}V{HEIGHT - EDGE}"/>',
        *(f'<text x="{a:.1f}" y="{b:.1f}">{said}</text>' for said, a, b in labels),
        f'<path class="d" d="{path(slope)}"/><path class="f" d="{path(y.detach())}"/>',
        f'<path class="f" d="M{EDGE} 12h18"/><text x="{EDGE + 22}" y="15">f(x)</text>',
        f'<path class="d" d="M{EDGE + 52} 12h18"/><text x="{EDGE + 74}" y="15">f\'(x)</text>',
        f'<text x="{WIDTH - EDGE - 6}" y="{up(0) - 5:.1f}">x</text></svg>\n',
    ]
    return "\n".join(parts)


def function(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What an activation makes of x; one that sees several numbers sees (x, 0) and answers its first."""
    act = next(a for a in (build(ACTIVATIONS, name, dim=n) for n in (2, 1)) if a.inputs == 1 or a.dim == 1)
    act.double().eval()
    torch.manual_seed(1)  # some start at random
    for key, parameter in act.named_parameters():
        act.rules()[key](parameter.data)
    return lambda x: act(torch.stack([x, torch.zeros_like(x)], -1))[..., 0]


def write(folder: Path) -> None:
    plots = folder / "figures" / "activations"
    plots.mkdir(parents=True, exist_ok=True)
    (folder / "catalogue.md").write_text(page(), encoding="utf-8")
    for name in ACTIVATIONS:
        (plots / f"{name}.svg").write_text(curve(function(name), name), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
