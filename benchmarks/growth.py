"""Time and memory of training against context, depth, width and batch, beside a model of what they should cost.

    python benchmarks/growth.py --json > growth.json       (about 4 min on two cores; --quick a third of it)
    python benchmarks/growth.py --table growth.json        (the tables of docs/performance.md)

Each point is `llama`'s block at one size, in a process of its own (memory is the most that the process held, less what
it held before its first step), trained for a few steps through the trainer that `nanogpt train` has. The model of cost:

    operations a token  = 6 N + 12 L T D         (causality not discounted)
    seconds a token     = operations / rate, with one rate for all points, the median: what is above 1 is overhead
    bytes               = 16 N + the card's estimate of activations
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import measure

BASE = {"context": 256, "layers": 4, "dim": 256, "batch": 16}
AXES: dict[str, list[int]] = {
    "context": [256, 512, 1024, 2048, 4096, 8192],
    "layers": [2, 4, 8, 16],
    "dim": [128, 256, 512, 1024],
    "batch": [4, 8, 16, 32, 64],
}
STEPS, WARM = 3, 1


def points(quick: bool) -> list[dict[str, Any]]:
    """Sizes, one axis at a time. Along the context a step has as many tokens at every point."""
    found = []
    for axis, values in AXES.items():
        for value in values[:: 2 if quick else 1]:
            shape = {**BASE, axis: value}
            if axis == "context":
                shape["batch"] = max(1, 8192 // value)
            found.append({"axis": axis, **shape})
    return found


def one(shape: dict[str, Any]) -> dict[str, Any]:
    """One point, in this process."""
    from nanogpt.config import compose
    from nanogpt.training.card import memory
    from nanogpt.training.setup import prepare
    from nanogpt.training.start import start
    from nanogpt.training.trainer import Trainer
    from nanogpt.training.world import World

    heads = max(1, shape["dim"] // 64)
    sizes = [f"model.{name}={shape[key]}" for name, key in (("dim", "dim"), ("context", "context"))]
    sizes += [f"model.n_layers={shape['layers']}", f"model.mixer.heads={heads}", f"model.mixer.kv_heads={heads}"]
    often = ["data.corpus=shakespeare", "tokenizer=char", "train.compile=off", f"train.batch={shape['batch']}"]
    with tempfile.TemporaryDirectory() as out:
        config = compose("llama", [*sizes, *often])
        run = start(config, out=out, name="run")
        trainer = Trainer(run, prepare(run, config, World()), World(), [])
        trainer.model.train()
        before = measure.peak_memory(lambda: None)
        rows: list[dict[str, Any]] = []
        most = measure.peak_memory(lambda: rows.extend(trainer.step() for _ in range(STEPS + WARM)))
        counted = trainer.material.cost
        estimate = memory(trainer.config, trainer.model, trainer.optimizers)
    seconds = statistics.median(row["step_seconds"] for row in rows[WARM:])
    tokens = rows[-1]["step_tokens"]
    flops = 6.0 * counted.total + 12.0 * shape["layers"] * shape["context"] * shape["dim"]
    weights = 4 * counted.total  # the others of the 16 N are made in the first step
    return {**shape, "parameters": counted.total, "precision": trainer.machine.precision,
            "microseconds_a_token": 1e6 * seconds / tokens, "flops_a_token": flops, "flops": flops * tokens / seconds,
            "bytes": most - before + weights, "bytes_expected": estimate.total}  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown, one table an axis."""
    lines: list[str] = []
    for axis in AXES:
        lines += [f"### {axis.capitalize()}", ""]
        lines += [
            "| context | layers | dim | batch | N | µs a token | MFLOP a token | GFLOP/s | expected | MB | expected |"
        ]
        lines += ["|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
        for p in result["points"]:
            if p["axis"] == axis:
                expected = p["flops_a_token"] / result["rate"] * 1e6
                lines.append(
                    f"| {p['context']} | {p['layers']} | {p['dim']} | {p['batch']} | {p['parameters'] / 1e6:.2f} M "
                    f"| {p['microseconds_a_token']:.1f} | {p['flops_a_token'] / 1e6:.1f} | {p['flops'] / 1e9:.0f} "
                    f"| {expected:.1f} | {p['bytes'] / 1e6:.0f} | {p['bytes_expected'] / 1e6:.0f} |"
                )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every second point")
    parser.add_argument("--table", type=Path, metavar="JSON", help="print a result as Markdown tables")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text(encoding="utf-8"))))
        return
    if args.one:
        print("RESULT " + json.dumps(one(args.one)))
        return
    found: list[dict[str, Any]] = []
    with measure.Busy() as busy, suppress(KeyboardInterrupt):  # what is measured by then is printed
        for shape in points(args.quick):
            _, text = measure.whole_process([sys.executable, __file__, "--one", json.dumps(shape)])
            found.append(json.loads(text.rpartition("RESULT ")[2]))
            measure.say(
                f"{shape['axis']:8s} {shape[shape['axis']]:5d} {found[-1]['microseconds_a_token']:8.1f} us a token "
                f"{found[-1]['flops'] / 1e9:6.0f} GFLOP/s {found[-1]['bytes'] / 1e6:8.0f} MB"
            )
    if not found:
        raise SystemExit(130)
    rate = statistics.median(p["flops"] for p in found)
    result = {"rate": rate, "points": found, "others_share_of_cores": busy.share, "machine": measure.machine()}
    if args.json:
        measure.emit(result, True)
    else:
        print(table(result))


if __name__ == "__main__":
    main()
