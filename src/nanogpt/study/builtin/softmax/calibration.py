"""Is a model right as often as it is sure? And what one number, the temperature, mends (Guo et al. 2017,
arXiv:1706.04599).

Small models of letters are trained on 30,000 characters until they know them nearly by heart. The temperature is fitted
on validation; what is claimed is measured on test. N tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from nanogpt.observers.output import calibration, error
from nanogpt.study.builtin.models import folder, shakespeare, trained
from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series

CHARACTERS = 75_000
"""Of text: 40% to train on, 30% for validation, 30% for test."""
OVERFIT = (
    "data.val=0.3", "data.test=0.3", "model.dim=96", "model.n_layers=2", "model.context=64", "train.batch=16",
)  # fmt: skip
TREATMENTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "label smoothing 0.1": ("model.objective=next_token(label_smoothing=0.1)",),
    "z-loss 1e-4": ("model.objective=next_token(z_loss=1e-4)",),
    "z-loss 1e-2": ("model.objective=next_token(z_loss=1e-2)",),
    "softcap 30": ("model.head=linear(softcap=30)",),
    "softcap 5": ("model.head=linear(softcap=5)",),
}
"""Their usual sizes (Vaswani et al. 2017; PaLM 2022; Gemma 2 2024), and of two of them one that is felt here."""


@dataclass(frozen=True)
class Scored:
    """A model on test before (T = 1) and after (the T of validation)."""

    T: float
    error: tuple[float, float]
    """Expected calibration error, 15 bins."""
    accuracy: tuple[float, float]
    loss: tuple[float, float]
    reliability: tuple[NDArray[np.float64], NDArray[np.float64]]
    """(15, 3) each: tokens, mean confidence, share that is right."""


def fitted(z_NV: Tensor, y_N: Tensor) -> float:
    """The temperature under which the targets are likeliest. One minimum: the loss is convex in 1 / T."""

    def nats(beta: float) -> float:
        return float(F.cross_entropy(beta * z_NV, y_N))

    return 1 / float(optimize.minimize_scalar(nats, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-6}).x)


def score(z_NV: Tensor, y_N: Tensor, T: float) -> tuple[float, float, float, NDArray[np.float64]]:
    """(expected calibration error, accuracy, loss, reliability) of softmax(z / T)."""
    sure_N, said_N = (z_NV / T).softmax(1).max(1)
    right_N = (said_N == y_N).double().numpy()
    bins = calibration(sure_N.double().numpy(), right_N)
    return error(bins), float(right_N.mean()), float(F.cross_entropy(z_NV / T, y_N)), bins


def overfitted(study: Study, treatment: str, seed: int) -> Scored:
    """One model, trained or read, and its temperature."""
    text = shakespeare(folder(study), "excerpt", lambda whole: whole[:CHARACTERS])
    name = f"{treatment.replace(' ', '-')}-seed{seed}"
    steps = 150 if study.quick else 400
    length = (f"train.steps={steps}", f"train.eval_every={steps // 2}")
    same = ("fast-shakespeare", f"data.corpus={text}", f"seed={seed}", *length, *OVERFIT)
    model = trained(folder(study), name, *same, *TREATMENTS[treatment])
    T = fitted(*model.logits("val", CHARACTERS))
    z_NV, y_N = model.logits("test", CHARACTERS)
    before, after = score(z_NV, y_N, 1.0), score(z_NV, y_N, T)
    return Scored(T, (before[0], after[0]), (before[1], after[1]), (before[2], after[2]), (before[3], after[3]))


def temperature_scaling(study: Study) -> Measurement:
    """Before and after, for models that were trained plainly and for those with something against over-confidence."""
    seeds = (1,) if study.quick else (1, 2, 3)
    models = {name: [overfitted(study, name, seed) for seed in seeds] for name in TREATMENTS}
    plain = models["plain"]
    means = {name: np.mean([[100 * e for e in one.error] for one in found], 0) for name, found in models.items()}
    numbers = {
        "smallest temperature of the plain models": min(one.T for one in plain),
        "largest of the plain models' errors after, less before": max(one.error[1] - one.error[0] for one in plain),
        "largest change of an accuracy": max(
            abs(o.accuracy[1] - o.accuracy[0]) for found in models.values() for o in found
        ),
        "error of the plain models, %": float(means["plain"][0]),
        "error of the plain models after, %": float(means["plain"][1]),
    }
    for name, found in models.items():
        numbers |= {f"{name}: temperature": float(np.mean([one.T for one in found])),
                    f"{name}: error, %": float(means[name][0]), f"{name}: error after, %": float(means[name][1]),
                    f"{name}: test loss": float(np.mean([one.loss[0] for one in found])),
                    f"{name}: test loss after": float(np.mean([one.loss[1] for one in found]))}  # fmt: skip
    return Measurement(numbers, _says(models, means), _charts(models, means, seeds))


def _says(models: dict[str, list[Scored]], means: dict[str, NDArray[np.float64]]) -> list[str]:
    plain = models["plain"]
    spans = [
        f"{100 * min(o.error[n] for o in plain):.1f} to {100 * max(o.error[n] for o in plain):.1f}" for n in (0, 1)
    ]
    others = "; ".join(
        f"{name} {means[name][0]:.1f}% (T = {np.mean([one.T for one in found]):.2f}, after {means[name][1]:.1f}%)"
        for name, found in models.items()
        if name != "plain"
    )
    return [
        f"Over-fitted language models are too sure: expected calibration error {means['plain'][0]:.1f}% ({spans[0]}% "
        f"over {len(plain)} seeds). One temperature, T = {np.mean([one.T for one in plain]):.2f} from validation, "
        f"makes it {means['plain'][1]:.1f}% ({spans[1]}%) on test, with the same accuracy to the last token. Guo et "
        "al. 2017, CIFAR-100, ResNet-110: 16.5% to 1.3%.",
        f"Trained with something against it: {others}.",
    ]


def _charts(
    models: dict[str, list[Scored]], means: dict[str, NDArray[np.float64]], seeds: tuple[int, ...]
) -> list[Chart]:
    names, one = list(models), models["plain"][0]
    diagram = [Series(f"{word}, T = {T:.2f}", *_points(table))
               for word, T, table in zip(("before", "after"), (1, one.T), one.reliability, strict=True)]  # fmt: skip
    bars = [
        Series(word, names, [float(means[name][n]) for name in names],
               low=[100 * min(o.error[n] for o in models[name]) for name in names],
               high=[100 * max(o.error[n] for o in models[name]) for name in names])
        for n, word in enumerate(("before", "after temperature scaling"))
    ]  # fmt: skip
    return [
        Chart("Reliability, before and after",
              "A plainly trained model (seed 1) on test: below the diagonal it is too sure.",
              "confidence (probability of its first choice)", "share that is right",
              [*diagram, Series("calibrated", [0.0, 1.0], [0.0, 1.0], dash="dot")]),
        Chart("Calibration error by how the model was trained",
              f"Expected calibration error on test, 15 bins, mean and range of {len(seeds)} seeds.", "training",
                  "expected calibration error (%)", bars, kind="bars"),
    ]  # fmt: skip


def _points(table: NDArray[np.float64]) -> tuple[list[float], list[float | None]]:
    kept = table[table[:, 0] >= 20]  # a bin of a few tokens says nothing
    return kept[:, 1].tolist(), kept[:, 2].tolist()
