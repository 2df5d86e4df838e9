"""One of V classes, and no more: what softmax assumes, what its gradient is, and what it costs where it is not so.

N examples, V labels, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nanogpt.config import DataConfig
from nanogpt.data.corpora import open_corpus
from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series

LETTERS = "abcdefghijklmnopqrstuvwxyz"
GIVEN, LONGEST = 3, 15
"""Letters of a name that are seen; which others follow, in whatever order, is to be said."""
CUTS = np.linspace(0.05, 0.95, 91)
"""Chances from which on a label is said."""
Data = dict[str, tuple[Tensor, Tensor]]


def gradient(study: Study) -> Measurement:
    """The gradient of -log softmax(z)_y by z, from autograd, against p - y."""
    random = torch.Generator().manual_seed(1)
    z = (4 * torch.randn(2000, 30, generator=random, dtype=torch.double)).requires_grad_()
    y = torch.randint(30, (2000,), generator=random)
    F.cross_entropy(z, y, reduction="sum").backward()
    assert z.grad is not None
    formula = z.detach().softmax(1) - F.one_hot(y, 30)
    off = float((z.grad - formula).abs().max())
    some = slice(0, 40)
    return Measurement(
        numbers={"largest difference of autograd's gradient from p - y": off},
        findings=[f"The gradient of the loss by the logits is p - y: over {z.numel():,} logits autograd's is never "
                  f"further from it than {off:.1g}."],
        charts=[Chart("The gradient is p - y",
                      "Each point is a logit: below zero those of the right classes, which rise.",
                      "p - y", "gradient from autograd",
                      [Series("logits", formula[some].flatten().tolist(), z.grad[some].flatten().tolist())],
                      kind="points")],
    )  # fmt: skip


def names(split: str, length: bool) -> tuple[Tensor, Tensor]:
    """(features (N, D), labels (N, 26)): the first three letters and, by choice, the length of a name; which letters
    come after those."""
    rows = [
        word for word in open_corpus(DataConfig.model_validate({"corpus": "names"})).split(split) if len(word) > GIVEN
    ]
    letters, long, y = (
        torch.zeros(len(rows), GIVEN, 26),
        torch.zeros(len(rows), LONGEST + 1),
        torch.zeros(len(rows), 26),
    )
    for row, word in enumerate(rows):
        long[row, len(word)] = 1
        for place, letter in enumerate(word):
            if place < GIVEN:
                letters[row, place, LETTERS.index(letter)] = 1
            else:
                y[row, LETTERS.index(letter)] = 1
    return torch.cat([letters.flatten(1), long], 1) if length else letters.flatten(1), y


def trained(x_ND: Tensor, y_NV: Tensor, loss: Callable[[Tensor, Tensor], Tensor], seed: int, steps: int) -> nn.Module:
    """The same small network from the same weights through the same batches, whatever the loss."""
    random = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(x_ND.shape[1], 128), nn.ReLU(), nn.Linear(128, y_NV.shape[1]))
    with torch.no_grad():
        for weight in model.parameters():  # He et al. 2015; biases are vectors
            weight.normal_(0, (2 / weight.shape[1]) ** 0.5, generator=random) if weight.ndim == 2 else weight.zero_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x_ND), (256,), generator=random)
        optimizer.zero_grad()
        loss(model(x_ND[rows]), y_NV[rows]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def softmax_loss(z_NV: Tensor, y_NV: Tensor) -> Tensor:
    """Cross-entropy against the labels' shares, what softmax makes of a set of labels."""
    return F.cross_entropy(z_NV, y_NV / y_NV.sum(1, keepdim=True))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": F.binary_cross_entropy_with_logits,
    "softmax": softmax_loss,
}


def minimise(knobs: list[Tensor], loss: Callable[[], Tensor]) -> None:
    """Of a smooth loss of few numbers: L-BFGS to its end."""
    optimizer = torch.optim.LBFGS(knobs, max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    optimizer.step(closure)


def platt(scores_NV: Tensor, y_NV: Tensor) -> tuple[float, float]:
    """a, b of sigmoid(a score + b) with the least loss (Platt 1999): the softmax is not to lose by its scale alone."""
    knobs = torch.tensor([1.0, 0.0], dtype=torch.double, requires_grad=True)
    minimise([knobs], lambda: F.binary_cross_entropy_with_logits(knobs[0] * scores_NV + knobs[1], y_NV))
    a, b = knobs.tolist()
    return a, b


def losses(z_NV: Tensor, y_NV: Tensor) -> NDArray[np.float64]:
    """Nats for each example, over all its labels, (N,)."""
    return F.binary_cross_entropy_with_logits(z_NV, y_NV, reduction="none").sum(1).numpy()


def f1(z_NV: Tensor, y_NV: Tensor, cut: float) -> float:
    """Of all labels together (micro)."""
    said = z_NV.sigmoid() > cut
    hits = float((said & (y_NV > 0)).sum())
    return 2 * hits / max(1.0, float(said.sum() + y_NV.sum()))


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95% interval of the mean of independent differences."""
    mean, half = float(np.mean(differences)), 1.96 * float(np.std(differences, ddof=1)) / len(differences) ** 0.5
    return mean - half, mean + half


def compared(seed: int, steps: int, data: Data) -> dict[str, tuple[NDArray[np.float64], float]]:
    """By loss: nats of each test name, (N,), and F1 over all; scale, offset and cut are chosen on validation."""
    found = {}
    for kind, loss in LOSSES.items():
        model = trained(*data["train"], loss, seed, steps)
        with torch.no_grad():
            scores = {split: model(data[split][0]).double() for split in ("val", "test")}
        if kind == "softmax":
            scores = {split: z.log_softmax(1) for split, z in scores.items()}
        a, b = platt(scores["val"], data["val"][1].double())
        z = {split: a * score + b for split, score in scores.items()}
        cut = float(CUTS[int(np.argmax([f1(z["val"], data["val"][1], c) for c in CUTS]))])
        found[kind] = (losses(z["test"], data["test"][1].double()), f1(z["test"], data["test"][1], cut))
    return found


@dataclass(frozen=True)
class Gap:
    """What softmax loses to sigmoid on the test names."""

    nats_N: NDArray[np.float64]
    f1: dict[str, float]
    nats: dict[str, float]

    @property
    def text(self) -> str:
        low, high = interval(self.nats_N)
        return (f"{self.nats_N.mean():.3f} nats a name (95% interval {low:.3f} to {high:.3f}; sigmoid has "
                f"{self.nats['sigmoid']:.3f}) and {self.f1['sigmoid'] - self.f1['softmax']:.1f} points of F1 "
                f"({self.f1['softmax']:.1f} against {self.f1['sigmoid']:.1f})")  # fmt: skip


def gap(length: bool, quick: bool) -> Gap:
    """Over seeds, each of which gives both losses the same weights and batches."""
    data = {split: names(split, length) for split in ("train", "val", "test")}
    runs = [compared(seed, 300 if quick else 1500, data) for seed in ((1,) if quick else (1, 2, 3, 4, 5))]
    nats = {kind: np.mean([run[kind][0] for run in runs], 0) for kind in LOSSES}
    f = {kind: 100 * float(np.mean([run[kind][1] for run in runs])) for kind in LOSSES}
    return Gap(nats["softmax"] - nats["sigmoid"], f, {kind: float(n.mean()) for kind, n in nats.items()})


def several_labels(study: Study) -> Measurement:
    """Which letters a name has after its third, by sigmoid and by softmax: one network, two losses. Shares add up to 1,
    so softmax cannot say how many there are: it is tried where that is known, and where it is not."""
    known, unknown = gap(length=True, quick=study.quick), gap(length=False, quick=study.quick)
    shares, fitted = puppy()
    half = fitted[shares.index(0.5)]
    quantiles = np.linspace(0, 1, 101)
    return Measurement(
        numbers={"nats a name that softmax loses to sigmoid": float(known.nats_N.mean()),
                 "labels: lower end of the 95% interval": interval(known.nats_N)[0],
                 "points of F1 that softmax loses to sigmoid": known.f1["sigmoid"] - known.f1["softmax"],
                 "nats a name that softmax loses, length unknown": float(unknown.nats_N.mean()),
                 "softmax's chance of a dog, a puppy being called dog half of the time": half},
        findings=[f"Which letters follow the first three of a name of known length ({len(known.nats_N):,} names): "
                  f"softmax, its shares turned into chances by two numbers fitted on validation, loses {known.text}. "
                  f"Where the length is not known, and so not how many letters there are: {unknown.text}.",
                  "Every picture is of a puppy, so of a dog, and half are labelled dog, half puppy: softmax gives "
                  f"P(dog) = {half:.2f}, where it is 1."],
        charts=[
            Chart("Labels that do not exclude each other",
                  "Nats of each name by softmax, less those by sigmoid: the share of names below each difference.",
                      "nats a name, softmax less sigmoid", "share of names",
                  [Series(f"length {word}", np.quantile(one.nats_N, quantiles).tolist(), quantiles.tolist())
                   for word, one in (("known", known), ("unknown", unknown))]
                  + [Series("no difference", [0.0, 0.0], [0.0, 1.0], dash="dot")]),
            Chart("A dog that is a puppy", "Each picture shows both and is labelled with one word.",
                  "share labelled dog",
                  "probability of dog", [Series("softmax, fitted", shares, fitted),
                                         Series("truth", [shares[0], shares[-1]], [1.0, 1.0], dash="dot")]),
        ],
    )  # fmt: skip


def puppy() -> tuple[list[float], list[float]]:
    """(share labelled dog, P(dog) of the softmax of least loss). It is the share of the word, whatever the truth."""
    shares = [round(0.05 * n, 2) for n in range(1, 20)]
    z_N2 = torch.zeros(len(shares), 2, dtype=torch.double, requires_grad=True)
    target = torch.tensor([[share, 1 - share] for share in shares], dtype=torch.double)
    minimise([z_N2], lambda: F.cross_entropy(z_N2, target))
    return shares, z_N2.detach().softmax(1)[:, 0].tolist()
