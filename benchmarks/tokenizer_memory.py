"""Learning byte pairs from files of growing size, in flat memory; and what it costs that rare words are forgotten.

    python benchmarks/tokenizer_memory.py --data DATA               from 0.25, 0.5, 1 and 2 GB: seconds, peak memory
    python benchmarks/tokenizer_memory.py --data DATA --forgetting  the merges under smaller and smaller limits

DATA is a folder with corpora/*.txt (NANOGPT_DATA by default). The file is their lines again and again, in another
order each time, a new word of eight letters in each line: different words never run out. Each measurement is a process
of its own, and peak memory is what the system says of it (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product, takewhile
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from nanogpt.data.text import in_pieces, line_end, read
from nanogpt.tokenizers.bytepair import count_words, learn
from nanogpt.tokenizers.bytepair.words import MOST

FOURS = ["".join(letters).encode() for letters in product(ascii_lowercase, repeat=4)]
EVER = 10**15
"""No limit."""
PATTERN = "gpt2"


def write_large(path: Path, corpora: Path, n_bytes: float) -> None:
    """So many bytes of the corpora's lines, each with a word that is nowhere else."""
    lines = [line for source in sorted(corpora.glob("*.txt")) for line in source.read_bytes().splitlines()]
    random, size, number = np.random.default_rng(1), 0, 0
    with path.open("wb") as file:
        while size < n_bytes:
            # Times an odd number that 13 does not divide: all words of eight letters, each once, in no order.
            mixed = (np.arange(number, number + len(lines)) * 31_415_927) % len(FOURS) ** 2
            high, low = (part.tolist() for part in np.divmod(mixed, len(FOURS)))
            order = random.permutation(len(lines)).tolist()
            new = [b"%s %s%s\n" % (lines[i], FOURS[a], FOURS[b]) for i, a, b in zip(order, high, low, strict=True)]
            size += file.write(b"".join(new))
            number += len(lines)


def learned(path: Path, end: int | None, size: int, most: int) -> dict[str, Any]:
    """From the first bytes of a file; run in a process of its own."""
    started = time.perf_counter()
    words = {word.encode(): n for word, n in count_words(in_pieces(read(path, 0, end)), PATTERN, most=most).items()}
    counted = time.perf_counter()
    tokens, merges = learn(words, size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "bytes": end or path.stat().st_size,
        "counting_s": round(counted - started, 1),
        "learning_s": round(time.perf_counter() - counted, 1),
        "peak_mb": round(peak / 1e6),
        "words": len(words),
        "merges": [(tokens[m.left].hex(), tokens[m.right].hex()) for m in merges],
    }


def alone(action: Callable[..., Any], *args: Any) -> Any:
    """In a process of its own, begun from a small one: the system counts a parent's memory as its child's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(action, *args).result()


def growth(path: Path, sizes: list[float], size: int) -> None:
    for end in sizes:
        found = alone(learned, path, line_end(path, int(end), path.stat().st_size), size, MOST)
        print(json.dumps({key: value for key, value in found.items() if key != "merges"}), flush=True)


def forgetting(path: Path, size: int, limits: list[int]) -> None:
    """Each limit beside none: the first merges that are equal, and how many of all are the same."""
    whole = alone(learned, path, None, size, EVER)
    for limit in limits:
        found = alone(learned, path, None, size, limit)
        pairs = zip(whole["merges"], found["merges"], strict=False)
        first = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        same = {left + right for left, right in whole["merges"]} & {left + right for left, right in found["merges"]}
        row = {"limit": limit, "words": found["words"], "of_words": whole["words"], "peak_mb": found["peak_mb"]}
        row |= {"of_peak_mb": whole["peak_mb"], "first_merges_equal": first, "same_tokens": len(same)}
        print(json.dumps(row | {"of_tokens": len(whole["merges"])}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NANOGPT_DATA", "../shared/data")))
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--bytes", type=float, nargs="+", default=[0.25e9, 0.5e9, 1e9, 2e9])
    parser.add_argument("--forgetting", action="store_true", help="compare limits, on the corpora and on the made file")
    args = parser.parse_args()
    corpora = args.data / "corpora"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        if args.forgetting:
            path.write_bytes(b"\n".join(source.read_bytes() for source in sorted(corpora.glob("*.txt"))))
            print("the corpora", flush=True)
            forgetting(path, args.size, [MOST, MOST // 4, MOST // 16, MOST // 64])
            alone(write_large, path, corpora, args.bytes[0])
            print(f"{args.bytes[0]:.3g} bytes with a new word in each line", flush=True)
            forgetting(path, args.size, [MOST])
        else:
            alone(write_large, path, corpora, max(args.bytes))
            growth(path, args.bytes, args.size)


if __name__ == "__main__":
    main()
