"""The numbers of the references, measured again: one command for each row of docs/references.md.

    python benchmarks/references.py --list
    python benchmarks/references.py makemore-mlp gpt-head --json
    python benchmarks/references.py                      (all of them: some hours on two cores)

Each row is one `nanogpt train` command, which is printed first and may as well be typed. A run that is there already is
read, and one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanogpt.runs import Run, best_row

ADAMW = "optim.optimizer=adamw(lr={}, beta2=0.99, weight_decay=0.01)"
SPARSE = ["train.eval_every=20000", "train.checkpoint_every=200000", "train.sample_every=200000"]
"""Of 200,000 small steps, so that looking at them costs less than taking them."""
LARGER = ["optim.schedule=linear", "train.batch=8", "model.context=32", "train.steps=25000", "train.eval_every=5000"]
"""256 examples a step instead of 32, and an eighth of the steps: as many examples, several times faster."""
SHORT = ["optim.schedule=cosine(warmup=100)", "train.steps=5000", "train.eval_every=500"]
"""Five epochs of makemore.py's names at a rate that falls, instead of its endless ones at a small constant rate."""
LONG = [
    "optim.optimizer=adamw(lr=1e-3, beta2=0.99, weight_decay=0.3)",
    "optim.schedule=cosine(warmup=100, final=0.0)",
    "train.steps=14000",
    "train.eval_every=1000",
]


@dataclass(frozen=True)
class Row:
    """One number. published: as the source gives it. wanted: the most that ours may be, or how far it may be off."""

    published: float | None
    train: list[str]
    """Preset and overrides."""
    most: float | None = None
    within: float | None = None
    which: Literal["last", "best"] = "last"
    """The validation loss at the end, or the best one: makemore.py chooses its best on what it calls test."""

    def command(self, name: str, out: Path) -> list[str]:
        return ["train", *self.train, "--out", str(out), "--name", name, "--quiet"]

    def holds(self, loss: float) -> bool | None:
        if self.most is not None:
            return loss <= self.most
        if self.within is not None and self.published is not None:
            return abs(loss - self.published) <= self.within
        return None


ROWS: dict[str, Row] = {
    # names, the lectures' split: what the lecture calls dev is val
    "makemore-mlp": Row(2.17, ["makemore-mlp", *SPARSE], within=0.02),
    "makemore-mlp-repaired": Row(2.107, ["makemore-mlp-repaired", ADAMW.format("5e-3"), *LARGER], most=2.11),
    "makemore-batchnorm": Row(2.1048, ["makemore-batchnorm"], most=2.11),
    "makemore-wavenet": Row(1.993, ["makemore-wavenet"], most=2.00),
    # names, makemore.py's split: what it calls test is val
    "makemore": Row(1.92, ["makemore", *LONG], most=1.93, which="best"),
    "makemore-short": Row(None, ["makemore", ADAMW.format("2e-3"), *SHORT], which="best"),
    "makemore-py-mlp": Row(None, ["makemore-py-mlp", ADAMW.format("2e-3"), *SHORT], which="best"),
    "bow": Row(None, ["bow", ADAMW.format("2e-3"), *SHORT], which="best"),
    "rnn": Row(None, ["rnn", ADAMW.format("2e-3"), *SHORT], which="best"),
    "gru": Row(None, ["gru", ADAMW.format("2e-3"), *SHORT], which="best"),
    "lstm": Row(None, ["lstm", ADAMW.format("2e-3"), *SHORT], which="best"),
    # Tiny Shakespeare, the ladder of "Let's build GPT"
    "bigram": Row(2.49, ["bigram", "data.corpus=shakespeare"], within=0.03),
    "gpt-head": Row(2.40, ["gpt-head"], within=0.03),
    "gpt-heads": Row(2.28, ["gpt-heads"], within=0.03),
    "gpt-ffn": Row(2.24, ["gpt-ffn"], within=0.03),
    "gpt-residual": Row(2.08, ["gpt-residual"], within=0.03),
    "gpt-norm": Row(2.06, ["gpt-norm"], within=0.03),
    "gpt-64": Row(1.8226, ["gpt-64"], within=0.03),
    "gpt": Row(1.48, ["gpt", "data.corpus=shakespeare"], within=0.03, which="best"),
}


def measure(name: str, out: Path) -> dict[str, Any]:
    row, path = ROWS[name], out / name
    finished = path.exists() and Run(path).metrics()[-1:] and Run(path).config().train.steps
    if not finished or Run(path).metrics()[-1]["step"] < finished:
        arguments = ["train", "--resume", str(path), "--quiet"] if path.exists() else row.command(name, out)
        print(f"nanogpt {shlex.join(arguments)}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "nanogpt", *arguments], check=True, stdout=sys.stderr)
    rows = [r for r in Run(path).metrics() if "val/loss" in r]
    loss = (best_row(rows) if row.which == "best" else rows[-1])["val/loss"]
    return {"name": name, "published": row.published, "ours": loss, "holds": row.holds(loss),
            "seconds": rows[-1]["seconds"], "command": shlex.join(["nanogpt", *row.command(name, out)])}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/references"), help="folder of the runs")
    parser.add_argument("--list", action="store_true", help="print the rows and their commands")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in ROWS]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    for name in args.names or ROWS:
        if args.list:
            print(f"{name:22s} {shlex.join(['nanogpt', *ROWS[name].command(name, args.out)])}")
            continue
        found = measure(name, args.out)
        if args.json:
            print(json.dumps(found), flush=True)
        else:
            verdict = {True: "holds", False: "MISSED", None: "no number published"}[found["holds"]]
            published = "     -" if found["published"] is None else f"{found['published']:.4f}"
            print(f"{name:22s} published {published}  ours {found['ours']:.4f}  {verdict}", flush=True)


if __name__ == "__main__":
    main()
