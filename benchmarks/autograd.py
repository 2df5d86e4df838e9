"""How fast the two engines of `nanogpt.autograd` are: beside micrograd, and beside torch.

    python benchmarks/autograd.py --peer MICROGRAD --json         (about 1 min)
    python benchmarks/autograd.py --by-hand                       (about 2 min: 200,000 steps without autograd)

MICROGRAD is a checkout of karpathy/micrograd. The scalar engines train the README's network, a step being 100 points
through 337 weights. The tensor engine trains a GPT of one block, float64, one thread, beside our model of the same
weights in PyTorch; and Bengio's network of the lectures. `--by-hand` trains the lecture's network of 12,297 parameters
with gradients derived by hand, and scores it as the lecture does.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from collections.abc import Callable, Iterable
from typing import Any

import measure
import numpy as np
import torch
import torch.nn.functional as F

from nanogpt.autograd import scalar, tensor
from nanogpt.autograd.lecture import ByHand, initial
from nanogpt.autograd.networks import bengio, descend, gpt, weights_of
from nanogpt.config import compose
from nanogpt.data.corpora import open_corpus
from nanogpt.model.language_model import LanguageModel, resolve_model


def moons_step(mlp: Callable[..., Any], value: Callable[[float], Any]) -> Callable[[], None]:
    """One step of micrograd's demo: forward, loss, backward, update."""
    random.seed(1)
    model = mlp(2, [16, 16, 1])
    points = [(random.gauss(0, 1), random.gauss(0, 1)) for _ in range(100)]

    def step() -> None:
        scores = [model([value(x) for x in point]) for point in points]
        losses = [(1 + (-1 if n % 2 else 1) * s).relu() for n, s in enumerate(scores)]
        loss = sum(losses) * (1.0 / len(losses)) + 1e-4 * sum(p * p for p in model.parameters())
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= 0.01 * p.grad

    return step


def pair(
    preset: str, overrides: list[str], loss: Callable[..., Any], theirs: Callable[..., torch.Tensor],
    shape: tuple[int, ...], targets: tuple[int, ...],
) -> dict[str, Callable[[], None]]:  # fmt: skip
    """A training step on the same weights and numbers, by torch and by the tensor engine."""
    config = compose(preset, overrides).model
    model = LanguageModel(resolve_model(config.model_copy(update={"vocab_size": 65}))).double()
    model.initialise(1)
    weights = weights_of(model.eval().state_dict())
    rng = np.random.default_rng(1)
    x, y = rng.integers(65, size=shape), rng.integers(65, size=targets)

    def with_torch() -> None:
        model.zero_grad()
        theirs(model, torch.from_numpy(x), torch.from_numpy(y)).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad

    def ours() -> None:
        loss(weights, tensor(x), tensor(y)).backward()
        descend(weights.values(), 0.01)

    return {"torch": with_torch, "ours": ours}


def speed(thunks: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Milliseconds a step, and how many times the first of them ours takes."""
    for thunk in thunks.values():
        thunk()
    middle = measure.medians(measure.in_turn({name: measure.timed(f) for name, f in thunks.items()}, rounds))
    return {f"{name}_ms": 1000 * value for name, value in middle.items()} | {"times": measure.ratio(middle)["ours"]}


def engines(peer: str | None, rounds: int) -> dict[str, Any]:
    scalars = {"ours": moons_step(scalar.MLP, scalar.Value)}
    if peer:
        sys.path.insert(0, peer)
        theirs = moons_step(
            importlib.import_module("micrograd.nn").MLP, importlib.import_module("micrograd.engine").Value
        )
        scalars = {"micrograd": theirs, **scalars}
    small = ["model.n_layers=1", "model.dim=64", "model.context=32", "model.mixer.heads=4"]
    block = pair("gpt", small, lambda w, x, y: gpt(w, x, y, heads=4), lambda m, x, y: m.losses(x, y)["loss"],
                 (16, 32), (16, 32))  # fmt: skip
    windows = pair("makemore-mlp", [], bengio, lambda m, x, y: F.cross_entropy(m(x)[:, -1], y), (32, 3), (32,))
    return {
        "moons": speed(scalars, max(3, rounds // 10)),
        "gpt_one_block": speed(block, rounds),
        "bengio": speed(windows, rounds),
    }


@torch.no_grad()
def by_hand(steps: int) -> dict[str, float]:
    """The lecture's last exercise: rows of 32, rate 0.1, a tenth of it for the second half; its split and its scoring,
    with statistics of the batch norm over the whole training text."""
    corpus = open_corpus(compose("makemore-mlp", ["data.corpus=names"]).data)
    train, val = examples(corpus.split("train")), examples(corpus.split("val"))
    generator = torch.Generator().manual_seed(1)
    network = ByHand(initial(10, 200, generator))
    for step in range(steps):
        rows = torch.randint(len(train[1]), (32,), generator=generator)
        _, gradients = network.loss(train[0][rows], train[1][rows])
        for name, w in network.weights.items():
            w -= (0.1 if step < steps // 2 else 0.01) * gradients[name]
    hidden = network.hidden(train[0])
    mean, var = hidden.mean(0), hidden.var(0)
    scores = {
        name: float(F.cross_entropy(network.logits(network.hidden(x), mean, var), y))
        for name, (x, y) in {"train": train, "val": val}.items()
    }
    size = sum(w.numel() for w in network.weights.values())
    return {**scores, "parameters": size, "steps": steps, "examples": len(train[1])}


def examples(words: Iterable[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Three letters and the next one, for every letter and the end of every name."""
    windows, targets = [], []
    for word in words:
        ids = [0, 0, 0, *(ord(letter) - 96 for letter in word.strip()), 0]
        windows += [ids[n : n + 3] for n in range(len(ids) - 3)]
        targets += ids[3:]
    return torch.tensor(windows), torch.tensor(targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a checkout of karpathy/micrograd")
    parser.add_argument("--by-hand", action="store_true", help="train the lecture's network without autograd instead")
    parser.add_argument("--steps", type=int, default=200_000, help="of --by-hand")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with measure.Busy() as busy:
        found = by_hand(args.steps) if args.by_hand else engines(args.peer, args.rounds)
    measure.emit({**found, "others_share_of_cores": busy.share, "machine": measure.machine()}, args.json)


if __name__ == "__main__":
    main()
