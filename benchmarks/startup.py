"""Seconds from typing `nanogpt train` to its first step, and where they go.

    python benchmarks/startup.py --json         (about 1 min)

Each round starts the command as a user does, notes when its lines come, and ends it after the first step's: the `text`
line comes when torch is imported, `model` when tokens are read and the model is known, the first `step` line when that
step is taken. Beside it stand Python alone and `import torch`, which no program that trains with torch is without.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import measure

PHASES = {
    "imports": "text ",
    "data_and_model": "model ",
    "first_step": "step ",
}
"""What has been done, and the line that says so."""


def start(preset: str) -> dict[str, float]:
    """Seconds in each phase of one start, and altogether."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "nanogpt", "train", preset, "data.corpus=shakespeare", "tokenizer=char"]
        command += ["train.steps=50", "train.compile=off", "--out", out, "--name", "run"]
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": "200"}
        )
        assert process.stdout is not None
        found, waiting, before = {}, list(PHASES), started
        for line in process.stdout:
            if waiting and line.startswith(PHASES[waiting[0]]):
                now = time.perf_counter()
                found[waiting.pop(0)], before = now - before, now
            if not waiting:
                break
        process.kill()
        process.wait()
    if waiting:
        raise SystemExit(f"nanogpt train {preset} never came to its first step")
    return {**found, "total": before - started}


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="modern")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    start(args.preset)  # reads the files into memory, and prepares the text where it is new
    rounds: list[dict[str, float]] = []
    with measure.Busy() as busy:
        for _ in range(args.rounds):
            alone = measure.in_turn(
                {
                    "python": measure.timed(lambda: run("-c", "pass")),
                    "import_torch": measure.timed(lambda: run("-c", "import torch")),
                    "help": measure.timed(lambda: run("-m", "nanogpt", "--help")),
                },
                1,
            )
            rounds.append({**start(args.preset), **{name: values[0] for name, values in alone.items()}})
            measure.say(" ".join(f"{name} {value:.2f}" for name, value in rounds[-1].items()))
    middle = measure.medians({name: [each[name] for each in rounds] for name in rounds[0]})
    result = {"seconds": middle.pop("total"), "where": middle, "holds": False, "others_share_of_cores": busy.share}
    result["holds"] = result["seconds"] < 4
    measure.emit({**result, "preset": args.preset, "rounds": rounds, "machine": measure.machine()}, args.json)


if __name__ == "__main__":
    main()
