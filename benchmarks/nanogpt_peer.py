"""nanoGPT's model trained in bf16, compiled, on this machine: what its train.py does on a GPU and not on a CPU.

    python benchmarks/nanogpt_peer.py NANOGPT --steps 10

Its model and its optimizer as they are, on random windows of its prepared text; prints a line a step as train.py does.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

import numpy as np
import torch

CONTEXT, BATCH = 256, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, metavar="NANOGPT")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    sys.path.insert(0, str(args.checkout.resolve()))
    theirs = importlib.import_module("model")
    torch.manual_seed(1337)
    shape = {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": CONTEXT, "bias": False, "dropout": 0.0}
    model = theirs.GPT(theirs.GPTConfig(vocab_size=65, **shape))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    compiled = torch.compile(model)
    text = np.fromfile(args.checkout / "data" / "shakespeare_char" / "train.bin", np.uint16).astype(np.int64)
    random = np.random.default_rng(1)
    for step in range(args.steps):
        started = time.perf_counter()
        starts_B = random.integers(0, len(text) - CONTEXT, BATCH)
        window_BT = torch.from_numpy(text[starts_B[:, None] + np.arange(CONTEXT + 1)])
        with torch.autocast("cpu", torch.bfloat16):
            _, loss = compiled(window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        milliseconds = 1e3 * (time.perf_counter() - started)
        print(f"iter {step}: loss {loss.item():.4f}, time {milliseconds:.2f}ms", flush=True)


if __name__ == "__main__":
    main()
