"""The coordinate check: how large activations are, and how much a few steps of Adam change them, as a model gets wider.

    python -m benchmarks.coordinate_check [--widths 64 128 256 512 1024] [--json]

Under `kaiming` the changes grow with the width, so that a learning rate is right for one width only; under `mup` they
stay put. Writes the table of docs/mup.md and docs/figures/coordinate_check.svg. The text is Tiny Shakespeare, or random
tokens where that is not there. Yang et al. 2022 (arXiv:2203.03466), figure 5 and appendix D.1.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt.config import DataConfig, ModelConfig
from nanogpt.data.batches import Sampler
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import prepare
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel
from nanogpt.optim.optimizers import make_optimizers
from nanogpt.tokenizers import tokenizer_for

DOCS = Path(__file__).parent.parent / "docs"
BASE, LAYERS, HEAD_DIM, CONTEXT, BATCH, SEEDS = 64, 3, 32, 64, 4, 2
LR = 0.001
STEPS = (1, 2, 4, 10)
WIDTHS = (64, 128, 256, 512, 1024)
INITS = {"standard": "kaiming(embedding=1)", "mup": f"mup(base={BASE}, embedding=1)"}
PLACES = ("embedding", *(f"block {n + 1}" for n in range(LAYERS)), "logits")

Sizes = dict[str, dict[int, float]]
"""place -> step -> mean over all coordinates; step 0 is the start itself, others are changes since."""


def batches(seed: int) -> tuple[list[tuple[Tensor, Tensor]], int, str]:
    """(tokens, targets) of each step, vocabulary, and what text it is."""
    try:
        config = DataConfig.model_validate({"corpus": "shakespeare"})
        corpus = open_corpus(config)
        tokenizer = tokenizer_for("char", corpus)
        sampler = Sampler(prepare(corpus, tokenizer, corpus.batching)["train"], BATCH, CONTEXT, "stream", seed)
        drawn = [sampler.batch(n) for n in range(max(STEPS) + 1)]
        pairs = [(torch.from_numpy(b.tokens_BT), torch.from_numpy(b.targets_BT)) for b in drawn]
        return pairs, tokenizer.vocab_size, "Tiny Shakespeare"
    except UserError as error:  # no network and no copy
        random = torch.Generator().manual_seed(seed)
        made = [torch.randint(65, (2, BATCH, CONTEXT), generator=random) for _ in range(max(STEPS) + 1)]
        return [(both[0], both[1]) for both in made], 65, f"random tokens ({error})"


def measure(init: str, width: int, seed: int, text: Sequence[tuple[Tensor, Tensor]], vocab_size: int,
            steps: Sequence[int] = STEPS) -> Sizes:  # fmt: skip
    """Mean |x_0| at the start, and mean |x_t - x_0| after each of `steps`, on a batch that is not trained on."""
    fields: dict[str, Any] = {
        "dim": width, "n_layers": LAYERS, "context": CONTEXT, "vocab_size": vocab_size, "position": "rotary",
        "mixer": f"attention(head_dim={HEAD_DIM}, heads={width // HEAD_DIM})", "ffn": "mlp(relu)", "norm": "rmsnorm",
        "init": init,
    }  # fmt: skip
    model = LanguageModel(ModelConfig.model_validate(fields))
    model.initialise(seed)
    (optimizer,) = make_optimizers(f"adamw(lr={LR}, weight_decay=0)", model)
    start, sizes = look(model, text[0][0]), {}
    sizes = {place: {0: float(x.abs().mean())} for place, x in start.items()}
    for step in range(1, max(steps) + 1):
        optimizer.zero_grad()
        model.losses(*text[step])["loss"].backward()
        optimizer.step()
        if step in steps:
            for place, x in look(model, text[0][0]).items():
                sizes[place][step] = float((x - start[place]).abs().mean())
    return sizes


@torch.no_grad()
def look(model: LanguageModel, tokens_BT: Tensor) -> dict[str, Tensor]:
    """What each place of PLACES puts out."""
    found: dict[str, Tensor] = {}

    def keep(place: str) -> Any:
        return lambda module, inputs, output: found.update({place: output.clone()})

    modules = [model.embed, *model.blocks, model.head]
    hooks = [m.register_forward_hook(keep(p)) for p, m in zip(PLACES, modules, strict=True)]
    model(tokens_BT)
    for hook in hooks:
        hook.remove()
    return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through the logarithms: 0 where y stays put, 1 where it grows as x does."""
    xs, ys = ([math.log(v) for v in column] for column in zip(*points, strict=True))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)


def run(widths: Sequence[int]) -> tuple[dict[str, dict[int, Sizes]], str]:
    """parametrisation -> width -> sizes, the mean over seeds."""
    result: dict[str, dict[int, Sizes]] = {name: {} for name in INITS}
    texts = [batches(seed) for seed in range(1, SEEDS + 1)]
    for width in widths:
        for name, init in INITS.items():
            runs = [measure(init, width, seed, text, size) for seed, (text, size, _) in enumerate(texts, 1)]
            result[name][width] = {
                place: {step: sum(r[place][step] for r in runs) / SEEDS for step in (0, *STEPS)} for place in PLACES
            }
            print(
                f"{name:9s} {width:5d}", {p: f"{s[max(STEPS)]:.3g}" for p, s in result[name][width].items()}, flush=True
            )
    return result, texts[0][2]


def points(result: dict[int, Sizes], place: str, step: int) -> list[tuple[float, float]]:
    return [(float(width), sizes[place][step]) for width, sizes in result.items()]


def table(result: dict[str, dict[int, Sizes]]) -> str:
    """Markdown: the sizes at the narrowest and the widest, and the slope over all."""
    widths = list(next(iter(result.values())))
    names = [f"{name}, {what}" for name in result for what in (f"{widths[0]} wide", f"{widths[-1]} wide", "slope")]
    lines = [f"| place | step | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for place in PLACES:
        for step in (0, STEPS[0], STEPS[-1]):
            cells = []
            for sizes in result.values():
                line = points(sizes, place, step)
                cells += [f"{line[0][1]:.3g}", f"{line[-1][1]:.3g}", f"{slope(line):+.2f}".replace("-0.00", "+0.00")]
            lines.append(f"| {place} | {step or 'start'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(result: dict[str, dict[int, Sizes]], text: str) -> None:
    """The figure, and the table between its two marks in the page."""
    from benchmarks.figure import Panel, chart

    titles = {"standard": "standard (kaiming)", "mup": f"muP (base {BASE})"}
    rows = [
        [
            Panel(f"{titles[name]}: {place}", {f"step {step}": points(sizes, place, step) for step in STEPS})
            for name, sizes in result.items()
        ]
        for place in (f"block {LAYERS}", "logits")
    ]
    title = f"Coordinate check: change since the start, Adam at lr={LR}, {text}"
    label = "mean |change| of a coordinate (no unit)"
    (DOCS / "figures").mkdir(exist_ok=True)
    svg = chart(title, rows, "width, dim (numbers)", [label] * len(rows), "after")
    (DOCS / "figures" / "coordinate_check.svg").write_text(svg, encoding="utf-8")
    page = DOCS / "mup.md"
    marked = re.compile("(<!-- measured -->\n).*(<!-- end -->)", re.DOTALL)
    filled = marked.sub(lambda m: f"{m[1]}{table(result)}\n{m[2]}", page.read_text(encoding="utf-8"))
    page.write_text(filled, encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help=f"multiples of {HEAD_DIM}")
    arguments.add_argument("--json", action="store_true", help="print the sizes instead of writing the page")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    result, text = run(given.widths)
    print(text)
    if given.json:
        print(json.dumps(result))
    else:
        write(result, text)


if __name__ == "__main__":
    main()
