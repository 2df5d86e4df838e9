"""Positions beyond the trained length: one small model for each kind, trained on 64 characters, scored on up to 512.

    python benchmarks/extrapolation.py [--steps N] [--json]

Trains on Tiny Shakespeare, then scores the whole validation split in windows of 64 to 512
tokens, and writes the table of docs/extrapolation.md and docs/figures/extrapolation.svg. Rotary positions are scored
four times, as they are and with each scaling, whose factor is how many times longer the windows are; nothing is trained
again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from pathlib import Path

import torch

import nanogpt as ng
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import prepare
from nanogpt.model.language_model import LanguageModel
from nanogpt.training import machine
from nanogpt.training.evaluate import evaluate

DOCS = Path(__file__).parent.parent / "docs"
TRAINED = 64
CONTEXTS = [64, 128, 256, 512]
MODEL = [
    "data.corpus=shakespeare",
    "tokenizer=char",
    "model.dim=96",
    "model.n_layers=3",
    f"model.context={TRAINED}",
    "model.mixer=attention(heads=4)",
    "model.ffn=swiglu",
    "model.norm=rmsnorm",
    "model.layout=pre",
    "model.head=linear",
    "model.init=kaiming(embedding=0.5)",
    "optim.optimizer=adamw(lr=3e-3, beta2=0.99, weight_decay=0.1)",
    "optim.schedule=cosine(warmup=30)",
    "optim.clip=1",
    "train.batch=16",
    "train.precision=fp32",
    "train.compile=off",
    "train.device=cpu",
]
TRAININGS = ["learned", "sinusoidal", "none", "rotary", "alibi", "t5"]
SCALED = {
    "rotary, linear": "rotary(scaling=linear(factor={factor}))",
    "rotary, ntk": "rotary(scaling=ntk(factor={factor}))",
    "rotary, yarn": f"rotary(scaling=yarn(factor={{factor}}, original={TRAINED}))",
}
STYLES = {
    "learned": ("learned", "", "circle"),
    "sinusoidal": ("sinusoidal", "6 3", "square"),
    "none": ("none", "2 3", "diamond"),
    "rotary": ("rotary", "", "triangle"),
    "rotary, linear": ("rotary", "6 3", "square"),
    "rotary, ntk": ("rotary", "2 3", "diamond"),
    "rotary, yarn": ("rotary", "8 3 2 3", "circle"),
    "alibi": ("alibi", "", "square"),
    "t5": ("t5", "8 3 2 3", "triangle"),
}
"""Colour, dashes and marker of each line."""


def measure(steps: int) -> dict[str, dict[int, float | None]]:
    """Validation loss in nats a token, by kind and context; None where the model has no such positions."""
    scores: dict[str, dict[int, float | None]] = {}
    for kind in TRAININGS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            overrides = [*MODEL, f"model.position={kind}", f"train.steps={steps}", f"train.eval_every={steps}"]
            run = ng.train("gpt", *overrides, out=folder, quiet=True)
            loaded, trained = ng.load(run, "last"), time.monotonic() - began
            own = {TRAINED: run.metrics()[-1]["val/loss"]}
            longer = [context for context in CONTEXTS if context > TRAINED]
            scores[kind] = own | {c: score(loaded, kind, c) for c in longer}
            for name, text in SCALED.items() if kind == "rotary" else ():  # at the trained length the factor is 1
                scores[name] = own | {c: score(loaded, text.format(factor=c / TRAINED), c) for c in longer}
        row = " ".join("     -" if v is None else f"{v:.4f}" for v in scores[kind].values())
        print(f"{kind:12s} {row}   trained in {trained:.0f} s", flush=True)
    return scores


def score(loaded: ng.Loaded, position: str, context: int) -> float | None:
    """The loss of the same weights in windows of another length, under other positions."""
    limit = loaded.model.limit
    if limit is not None and context > limit:
        return None
    wanted = {"position": position, "context": context}
    model = LanguageModel(loaded.config.model.model_copy(update=wanted))
    model.load_state_dict(loaded.model.state_dict())
    corpus = open_corpus(loaded.config.data)
    tokens = prepare(corpus, loaded.tokenizer, corpus.batching)["val"]
    how = machine.choose(loaded.config.train, dim=model.dim, flops=0.0)
    return evaluate(model, tokens, batching=corpus.batching, machine=how).loss


# -- the page -----------------------------------------------------------------------------------------------------


def table(scores: dict[str, dict[int, float | None]]) -> str:
    """Markdown."""
    contexts = list(next(iter(scores.values())))
    lines = ["| position | " + " | ".join(f"{c} tokens" for c in contexts) + " |", "|---" * (len(contexts) + 1) + "|"]
    for kind, row in scores.items():
        cells = " | ".join("-" if v is None else f"{v:.3f}" for v in row.values())
        lines.append(f"| {kind} | {cells} |")
    return "\n".join(lines)


def marker(kind: str, x: float, y: float) -> str:
    shapes = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        "square": f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>',
        "diamond": f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>',
        "triangle": f'<path d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>',
    }
    return shapes[kind]


SHEET = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .grid { stroke: #d0d7de; stroke-width: 1 }
.learned { --c: #57606a } .sinusoidal { --c: #9a6700 } .none { --c: #0072b2 } .rotary { --c: #d55e00 }
.alibi { --c: #007a5a } .t5 { --c: #a8437f }
.line { fill: none; stroke: var(--c); stroke-width: 2 } .mark { fill: var(--c); stroke: none }
@media screen and (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .grid { stroke: #3d444d }
.learned { --c: #adb5bd } .sinusoidal { --c: #e3b341 } .none { --c: #56b4e9 } .rotary { --c: #ff8c42 }
.alibi { --c: #2ecc9b } .t5 { --c: #f08cc0 }
}"""


def figure(scores: dict[str, dict[int, float | None]]) -> str:
    """Loss against the length of a window (log scale) as SVG text."""
    left, top, width, height = 64, 24, 470, 330
    values = [v for row in scores.values() for v in row.values() if v is not None]
    low, high = math.floor(min(values) * 5) / 5, math.ceil(max(values) * 5) / 5
    contexts = list(next(iter(scores.values())))

    def place(context: int, loss: float) -> tuple[float, float]:
        across = math.log2(context / contexts[0]) / math.log2(contexts[-1] / contexts[0])
        return left + 16 + across * (width - 32), top + (high - loss) / (high - low) * height

    out = []
    step = 0.2 if high - low <= 2 else 0.5
    for n in range(round((high - low) / step) + 1):
        y = place(contexts[0], low + n * step)[1]
        out.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{low + n * step:.1f}</text>')
    for context in contexts:
        x = place(context, low)[0]
        out.append(f'<text x="{x:.1f}" y="{top + height + 20}" text-anchor="middle">{context}</text>')
    x = place(TRAINED, low)[0]
    out.append(f'<path class="grid" stroke-dasharray="4 3" d="M{x:.1f} {top}v{height}"/>')
    out.append(f'<text x="{x + 6:.1f}" y="{top + 12}">trained length</text>')
    x, y = left + width / 2, top + height / 2
    out.append(f'<text x="{x}" y="{top + height + 42}" text-anchor="middle">length of a scored window (tokens)</text>')
    turn = f'text-anchor="middle" transform="rotate(-90 18 {y})"'
    out.append(f'<text x="18" y="{y}" {turn}>validation loss (nats per character)</text>')

    def last(kind: str) -> tuple[bool, float]:
        scored = [v for v in scores[kind].values() if v is not None]
        return len(scored) < len(contexts), -scored[-1]

    for n, kind in enumerate(sorted(scores, key=last)):  # the key in the order of the lines' right ends
        colour, dashes, shape = STYLES[kind]
        points = [place(c, v) for c, v in scores[kind].items() if v is not None]
        y = top + 14 + 24 * n
        key = [(left + width + 20, y), (left + width + 56, y)]
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        out.append(f'<g class="{colour}">')
        for line in (points, key):
            out.append(f'<polyline class="line"{dash} points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in line)}"/>')
        marks = [*points, (left + width + 38, y)]
        out.append(f'<g class="mark">{"".join(marker(shape, a, b) for a, b in marks)}</g>')
        end = "" if len(points) == len(contexts) else f" (ends at {TRAINED})"
        out.append(f'<text x="{left + width + 66}" y="{y + 4.5}">{kind}{end}</text></g>')
    size = f'width="760" height="{top + height + 60}" viewBox="0 0 760 {top + height + 60}"'
    title = "<title>Validation loss of each kind of position, by the length of a window</title>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{title}\n<style>{SHEET}\n</style>'
    return "\n".join([head, *out, "</svg>", ""])


def write(scores: dict[str, dict[int, float | None]]) -> None:
    """The figure, and the table between its two marks in the page."""
    (DOCS / "figures" / "extrapolation.svg").write_text(figure(scores), encoding="utf-8")
    page = DOCS / "extrapolation.md"
    text = page.read_text(encoding="utf-8")
    marked = re.compile("(<!-- measured -->\n).*(<!-- end -->)", re.DOTALL)
    page.write_text(marked.sub(lambda m: f"{m[1]}{table(scores)}\n{m[2]}", text), encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=600, help="of training, for each kind (600)")
    arguments.add_argument("--json", action="store_true", help="print the losses instead of writing the page")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    scores = measure(given.steps)
    if given.json:
        print(json.dumps(scores))
    else:
        write(scores)


if __name__ == "__main__":
    main()
