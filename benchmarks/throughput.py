"""Tokens a second of training, forward + backward + optimizer, and how much of the machine that is.

    python benchmarks/throughput.py --peer NANOGPT --json        (about 8 min on two idle cores; --rounds 1 half of it)
    python benchmarks/throughput.py --only gpt modern llama      (without a peer: about 3 min)

Models: nanoGPT's for Tiny Shakespeare (6 layers, 6 heads, 384 wide, LayerNorm, GELU, learned positions, no bias, no
dropout, 256 tokens, batch 64), and our presets `modern` and `llama` at the same width, depth, context and batch.
Each is one `nanogpt train` process, or one of nanoGPT's: what is timed is what a user runs, from the steps' own times,
the first two left out. Beside nanoGPT's own path on a CPU (fp32, not compiled) stands its model, compiled, in bf16,
which its train.py does not offer on a CPU (benchmarks/nanogpt_peer.py trains it).

Utilisation is (6 N + 12 L T D) FLOP a token, N without the table of positions, over the rate of a product of two
4096 x 4096 matrices in bf16, measured between the runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch
from time_to_loss import steps as peer_steps

from nanogpt.runs import Run

LAYERS, CONTEXT, DIM, BATCH = 6, 256, 384, 64
SIZE = [f"model.dim={DIM}", f"model.n_layers={LAYERS}", f"model.context={CONTEXT}", f"train.batch={BATCH}"]
GPT = [
    "gpt", "model.mixer=attention(heads=6)", "model.ffn=mlp(act=gelu)", "model.norm=layernorm(bias=none)",
    "model.layout=pre", "model.head=tied", "optim.optimizer=adamw(lr=1e-3, beta2=0.99)", "optim.clip=1.0",
]  # fmt: skip
MODELS = {
    "gpt": GPT,
    "modern": ["modern", "model.mixer.heads=6"],
    "llama": ["llama", "model.mixer.heads=6", "model.mixer.kv_heads=2"],
}
PEER = (
    "train.py config/train_shakespeare_char.py --device=cpu --compile=False --dropout=0.0 --eval_iters=1 "
    "--log_interval=1"
)
WARM = 2
"""Steps left out at the beginning."""


def corpus(folder: Path) -> Path:
    """A text to train on whose validation split is next to nothing, since only steps are timed here."""
    from nanogpt.config import compose
    from nanogpt.data.corpora import open_corpus

    text = "".join(open_corpus(compose("gpt", ["data.corpus=shakespeare"]).data).split("train"))
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def command(model: list[str], steps: int, text: Path) -> list[str]:
    """The `nanogpt train` command that is timed. A text of one file has a validation split of `data.val`."""
    data = [f"data.corpus={text}", "data.val=0.002", "data.test=0.002", "tokenizer=char"]
    often = [f"train.{what}_every={steps}" for what in ("eval", "checkpoint", "sample")]
    return ["train", *model, *data, f"train.steps={steps}", *often]


def rate(rows: list[dict[str, Any]]) -> float:
    """Tokens a second: the median of the steps after the first ones."""
    return statistics.median(row["tokens_per_second"] for row in rows[WARM:])


def ours(model: list[str], steps: int, text: Path) -> float:
    with tempfile.TemporaryDirectory() as out:
        asked = [*command(model, steps, text), "--out", out, "--name", "run", "--quiet"]
        measure.whole_process([sys.executable, "-m", "nanogpt", *asked])
        return rate(Run(Path(out) / "run").metrics())


def peer(checkout: Path, steps: int) -> float:
    """nanoGPT's own path."""
    with tempfile.TemporaryDirectory() as out:
        asked = [sys.executable, *PEER.split(), f"--max_iters={steps}", f"--out_dir={out}"]
        _, text = measure.whole_process(asked, cwd=checkout)
    return BATCH * CONTEXT / statistics.median(peer_steps(text)) * 1e3


def peer_compiled(checkout: Path, steps: int) -> float:
    """nanoGPT's model, compiled, in bf16."""
    script = Path(__file__).parent / "nanogpt_peer.py"
    _, text = measure.whole_process([sys.executable, str(script), str(checkout), "--steps", str(steps)])
    return BATCH * CONTEXT / statistics.median(peer_steps(text)) * 1e3


def flops(model: list[str]) -> float:
    """6 N + 12 L T D a token, N without the table of positions."""
    from nanogpt.config import compose
    from nanogpt.cost import cost
    from nanogpt.model.language_model import resolve_model

    shape = compose(model[0], model[1:]).model
    counted = cost(resolve_model(shape.model_copy(update={"vocab_size": 65})))
    return 6.0 * (counted.total - counted.parameters.get("position", 0)) + 12.0 * LAYERS * CONTEXT * DIM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, metavar="NANOGPT", help="a checkout of nanoGPT, its data prepared")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="of each process; the first two are not counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    models = {name: [*MODELS[name], *SIZE] for name in args.only}
    found: dict[str, list[float]] = {}
    products: list[float] = []
    with tempfile.TemporaryDirectory() as folder, measure.Busy() as busy:
        text = corpus(Path(folder))
        thunks: dict[str, Callable[[], float]] = {}
        for name, model in models.items():
            thunks[name] = lambda model=model: ours(model, args.steps, text)  # type: ignore[misc]
        if args.peer:
            thunks["nanogpt"] = lambda: peer(args.peer, args.steps)
            thunks["nanogpt_compiled_bf16"] = lambda: peer_compiled(args.peer, args.steps)
        for _ in range(args.rounds):
            for name, thunk in thunks.items():
                products.append(measure.product_rate(torch.bfloat16))
                found.setdefault(name, []).append(thunk())
                measure.say(f"{name:24s} {found[name][-1]:8.0f} tokens/s, product {products[-1] / 1e9:.0f} GFLOP/s")
    middle, product = measure.medians(found), statistics.median(products)
    used = {name: middle[name] * flops(model) / product for name, model in models.items()}
    times = {name: middle[name] / middle["nanogpt"] for name in models} if args.peer else {}
    gpt = "gpt" in models
    measure.emit(
        {
            "tokens_per_second": middle, "times_nanogpt": times or None, "utilisation": used,
            "product_flops": product, "flops_a_token": {name: flops(model) for name, model in models.items()},
            "holds": (used["gpt"] >= 0.4 and (not times or times["gpt"] >= 4)) if gpt else None,
            "rounds": found, "products": products, "others_share_of_cores": busy.share, "machine": measure.machine(),
        },
        args.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
