"""GPT-2's 124 M parameters on a GPU: bf16, compiled, batch 12, 1,024 tokens, as nanoGPT's bench.py trains them.

    python benchmarks/gpu.py --peer NANOGPT --json        (about 5 min on a GPU; without one it says so and ends)

Ours is one `nanogpt train` process a round, from its steps' own times; the peer is its bench.py as it is, with random
tokens, so that its data needs no download. Utilisation is (6 N + 12 L T D) FLOP a token over the rate of a product of
two 8192 x 8192 matrices in bf16 in the same run.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

import measure
import torch

from nanogpt.runs import Run

LAYERS, HEADS, DIM, CONTEXT, BATCH, VOCABULARY = 12, 12, 768, 1024, 12, 50304
STEPS, WARM = 40, 10
MODEL = [
    "gpt", f"model.dim={DIM}", f"model.n_layers={LAYERS}", f"model.context={CONTEXT}", f"train.batch={BATCH}",
    f"model.mixer=attention(heads={HEADS})", "model.ffn=mlp(act=gelu)", "model.norm=layernorm(bias=none)",
    "model.layout=pre", "model.head=tied", f"model.vocab_size={VOCABULARY}", "tokenizer=char",
    "data.corpus=shakespeare", "optim.optimizer=adamw(lr=1e-4, beta2=0.95, weight_decay=0.01)",
    "train.device=cuda", "train.precision=bf16", "train.compile=on", f"train.steps={STEPS}",
    f"train.eval_every={STEPS}", f"train.checkpoint_every={STEPS}", f"train.sample_every={STEPS}",
]  # fmt: skip
PARAMETERS = 12 * LAYERS * DIM**2 + VOCABULARY * DIM
"""Without positions and norms."""


def ours() -> float:
    """Tokens a second: the median of the steps after the first ones."""
    with tempfile.TemporaryDirectory() as out:
        measure.whole_process(
            [sys.executable, "-m", "nanogpt", "train", *MODEL, "--out", out, "--name", "r", "--quiet"]
        )
        return statistics.median(row["tokens_per_second"] for row in Run(Path(out) / "r").metrics()[WARM:])


def peer(checkout: Path) -> float:
    """Tokens a second of nanoGPT's bench.py."""
    asked = [sys.executable, "bench.py", "--real_data=False", "--dtype=bfloat16", "--compile=True"]
    _, text = measure.whole_process(asked, cwd=checkout)
    milliseconds = float(re.findall(r"time per iteration: ([\d.]+)ms", text)[-1])
    return BATCH * CONTEXT / milliseconds * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, metavar="NANOGPT", help="a checkout of nanoGPT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            json.dumps({"gpu": None}) if args.json else "there is no GPU here that torch can use: nothing was measured"
        )
        return
    thunks = {"nanogpt_peer": lambda: peer(args.peer), "ours": ours} if args.peer else {"ours": ours}
    found = measure.in_turn(thunks, args.rounds)
    middle, product = measure.medians(found), measure.product_rate(torch.bfloat16, 8192, device="cuda")
    flops = 6.0 * PARAMETERS + 12.0 * LAYERS * CONTEXT * DIM
    times = measure.ratio(middle)["ours"] if args.peer else None
    measure.emit(
        {
            "gpu": torch.cuda.get_device_name(), "tokens_per_second": middle, "times_nanogpt": times,
            "product_flops": product, "utilisation": {name: rate * flops / product for name, rate in middle.items()},
            "holds": None if times is None else times >= 1.1, "rounds": found, "torch": torch.__version__,
        },
        args.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
