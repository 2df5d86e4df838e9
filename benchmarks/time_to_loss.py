"""Seconds until a validation loss on Tiny Shakespeare, as a whole process: start-up, training, scoring, goodbye.

    python benchmarks/time_to_loss.py --target 1.88 --peer NANOGPT --json     (about 2 min a seed on two idle cores)
    python benchmarks/time_to_loss.py --target 1.4697 --seeds 1 2 --json      (about 15 min a seed)

Each target has a preset, which trains a transformer from random weights for a number of steps fixed beforehand; the
last 10% of the text are scored once, whole, at the end. NANOGPT is a checkout of karpathy/nanoGPT with
data/shakespeare_char prepared (python data/shakespeare_char/prepare.py). For 1.88 the peer is its README's command for
a CPU; for 1.4697, its README's number on a GPU, that would take hours here: --peer then times 12 steps of those
settings and answers what all 5,000 would take.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure

from nanogpt.runs import Run

PRESETS = {1.88: "fast-shakespeare", 1.4697: "best-shakespeare"}
LARGEST = {1.88: 2_000_000, 1.4697: 11_000_000}
"""Most parameters that the rule allows."""
TIMES = {1.88: 1 / 5, 1.4697: None}
MOST_SECONDS = {1.88: None, 1.4697: 900.0}
QUICKSTART = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
"""nanoGPT's README, "I only have a macbook"."""
HEADLINE = "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=1 --log_interval=1"
STEPS, TIMED = 5000, 12


def ours(target: float, seed: int) -> dict[str, Any]:
    """One `nanogpt train` process: its seconds, loss and size."""
    with tempfile.TemporaryDirectory() as folder, measure.Busy() as busy:
        command = [sys.executable, "-m", "nanogpt", "train", PRESETS[target], f"seed={seed}"]
        seconds, _ = measure.whole_process([*command, "--out", folder, "--name", "run", "--quiet"])
        rows = Run(Path(folder) / "run").metrics()
    scored = [row["val/loss"] for row in rows if "val/loss" in row]
    if len(scored) != 1:
        raise SystemExit(f"{PRESETS[target]} was scored {len(scored)} times; once is the rule")
    facts = {"seed": seed, "val_loss": scored[0], "seconds": seconds, "training_seconds": rows[-1]["seconds"]}
    return {**facts, "steps": rows[-1]["step"], "tokens": rows[-1]["tokens"], "busy": busy.share}


def quickstart(peer: Path) -> tuple[float, float]:
    """nanoGPT's quickstart: seconds and the last validation loss that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *QUICKSTART.split(), f"--out_dir={folder}"]
        seconds, text = measure.whole_process(command, cwd=peer)
    return seconds, float(re.findall(r"val loss ([\d.]+)", text)[-1])


def headline(peer: Path) -> float:
    """Seconds that nanoGPT's GPU settings would take here, from the median of some steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *HEADLINE.split(), f"--max_iters={TIMED}", f"--out_dir={folder}"]
        _, text = measure.whole_process(command, cwd=peer)
    return STEPS * statistics.median(steps(text)) / 1e3


def steps(text: str) -> list[float]:
    """Milliseconds of nanoGPT's steps from its output; the first two, with the evaluation and a warm-up, left out."""
    return [float(ms) for ms in re.findall(r"iter \d+: loss [\d.]+, time ([\d.]+)ms", text)][2:]


def size(preset: str) -> int:
    """Parameters of a preset, as the run's card counts them."""
    from nanogpt.config import compose
    from nanogpt.cost import cost
    from nanogpt.model.language_model import resolve_model

    shape = compose(preset).model
    return cost(resolve_model(shape.model_copy(update={"vocab_size": shape.vocab_size or 65}))).total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=float, choices=list(PRESETS), default=1.88, help="validation loss to reach")
    parser.add_argument("--peer", type=Path, metavar="NANOGPT", help="a checkout of nanoGPT, its data prepared")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of ours; by default 1 2 3, or 1 2 for 1.4697")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.peer and not (args.peer / "data" / "shakespeare_char" / "train.bin").exists():
        parser.error(f"{args.peer}: no data/shakespeare_char/train.bin; run its data/shakespeare_char/prepare.py first")
    preset = PRESETS[args.target]
    parameters = size(preset)
    if parameters > LARGEST[args.target]:
        raise SystemExit(f"{preset} has {parameters:,} parameters; the rule allows {LARGEST[args.target]:,}")
    runs, peers = [], []
    for number, seed in enumerate(args.seeds or ([1, 2, 3] if args.target == 1.88 else [1, 2])):
        measure.say(f"nanogpt train {preset} seed={seed}")
        runs.append(ours(args.target, seed))
        measure.say(f"  {runs[-1]}")
        if args.peer and args.target == 1.88:
            measure.say(f"python train.py {QUICKSTART}")
            peers.append(quickstart(args.peer))
            measure.say(f"  {peers[-1]}")
        elif args.peer and not number:
            measure.say(f"python train.py {HEADLINE} --max_iters={TIMED}")
            peers.append((headline(args.peer), 1.4697))
    result: dict[str, Any] = {
        "target": args.target, "preset": preset, "parameters": parameters,
        "val_loss": max(run["val_loss"] for run in runs), "seconds": statistics.median(run["seconds"] for run in runs),
        "peer_seconds": statistics.median(seconds for seconds, _ in peers) if peers else None,
        "peer_val_loss": peers[0][1] if peers else None,
    }  # fmt: skip
    if peers:
        result["share_of_peer"] = result["seconds"] / result["peer_seconds"]
    most, share = MOST_SECONDS[args.target], TIMES[args.target]
    if share and peers:
        most = share * result["peer_seconds"]
    result["holds"] = result["val_loss"] <= args.target and (most is None or result["seconds"] <= most)
    measure.emit({**result, "runs": runs, "peer_runs": peers, "machine": measure.machine()}, args.json)


if __name__ == "__main__":
    main()
