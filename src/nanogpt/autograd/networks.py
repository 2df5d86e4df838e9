"""Two networks on the tensor engine, as functions of their weights: Bengio's, and a GPT of one block.

The weights have the names of our models' in PyTorch (presets `makemore-mlp` and `gpt`), so that both can start alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nanogpt.autograd import functional as F
from nanogpt.autograd.tape import no_grad
from nanogpt.autograd.tensor import Tensor, tensor

Weights = Mapping[str, Tensor]


def weights_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of a PyTorch model's weights (its `state_dict()`), as leaves in float64."""
    return {name: tensor(np.asarray(w.detach()), "float64", requires_grad=True) for name, w in state.items()}


def bengio(w: Weights, windows_BN: Tensor, targets_B: Tensor) -> Tensor:
    """Loss of U tanh(H x + d) + b, where x is the vectors of N letters one after the other. Bengio et al. 2003."""
    x_BD = F.embedding(windows_BN, w["embed.weight"]).view(len(windows_BN), -1)
    hidden = F.linear(x_BD, w["head.up.weight"], w["head.up.bias"]).tanh()
    return F.cross_entropy(F.linear(hidden, w["head.out.weight"], w["head.out.bias"]), targets_B)


def gpt(w: Weights, tokens_BT: Tensor, targets_BT: Tensor, heads: int) -> Tensor:
    """Loss of a GPT of one pre-norm block with learned positions. Karpathy 2023, "Let's build GPT"."""
    T = tokens_BT.shape[1]
    x = F.embedding(tokens_BT, w["embed.weight"]) + w["position.0.weight"][:T]
    block = {name.removeprefix("blocks.0."): weight for name, weight in w.items()}
    x = x + _attention(block, _norm(block, "mixer_norm", x), heads)
    inner = F.linear(_norm(block, "ffn_norm", x), block["ffn.up.weight"], block["ffn.up.bias"]).relu()
    x = x + F.linear(inner, block["ffn.out.weight"], block["ffn.out.bias"])
    logits = F.linear(_norm(w, "norm", x), w["head.linear.weight"], w["head.linear.bias"])
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets_BT.reshape(-1))


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _attention(w: Weights, x_BTD: Tensor, heads: int) -> Tensor:
    B, T, D = x_BTD.shape
    q, k, v = (
        F.linear(x_BTD, w[f"mixer.{name}.weight"]).view(B, T, heads, D // heads).transpose(1, 2) for name in "qkv"
    )
    joined = F.attention(q, k, v).transpose(1, 2).reshape(B, T, D)
    return F.linear(joined, w["mixer.out.weight"], w["mixer.out.bias"])


def descend(weights: Iterable[Tensor], lr: float) -> None:
    """One step of gradient descent, in place; gradients are gone afterwards."""
    with no_grad():
        for w in weights:
            if w.grad is not None:
                w.sub_(w.grad * lr)
                w.grad = None
