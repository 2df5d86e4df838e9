"""Every published family at about 30 M parameters: our training step and cached generation beside `transformers`'.

    python benchmarks/families.py --json                        all, nothing compiled: a quarter of a minute a family
    python benchmarks/families.py --compiled --json             the compiled columns: minutes each, mostly compiling
    python benchmarks/families.py --only qwen3 --again --json   one, measured again, in place of what is kept
    python benchmarks/families.py --table                       only write docs/families/speed.md from what is kept

Rows are kept in FOLDER/FAMILY.json (--rows), and what they have is not measured again without --again, so the table can
be made in pieces. Both models have the same weights. A step is forward, loss, backward and AdamW, in fp32: eager beside
eager, compiled beside compiled. Generation is greedy, with a cache, one row after a prompt of 32 tokens; compiled, it
is theirs with a static cache beside our usual one, for nothing of ours is compiled there. Each pair runs in turn; a
ratio is the median over the rounds, above 1 where ours is faster: the machine's clock wanders, but less within a round.
Freed memory is kept, for both, as `nanogpt train` does: else a step is clearing new pages for a third of its time, now
in ours, now in theirs.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from generation import peer, static
from measure import Busy, emit, in_turn, machine, say, timed

from nanogpt.config import ModelConfig, presets
from nanogpt.errors import UserError
from nanogpt.generate import Sampling, generate
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.scale import scaled
from nanogpt.training.machine import keep_freed_memory

BUDGET, TOKENIZER, VOCABULARY = "30M", "tokenizer=bpe(vocab_size=8192)", 8192
NEAR = (BUDGET, "29M", "31M", "28M", "32M", "27M", "33M", "26M", "34M", "25M", "35M")
"""Sizes to try: `transformers` does not take every width (Gemma's must be a multiple of its heads)."""
BATCH, TIME, PROMPT, TOKENS = 4, 128, 32, 64
STEPS, TEXTS = 12, 6
"""Rounds: how often each pair runs, in turn."""
PAGE = Path(__file__).parent.parent / "docs" / "families" / "speed.md"
COLUMNS = ("step", "step_compiled", "generate", "generate_compiled")
Action: TypeAlias = Callable[[], Any]


def columns(compiled: bool) -> tuple[str, ...]:
    return COLUMNS[1::2] if compiled else COLUMNS[::2]


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


def writing(ours: LanguageModel, theirs: Any, **how: Any) -> tuple[Action, Action]:
    ids = torch.randint(VOCABULARY, (1, PROMPT), generator=torch.Generator().manual_seed(2))
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": TOKENS,
             "min_new_tokens": TOKENS, **how}  # fmt: skip
    mine = lambda: generate(ours, ids.tolist(), TOKENS, Sampling(temperature=0))[0]  # noqa: E731
    return mine, torch.no_grad()(lambda: theirs.generate(ids, **given)[0, PROMPT:].tolist())


def times(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """The fastest of each, in milliseconds, and the median ratio of what ran side by side."""
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    return {"ours_ms": round(1e3 * min(ours), 2), "theirs_ms": round(1e3 * min(theirs), 2), "ratio": round(ratio, 3)}


@dataclass(frozen=True)
class Duel:
    """What is run in turn, `rounds` times, with both models in the mode that it needs."""

    models: tuple[torch.nn.Module, torch.nn.Module]
    actions: tuple[Action, Action]
    training: bool
    rounds: int

    def warm_up(self) -> Duel:
        """Twice: the first time compiles, the second shows whether it has to again."""
        self._mode()
        for action in 2 * self.actions:
            action()
        return self

    def fought(self) -> dict[str, float]:
        """Both, in turn."""
        self._mode()
        found = in_turn(dict(zip(("ours", "theirs"), map(timed, self.actions), strict=True)), self.rounds)
        return times(found["ours"], found["theirs"])

    def _mode(self) -> None:
        for model in self.models:
            model.train(self.training)


def prepare(preset: str, compiled: bool) -> tuple[dict[str, Any], dict[str, Duel]]:
    """What can be said of a family before a clock runs, and its duels, warm."""
    config, ours, theirs = pair(preset)
    both = (ours.eval(), theirs.eval())
    writers = writing(*both)
    texts = [write() for write in writers]
    ids = torch.randint(VOCABULARY, (2, TIME), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = (ours(ids) - theirs(ids).logits).abs().max().item()
    row = {
        "preset": preset, "parameters": sum(p.numel() for p in ours.parameters()), "dim": config.dim,
        "layers": config.n_layers, "logits": logits,
        "same_tokens": next((n for n, (a, b) in enumerate(zip(*texts, strict=True)) if a != b), TOKENS),
    }  # fmt: skip
    losses = (our_loss(ours), their_loss(theirs))
    if compiled:
        losses, writers = (torch.compile(losses[0]), torch.compile(losses[1])), writing(*both, **static())
    steps = (step(losses[0], ours), step(losses[1], theirs))
    duels = (Duel(both, steps, True, STEPS), Duel(both, writers, False, TEXTS))
    return row, {name: duel.warm_up() for name, duel in zip(columns(compiled), duels, strict=True)}


def measure(row: dict[str, Any], duels: dict[str, Duel]) -> dict[str, Any]:
    """The row with its times."""
    with Busy() as busy:
        found = {name: duel.fought() for name, duel in duels.items()}
    return {**row, **found, "others_share": round(busy.share, 2), **machine()}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """docs/families/speed.md."""
    first, busy = next(iter(rows.values())), max(row["others_share"] for row in rows.values())
    lines = [
        "# The families beside `transformers`",
        "",
        f"Each family's first preset at about {BUDGET} parameters, same weights, fp32, a CPU, in turn in one process: "
        "`python benchmarks/families.py`, `--compiled`. Milliseconds of ours and of theirs, the fastest of "
        f"{STEPS} steps and of {TEXTS} texts, and how many times faster ours is, the median of what ran side by side.",
        f"A step: forward, loss, backward, AdamW on {BATCH} x {TIME} tokens. Generation: {TOKENS} greedy tokens after "
        f"{PROMPT}, one row, with a cache; its compiled column is theirs with a static cache and a compiled step "
        "beside ours, which is not compiled. For both, freed memory is kept, as `nanogpt train` does.",
        f"Logits: the largest difference of one over {2 * TIME} random tokens. Tokens: how many of those written "
        "are the same from the first on. A dash: not measured.",
        f"{first['cores']} cores with {first['cpu']}, torch {first['torch']}; others took {busy:.0%} of it at most.",
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
    if missing := sorted(set(first_presets()) - set(rows)):
        lines += ["", f"Not measured: {', '.join(missing)}."]
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
    parser.add_argument("--compiled", action="store_true", help="the compiled columns instead of the eager ones")
    parser.add_argument("--again", action="store_true", help="measure also what is kept")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.rows.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    for family in () if given.table else given.only or first_presets():
        path, preset = given.rows / f"{family}.json", first_presets()[family]
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("preset") != preset:  # of another model
            kept = {}
        if given.again or not set(columns(given.compiled)) <= set(kept):
            say(f"measuring {family}")
            torch.compiler.reset()
            row = measure(*prepare(preset, given.compiled))
            path.write_text(json.dumps(kept | row))
    rows = {path.stem: json.loads(path.read_text()) for path in sorted(given.rows.glob("*.json"))}
    PAGE.write_text(table(rows), encoding="utf-8")
    emit(summary(rows), given.json)


if __name__ == "__main__":
    main()
