"""What this machine can do: devices, cores, the rate of matrix products, and whether every device computes the same."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch

from nanogpt.config import compose
from nanogpt.model.language_model import LanguageModel
from nanogpt.training import machine
from nanogpt.training.machine import Machine

TOLERANCE = 1e-3
"""Largest difference of a loss or a gradient's norm, as a share of the CPU's, that rounding in fp32 explains."""


def examine() -> dict[str, Any]:
    """Measure for some seconds; everything that `nanogpt doctor` prints."""
    found = devices()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": machine.cores(),
        "threads": torch.get_num_threads(),
        "compiler": "found" if machine.has_compiler("cpu") else "none: torch.compile is not used on the CPU",
        "amx": "yes" if machine.has_amx() else "no",
        "devices": {
            name: {
                "what": _what(name),
                "tflops": {p: rate(name, dtype) for p, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))},
                **training_step(name),
            }
            for name in found
        },
    }


def devices() -> list[str]:
    found = ["cpu"]
    found += [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _what(device: str) -> str:
    if device.startswith("cuda"):
        card = torch.cuda.get_device_properties(device)
        return f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    return platform.processor() or platform.machine()


def _wait(device: str) -> None:
    Machine(device, "fp32", "off", torch.get_num_threads()).wait()


def rate(device: str, dtype: torch.dtype, size: int = 2048) -> float:
    """TFLOP/s of a matrix product: the best of six, since a busy machine only ever slows one down."""
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def training_step(device: str) -> dict[str, Any]:
    """One step of a small model in fp32: its loss and gradient norm, and how far they are from the CPU's."""
    loss, norm, seconds = _step(device)
    cpu_loss, cpu_norm, _ = (loss, norm, seconds) if device == "cpu" else _step("cpu")
    apart = max(abs(loss - cpu_loss) / abs(cpu_loss), abs(norm - cpu_norm) / abs(cpu_norm))
    return {"loss": loss, "grad_norm": norm, "step_seconds": seconds, "apart": apart, "agrees": apart < TOLERANCE}


def _step(device: str) -> tuple[float, float, float]:
    overrides = ["model.dim=64", "model.n_layers=2", "model.vocab_size=256", "model.init=gpt2"]
    config = compose("modern", overrides).model
    model = LanguageModel(config)
    model.initialise(seed=1)
    model.to(device)
    tokens = torch.randint(256, (4, 65), generator=torch.Generator().manual_seed(1)).to(device)
    start = time.perf_counter()
    loss = model.losses(tokens[:, :-1], tokens[:, 1:])["loss"]
    loss.backward()
    norm = torch.nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)
    result = float(loss.detach()), float(norm)
    _wait(device)
    return *result, time.perf_counter() - start
