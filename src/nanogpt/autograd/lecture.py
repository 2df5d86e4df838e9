"""The lecture's network, trained without autograd. Karpathy 2022, "Becoming a backprop ninja".

Three letters -> their vectors -> matrix -> batch norm -> tanh -> matrix -> cross-entropy. `stepwise` takes the network
apart into its smallest steps and derives each gradient; `ByHand` puts it together from the parts of ninja.py.

B rows, N letters in a window, W numbers in a vector, H hidden, V letters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanogpt.autograd.ninja import BatchNorm, CrossEntropy, Embedding, Linear, Tanh

LETTERS, WINDOW = 27, 3
NAMES = ("table", "W1", "b1", "scale", "shift", "W2", "b2")


def initial(width: int, hidden: int, random: torch.Generator, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The lecture's start: Kaiming's gain 5/3 for W1, and nothing exactly 0 or 1, which could hide a mistake.
    width=10, hidden=64: 4,137 parameters; hidden=200: 12,297."""

    def normal(*shape: int, std: float = 0.1) -> Tensor:
        return torch.randn(shape, generator=random, dtype=dtype) * std

    return {
        "table": normal(LETTERS, width, std=1.0),
        "W1": normal(hidden, WINDOW * width, std=5 / 3 / (WINDOW * width) ** 0.5),
        "b1": normal(hidden),
        "scale": 1 + normal(hidden),
        "shift": normal(hidden),
        "W2": normal(LETTERS, hidden),
        "b2": normal(LETTERS),
    }


class ByHand:
    """The network as a chain of parts: each backward takes what its own forward kept."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def hidden(self, windows_BN: Tensor) -> Tensor:
        """What the batch norm sees, (B, H)."""
        table, W1, b1 = (self.weights[name] for name in NAMES[:3])
        return Linear.forward(table[windows_BN].flatten(1), W1, b1)[0]

    def logits(self, hidden_BH: Tensor, mean_H: Tensor, var_H: Tensor) -> Tensor:
        """With statistics of the whole text in place of the batch's, (B, V)."""
        _, _, _, scale, shift, W2, b2 = (self.weights[name] for name in NAMES)
        z = (hidden_BH - mean_H) * (var_H + 1e-5).rsqrt()
        return torch.tanh(scale * z + shift) @ W2.T + b2

    def loss(self, windows_BN: Tensor, targets_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and the gradient of every weight."""
        table, W1, b1, scale, shift, W2, b2 = (self.weights[name] for name in NAMES)
        vectors, looked_up = Embedding.forward(windows_BN, table)
        mixed, at_mixed = Linear.forward(vectors.flatten(1), W1, b1)
        normed, at_normed = BatchNorm.forward(mixed, scale, shift)
        bent, at_bent = Tanh.forward(normed)
        logits, at_logits = Linear.forward(bent, W2, b2)
        loss, at_loss = CrossEntropy.forward(logits, targets_B)

        (d_logits,) = CrossEntropy.backward(torch.ones(()), *at_loss)
        d_bent, d_W2, d_b2 = Linear.backward(d_logits, *at_logits)
        (d_normed,) = Tanh.backward(d_bent, *at_bent)
        d_mixed, d_scale, d_shift = BatchNorm.backward(d_normed, *at_normed)
        d_vectors, d_W1, d_b1 = Linear.backward(d_mixed, *at_mixed)
        (d_table,) = Embedding.backward(d_vectors.view_as(vectors), *looked_up)
        return loss, dict(zip(NAMES, (d_table, d_W1, d_b1, d_scale, d_shift, d_W2, d_b2), strict=True))


def stepwise(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """The lecture's first exercise: of each smallest step the largest difference between the gradient by hand and
    autograd's, from the loss back to the table. The network has 4,137 parameters, the batch 32 rows."""
    random = torch.Generator().manual_seed(seed)
    weights = {name: w.requires_grad_() for name, w in initial(10, 64, random, dtype).items()}
    windows = torch.randint(LETTERS, (32, WINDOW), generator=random)
    targets = torch.randint(LETTERS, (32,), generator=random)
    steps = _forward(weights, windows, targets)
    names = [name for name in steps if name != "loss"]
    by_autograd = dict(zip(names, torch.autograd.grad(steps["loss"], [steps[name] for name in names]), strict=True))
    with torch.no_grad():
        by_hand = _backward(steps, windows, targets)
    return {name: float((by_hand[name] - by_autograd[name]).abs().max()) for name in by_hand}


def _forward(weights: dict[str, Tensor], windows_BN: Tensor, targets_B: Tensor) -> dict[str, Tensor]:
    s = dict(weights)
    B = len(targets_B)
    s["vectors"] = s["table"][windows_BN]
    s["joined"] = s["vectors"].flatten(1)
    s["mixed"] = s["joined"] @ s["W1"].T + s["b1"]
    s["mean"] = s["mixed"].sum(0, keepdim=True) / B
    s["centred"] = s["mixed"] - s["mean"]
    s["squared"] = s["centred"] ** 2
    s["variance"] = s["squared"].sum(0, keepdim=True) / (B - 1)
    s["inverse"] = (s["variance"] + 1e-5) ** -0.5
    s["normed"] = s["centred"] * s["inverse"]
    s["scaled"] = s["scale"] * s["normed"] + s["shift"]
    s["bent"] = torch.tanh(s["scaled"])
    s["logits"] = s["bent"] @ s["W2"].T + s["b2"]
    s["largest"] = s["logits"].amax(1, keepdim=True)
    s["shifted"] = s["logits"] - s["largest"]
    s["counts"] = s["shifted"].exp()
    s["total"] = s["counts"].sum(1, keepdim=True)
    s["share"] = s["total"] ** -1
    s["chances"] = s["counts"] * s["share"]
    s["logs"] = s["chances"].log()
    s["loss"] = -s["logs"][torch.arange(B), targets_B].mean()
    return s


def _backward(s: dict[str, Tensor], windows_BN: Tensor, targets_B: Tensor) -> dict[str, Tensor]:
    d: dict[str, Tensor] = {}
    B = len(targets_B)
    d["logs"] = torch.zeros_like(s["logs"])
    d["logs"][torch.arange(B), targets_B] = -1 / B
    d["chances"] = d["logs"] / s["chances"]
    d["share"] = (d["chances"] * s["counts"]).sum(1, keepdim=True)
    d["total"] = -d["share"] * s["total"] ** -2
    d["counts"] = d["chances"] * s["share"] + d["total"]  # used twice: in the quotient, and in the sum below it
    d["shifted"] = d["counts"] * s["counts"]
    d["largest"] = -d["shifted"].sum(1, keepdim=True)  # 0, but for rounding: a shift of all logits changes nothing
    d["logits"] = d["shifted"].clone()
    d["logits"][torch.arange(B), s["logits"].argmax(1)] += d["largest"][:, 0]
    d["bent"], d["W2"], d["b2"] = d["logits"] @ s["W2"], d["logits"].T @ s["bent"], d["logits"].sum(0)
    d["scaled"] = d["bent"] * (1 - s["bent"] ** 2)
    d["scale"], d["shift"] = (d["scaled"] * s["normed"]).sum(0), d["scaled"].sum(0)
    d["normed"] = d["scaled"] * s["scale"]
    d["inverse"] = (d["normed"] * s["centred"]).sum(0, keepdim=True)
    d["variance"] = -0.5 * (s["variance"] + 1e-5) ** -1.5 * d["inverse"]
    d["squared"] = d["variance"].expand_as(s["squared"]) / (B - 1)
    d["centred"] = d["normed"] * s["inverse"] + d["squared"] * 2 * s["centred"]
    d["mean"] = -d["centred"].sum(0, keepdim=True)
    d["mixed"] = d["centred"] + d["mean"] / B
    d["joined"], d["W1"], d["b1"] = d["mixed"] @ s["W1"], d["mixed"].T @ s["joined"], d["mixed"].sum(0)
    d["vectors"] = d["joined"].view_as(s["vectors"])
    d["table"] = torch.zeros_like(s["table"]).index_add_(0, windows_BN.flatten(), d["vectors"].flatten(0, 1))
    return d
