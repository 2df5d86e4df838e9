"""The byte-pair tokenizer written by hand beside `tokenizers`, tiktoken and sentencepiece: the same ids, in which time.

    python benchmarks/tokenizer.py --data DATA      learning and encoding, in turn

DATA is a folder with corpora/peps.txt, corpora/tinyshakespeare.txt and the vocabularies (NANOGPT_DATA by default). Each
round runs every peer once; medians are compared. What they answer is compared too: a time for other ids is none.
`tokenizer_memory.py` is about files that do not fit into memory.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import tiktoken
from sentencepiece import SentencePieceProcessor
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from nanogpt.data.text import cut
from nanogpt.tokenizers.bpe import JsonTokenizer
from nanogpt.tokenizers.bytepair import BytePair
from nanogpt.tokenizers.opening import open_tokenizer
from nanogpt.tokenizers.patterns import PATTERNS
from nanogpt.tokenizers.ranks import PUBLISHED
from nanogpt.tokenizers.tables import byte_symbols

SYMBOLS = byte_symbols()
SHORT = "tinyshakespeare.txt"


def by_library(text: str, size: int, pattern: str) -> list[list[str]]:
    """The merges that `tokenizers` learns, from the same pieces of text, on all cores."""
    engine = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
    engine.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(SYMBOLS), show_progress=False)
    engine.train_from_iterator(cut(text), trainer)
    merges: list[list[str]] = json.loads(engine.to_str())["model"]["merges"]
    return merges


def by_hand(text: str, size: int, pattern: str) -> list[list[str]]:
    made = BytePair.train(cut(text), size, pattern)
    names = {i: "".join(SYMBOLS[byte] for byte in token) for i, token in made.tokens.items()}
    return [[names[merge.left], names[merge.right]] for merge in made.merges]


Peer = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How it is made, which is not timed, and what is."""


def in_turn(peers: dict[str, Peer], rounds: int) -> dict[str, Any]:
    """Median seconds of each, how many times as long `hand` takes, and whether all answer the same.

    Each peer is made anew in each round, so that none remembers the words of the round before.
    """
    answers: dict[str, Any] = {}

    def thunk(name: str) -> Callable[[], float]:
        def timed() -> float:
            make, use = peers[name]
            made = make()
            started = time.perf_counter()
            answers[name] = use(made)
            return time.perf_counter() - started

        return timed

    seconds = measure.medians(measure.in_turn({name: thunk(name) for name in peers}, rounds))
    return {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "hand_takes": {name: round(seconds["hand"] / value, 2) for name, value in seconds.items() if name != "hand"},
        "same": all(answer == answers["hand"] for answer in answers.values()),
    }


def learning(text: str, size: int, pattern: str, rounds: int) -> dict[str, Any]:
    peers: dict[str, Peer] = {
        "hand": (lambda: text, lambda t: by_hand(t, size, pattern)),
        "tokenizers": (lambda: text, lambda t: by_library(t, size, pattern)),
    }
    return in_turn(peers, rounds)


def encoding(name: str, data: Path, text: str, rounds: int) -> dict[str, Any]:
    model = data / "tokenizers" / "llama2" / "tokenizer.model"
    source = str(model) if name == "llama2" else name
    whole = open_tokenizer(source).json
    peers: dict[str, Peer] = {
        "hand": (lambda: open_tokenizer(source), lambda t: t.encode(text).tolist()),
        "tokenizers": (lambda: JsonTokenizer(whole).engine, lambda t: t.encode(text, add_special_tokens=False).ids),
    }
    if name == "llama2":
        peers["sentencepiece"] = lambda: SentencePieceProcessor(source), lambda t: t.encode(text)
    else:
        peers["tiktoken"] = lambda: _tiktoken(name), lambda t: t.encode_ordinary(text)
    return in_turn(peers, rounds)


def _tiktoken(name: str) -> tiktoken.Encoding:
    """Its encoding, with the ranks of a file that is there."""
    made = open_tokenizer(name)
    assert isinstance(made, BytePair)
    ranks = {token: rank for rank, token in made.ordinary.items()}
    known = PUBLISHED[name]
    return tiktoken.Encoding(name, pat_str=known.pattern, mergeable_ranks=ranks, special_tokens=known.specials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NANOGPT_DATA", "../shared/data")))
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--pattern", default="gpt2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    os.environ["NANOGPT_DATA"] = str(args.data)
    long, short = ((args.data / "corpora" / name).read_text(encoding="utf-8") for name in ("peps.txt", SHORT))
    result: dict[str, Any] = {}
    for size, text in ((args.size, long), (512, short)):
        key = f"learning {size} from {len(text.encode()) / 1e6:.1f} MB"
        result[key] = learning(text, size, args.pattern, args.rounds)
        measure.say(f"{key} {result[key]}")
    for name in ("gpt2", "cl100k_base", "o200k_base", "llama2"):
        result[name] = encoding(name, args.data, short, args.rounds)
        measure.say(f"{name} {result[name]}")
    measure.emit({**result, "machine": measure.machine()}, args.json)


if __name__ == "__main__":
    main()
