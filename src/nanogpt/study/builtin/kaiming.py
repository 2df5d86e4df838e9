"""Variances by depth, predicted and measured; and how much the initialisation matters, with and without what is said to
rescue a bad one.

L layers of n units. He et al. 2015 (arXiv:1502.01852): a layer multiplies the second moment of the activations by
n Var[w] / 2 for a ReLU, and by n Var[w] (1 + a^2) / 2 for a PReLU of slope a (equations 8 to 15).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from nanogpt.config import compose
from nanogpt.model.language_model import LanguageModel
from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series

WIDTH, DEPTHS, SLOPE = 256, (22, 30), 0.25
SEEDS = 20
"""Networks whose second moments are averaged: that of one of 30 layers is off by a factor of 2."""
TOKENS = (16, 16)
"""Rows and letters of a pass, drawn evenly: what they say does not matter here."""
RELU_STD = (2 / WIDTH) ** 0.5
NETWORKS: dict[str, tuple[str, str, float]] = {
    "Kaiming, ReLU": ("relu", "kaiming(embedding=1)", 1.0),
    "Xavier, ReLU": ("relu", "xavier(embedding=1)", 0.5),
    "Kaiming for PReLU, PReLU": (f"prelu(slope={SLOPE})", "kaiming(embedding=1)", 1.0),
    "Kaiming for ReLU, PReLU": (f"prelu(slope={SLOPE})", f"normal(std={RELU_STD})", 1 + SLOPE**2),
}
"""Activation, scheme, and the factor of the second moment in each layer that theory gives."""


@torch.no_grad()
def moments(act: str, init: str, depth: int, seed: int) -> NDArray[np.float64]:
    """E[x^2] of the activations of each layer, (L,)."""
    settings = [f"model.ffn=dense(act={act})", f"model.init={init}", f"model.dim={WIDTH}", f"model.n_layers={depth}",
                "model.embed=window(tokens=8)", "model.layout=none(residual=none)", "model.head=linear",
                "model.vocab_size=27"]  # fmt: skip
    model = LanguageModel(compose("makemore-mlp", settings).model)
    model.initialise(seed)
    found: list[float] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: found.append(float(output.square().mean())))
    model(torch.randint(27, TOKENS, generator=torch.Generator().manual_seed(seed)))
    return np.array(found)


def variance_by_depth(study: Study) -> Measurement:
    """Of networks that have not been trained: from the first layer to the last."""
    seeds = range(1, (5 if study.quick else SEEDS) + 1)
    layers = list(range(1, max(DEPTHS) + 1))
    numbers, lines, says = {}, [], []
    for name, (act, init, factor) in NETWORKS.items():
        measured = np.mean([moments(act, init, max(DEPTHS), seed) for seed in seeds], 0)
        ratio, predicted = measured / measured[0], factor ** (np.array(layers) - 1.0)
        lines += [Series(name, layers, ratio.tolist()),
                  Series(f"{name}: {factor:g} a layer", layers, predicted.tolist(), dash="dot")]  # fmt: skip
        a_layer = float((ratio[-1]) ** (1 / (len(layers) - 1)))
        numbers[f"{name}: factor a layer"] = a_layer
        says.append(f"{name} {a_layer:.3f} ({factor:g})")
        for depth in DEPTHS:
            numbers[f"{name}: std after {depth} layers"] = float((a_layer**depth) ** 0.5)
    xavier = [numbers[f"Xavier, ReLU: std after {depth} layers"] for depth in DEPTHS]
    return Measurement(
        numbers,
        [f"Second moment of the activations, factor a layer over {max(DEPTHS)} layers of {WIDTH}, measured and "
         f"(predicted): {', '.join(says)}. Under Xavier a signal keeps {xavier[0]:.2g} of its size in 22 layers and "
         f"{xavier[1]:.2g} in 30 (predicted 4.9e-4 and 3.05e-5)."],
        [Chart("Variance by depth",
               f"Second moment of a layer's activations over that of the first, mean of {len(seeds)} networks at their "
               "start; dotted: predicted.", "layer", "E[x²] over the first layer's", lines, log_y=True)],
    )  # fmt: skip


def spreads(study: Study) -> Measurement:
    """Largest minus smallest test loss over the initialisations, for each network and each rescue."""
    names = {tuple(arm.split("-")): arm for arm in study.plan.arms if arm.count("-") == 2}
    nets, inits, rescues = (list(dict.fromkeys(name[axis] for name in names)) for axis in range(3))
    numbers: dict[str, float] = {}
    says, bars, maps = [], [], []
    for net in nets:
        losses = {
            rescue: np.array([[study.scores(names[net, init, rescue])[seed].of("test", "loss") for init in inits]
                              for seed in study.plan.seeds])
            for rescue in rescues if (net, inits[0], rescue) in names
        }  # fmt: skip
        found = {rescue: np.ptp(each, 1) for rescue, each in losses.items()}
        means = {rescue: float(each.mean()) for rescue, each in found.items()}
        parts = []
        for rescue, mean in means.items():
            share, by_start = mean / means["none"], losses[rescue].mean(0)
            numbers |= {f"{net}, {rescue}: spread": mean, f"{net}, {rescue}: spread, share of none's": share}
            parts.append(f"{rescue} {mean:.3f} ({share:.0%}; {by_start.min():.2f} to {by_start.max():.2f})")
        says.append(f"{NETS[net]}: {', '.join(parts)}")
        bars.append(Series(NETS[net], list(means), list(means.values()), [float(each.min()) for each in found.values()],
                           [float(each.max()) for each in found.values()]))  # fmt: skip
        rows = [Series(init, list(losses), [float(each[:, row].mean()) for each in losses.values()])
                for row, init in enumerate(inits)]  # fmt: skip
        text = "Mean test loss over seeds; a run that diverged counts as every letter alike, ln 27 = 3.30."
        maps.append(Chart(f"Loss by initialisation and rescue: {NETS[net]}", text, "rescue", "initialisation", rows,
                          kind="heatmap", z="loss (nats)"))  # fmt: skip
    first = Chart("How much the initialisation matters",
                  "Largest minus smallest test loss over the initialisations, mean and range of the seeds.", "rescue",
                  "spread of the loss (nats)", bars, kind="bars")  # fmt: skip
    says = [f"Spread of the test loss over {', '.join(inits)} in nats (share of the spread with no rescue; mean losses "
            f"from the best start to the worst). {one}." for one in says]  # fmt: skip
    return Measurement(numbers, says, [first, *maps])


NETS = {"deep": "22 ReLU layers on names", "lm": "language model of 4 blocks on names"}
