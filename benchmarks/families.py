"""Every published family at about 30 M parameters: our training step and cached generation beside `transformers`'.

    python benchmarks/families.py --eager --json         all of them, nothing compiled: a quarter of a minute a family
    python benchmarks/families.py --only qwen3 --json    one, compiled too (minutes, mostly the compiler's); its row
                                                         replaces the one that is kept
    python benchmarks/families.py --table                only write docs/families/speed.md from the rows that are kept

Rows are kept in FOLDER/FAMILY.json (--rows), and a family that has one is not measured again without --only or --again,
so the table can be made in pieces. Both models have the same weights. A step is forward, loss, backward and AdamW, in
fp32: eager beside eager, compiled beside compiled. Generation is greedy, with a cache, one row after a prompt of 32
tokens; compiled, it is theirs with a static cache beside our usual one, for nothing of ours is compiled there. Each
pair runs in turn; a ratio is of the fastest of each, above 1 where ours is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from generation import peer, static
from measure import Busy, emit, in_turn, machine, say, timed

from nanogpt.config import ModelConfig, presets
from nanogpt.errors import UserError
from nanogpt.generate import Sampling, generate
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.scale import scaled

BUDGET, TOKENIZER, VOCABULARY = "30M", "tokenizer=bpe(vocab_size=8192)", 8192
NEAR = (BUDGET, "29M", "31M", "28M", "32M", "27M", "33M", "26M", "34M", "25M", "35M")
"""Sizes to try: `transformers` does not take every width (Gemma's must be a multiple of its heads)."""
BATCH, TIME, PROMPT, TOKENS = 4, 128, 32, 64
ROUNDS, STEPS = 4, 3
"""Each pair runs so often, in turn; a step is too short to be one round alone."""
PAGE = Path(__file__).parent.parent / "docs" / "families" / "speed.md"
COLUMNS = ("step", "step_compiled", "generate", "generate_compiled")


def first_presets() -> dict[str, str]:
    """Family -> the preset that stands for it: the first of its folder."""
    found: dict[str, str] = {}
    for name, path in presets().items():
        if path.parents[1].name == "families":
            found.setdefault(path.parent.name, name)
    return found


def pair(preset: str) -> tuple[ModelConfig, LanguageModel, Any]:
    """The same model twice: ours and theirs."""
    for budget in NEAR:
        config = scaled(preset, budget, [TOKENIZER]).model.model_copy(update={"vocab_size": VOCABULARY})
        config = resolve_model(config)
        ours = LanguageModel(config)
        ours.initialise(1)
        try:
            return config, ours, peer(config, ours)
        except UserError as error:
            say(f"{preset} at {budget}: {error}")
    raise SystemExit(f"{preset}: no size near {BUDGET} that transformers takes")


def step(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], model: torch.nn.Module) -> Callable[[], Any]:
    """One step on the same tokens each time."""
    ids = torch.randint(VOCABULARY, (BATCH, TIME + 1), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def once() -> None:
        value = loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return once


def our_loss(model: LanguageModel) -> Callable[..., torch.Tensor]:
    return lambda x, y: model.losses(x, y)["loss"]


def their_loss(model: Any) -> Callable[..., torch.Tensor]:
    return lambda x, y: F.cross_entropy(model(x, use_cache=False).logits.flatten(0, 1), y.flatten())


def writing(ours: LanguageModel, theirs: Any, **how: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    ids = torch.randint(VOCABULARY, (1, PROMPT), generator=torch.Generator().manual_seed(2))
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": TOKENS,
             "min_new_tokens": TOKENS, **how}  # fmt: skip
    mine = lambda: generate(ours, ids.tolist(), TOKENS, Sampling(temperature=0))[0]  # noqa: E731
    return mine, lambda: theirs.generate(ids, **given)[0, PROMPT:].tolist()


def compare(mine: Callable[[], Any], other: Callable[[], Any], times: int = 1) -> dict[str, float]:
    """Both in turn, after a first time that is not counted: milliseconds of the fastest round of each, their ratio."""
    actions = {"ours": mine, "theirs": other}
    found = in_turn({k: timed(partial(_repeat, action, times)) for k, action in actions.items()}, ROUNDS + 1)
    ours, theirs = (min(rounds[1:]) / times for rounds in found.values())
    return {"ours_ms": round(1e3 * ours, 2), "theirs_ms": round(1e3 * theirs, 2), "ratio": round(theirs / ours, 3)}


def _repeat(action: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        action()


def measure(preset: str, compiled: bool) -> dict[str, Any]:
    """The row of one family."""
    config, ours, theirs = pair(preset)
    row: dict[str, Any] = {
        "preset": preset, "parameters": sum(p.numel() for p in ours.parameters()), "dim": config.dim,
        "layers": config.n_layers,
    }  # fmt: skip
    with Busy() as busy, torch.no_grad():
        ours.eval()
        writers = writing(ours, theirs)
        texts = [write() for write in writers]
        row["same_tokens"] = next((n for n, (a, b) in enumerate(zip(*texts, strict=True)) if a != b), TOKENS)
        ids = torch.randint(VOCABULARY, (2, TIME), generator=torch.Generator().manual_seed(3))
        row["logits"] = (ours(ids) - theirs(ids).logits).abs().max().item()
        row["generate"] = compare(*writers)
        if compiled:
            row["generate_compiled"] = compare(*writing(ours, theirs, **static()))
    with torch.enable_grad():
        ours.train()
        theirs.train()
        row["step"] = compare(step(our_loss(ours), ours), step(their_loss(theirs), theirs), STEPS)
        if compiled:
            torch.compiler.reset()
            both = (torch.compile(our_loss(ours)), torch.compile(their_loss(theirs)))
            row["step_compiled"] = compare(step(both[0], ours), step(both[1], theirs), STEPS)
            torch.compiler.reset()
    return {**row, "others_share": round(busy.share, 2), **machine()}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """docs/families/speed.md."""
    lines = [
        "# The families beside `transformers`",
        "",
        f"Each family's first preset at about {BUDGET} parameters, same weights, fp32, a CPU, in turn in one process: "
        "`python benchmarks/families.py`. Milliseconds of ours and of theirs, the fastest of four rounds, and how many "
        "times faster ours is.",
        f"A step: forward, loss, backward, AdamW on {BATCH} x {TIME} tokens. Generation: {TOKENS} greedy tokens after "
        f"{PROMPT}, one row, with a cache; its compiled column is theirs with a static cache and a compiled step "
        "beside ours, which is not compiled.",
        f"Logits: the largest difference of one over {2 * TIME} random tokens. Tokens: how many of those written "
        "are the same from the first on.",
        "",
        "| family | M | logits | tokens | step | step, compiled | generation | generation, compiled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, row in sorted(rows.items()):
        cells = [
            f"{row[c]['ours_ms']:.0f} / {row[c]['theirs_ms']:.0f}: **{row[c]['ratio']:.2f}**" if c in row else "-"
            for c in COLUMNS
        ]
        size = f"{row['parameters'] / 1e6:.1f}"
        lines.append(
            f"| {family} | {size} | {row['logits']:.1e} | {row['same_tokens']} of {TOKENS} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ratios = {c: [row[c]["ratio"] for row in rows.values() if c in row] for c in COLUMNS}
    least = {c: min(values) for c, values in ratios.items() if values}
    middle = {c: round(statistics.median(values), 2) for c, values in ratios.items() if values}
    slower = {f: [c for c in COLUMNS if c in row and row[c]["ratio"] < 1] for f, row in rows.items()}
    return {"least": least, "median": middle, "slower": {f: c for f, c in slower.items() if c}, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="FAMILY", choices=list(first_presets()))
    parser.add_argument("--rows", type=Path, metavar="FOLDER", default=Path("families-speed"))
    parser.add_argument("--eager", action="store_true", help="nothing compiled: a quarter of the time")
    parser.add_argument("--again", action="store_true", help="measure also what is kept")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.rows.mkdir(parents=True, exist_ok=True)
    for family in () if given.table else given.only or first_presets():
        path = given.rows / f"{family}.json"
        if path.exists() and not (given.only or given.again):
            continue
        say(f"measuring {family}")
        path.write_text(json.dumps(measure(first_presets()[family], not given.eager)))
    rows = {path.stem: json.loads(path.read_text()) for path in sorted(given.rows.glob("*.json"))}
    PAGE.write_text(table(rows), encoding="utf-8")
    emit(summary(rows), given.json)


if __name__ == "__main__":
    main()
