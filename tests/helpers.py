"""Tiny models for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.config import ModelConfig
from nanogpt.model.language_model import LanguageModel

VOCAB = 13
TINY: dict[str, Any] = {
    "gpt": {
        "position": "learned",
        "mixer": "attention(heads=2, bias=out, dropout=0.2)",
        "ffn": "mlp(act=relu, bias=zeros)",
        "norm": "layernorm",
        "layout": "pre(dropout=0.2)",
        "head": "linear(bias=zeros)",
    },
    "gpt2": {
        "position": "learned",
        "mixer": "attention(heads=2, bias=all)",
        "ffn": "mlp(act=gelu_tanh, bias=zeros)",
        "norm": "layernorm",
        "head": "tied",
        "init": "gpt2",
    },
    "llama": {
        "position": "rotary",
        "mixer": "attention(heads=4, kv_heads=2)",
        "ffn": "swiglu(multiple_of=4)",
        "norm": "rmsnorm(eps=1e-5)",
    },
    "modern": {
        "position": "rotary",
        "mixer": "attention(heads=2, qk_norm=rmsnorm)",
        "ffn": "mlp(act=relu2)",
        "norm": "rmsnorm",
        "init": "zero_output",
    },
}
"""The parts of the presets, small."""

MATRICES: dict[str, Any] = {
    "context": 64,
    "vocab_size": 65,
    "position": "none",
    "mixer": "none",
    "norm": "none",
    "layout": "none(residual=none)",
    "head": "linear",
}
"""Matrices and activations, one after the other: nothing else."""


def model_config(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate({"dim": 16, "n_layers": 2, "context": 8, "vocab_size": VOCAB} | fields)


def make(seed: int = 1, **fields: Any) -> LanguageModel:
    """A model in evaluation mode, initialised as it says."""
    model = LanguageModel(model_config(**fields))
    model.initialise(seed)
    return model.eval()


def scrambled(seed: int = 1, **fields: Any) -> LanguageModel:
    """A model whose every parameter is random, biases and gains too: nothing hides behind a zero or a one."""
    return scramble(make(seed, **fields), seed)


@torch.no_grad()
def scramble(model: LanguageModel, seed: int = 1) -> LanguageModel:
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        wide = parameter.shape[1] ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.copy_(torch.randn(parameter.shape, generator=random) * wide + (parameter.ndim == 1) * 0.5)
    return model


def tokens(batch: int, time: int, seed: int = 1, vocab: int = VOCAB) -> Tensor:
    return torch.randint(vocab, (batch, time), generator=torch.Generator().manual_seed(seed))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
