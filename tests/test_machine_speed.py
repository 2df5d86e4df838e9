"""What training costs to start, and which precision a kind of machine gets."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from nanogpt.config import compose
from nanogpt.optim.optimizers import make_optimizers
from nanogpt.training import machine

FLAGS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")


@pytest.mark.parametrize(
    "amx, avx512, first, reason", [(True, True, 256, "AMX"), (False, True, 128, "AVX512_BF16"), (False, False, 0, "")]
)
def test_precision_follows_from_the_cpus_flags(
    amx: bool, avx512: bool, first: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, there in zip(FLAGS, (amx, avx512), strict=True):
        monkeypatch.setattr(torch.cpu, name, lambda there=there: there)
    monkeypatch.setattr(machine, "choose_device", lambda wanted, local_rank=0: "cpu")
    wanted = compose("modern").train
    chosen = {dim: machine.choose(wanted, dim=dim, flops=1.0) for dim in (64, 127, 128, 255, 256, 1024)}
    assert [d for d, m in chosen.items() if m.precision == "bf16"] == [d for d in chosen if first and d >= first]
    assert reason in chosen[1024].reasons["precision"] and reason in chosen[64].reasons["precision"]


def test_no_optimizer_imports_the_compiler() -> None:
    """It takes a second, a quarter of a start; torch's own optimizers import it."""
    program = """
import sys, torch
from nanogpt.optim.optimizers import OPTIMIZERS, make_optimizers
for name in OPTIMIZERS:
    model = torch.nn.Linear(3, 3)
    for optimizer in make_optimizers(name, model):
        optimizer.zero_grad()
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules, "imported"
torch.optim.AdamW(torch.nn.Linear(2, 2).parameters()).step()
assert "torch._dynamo" in sys.modules, "torch does not any more: optim/lean.py can go"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["adamw", "sgd", "muon", "nadam"])
def test_optimizers_keep_torchs_hooks_and_ask_for_no_gradient(text: str) -> None:
    model, seen = torch.nn.Linear(2, 2), []
    (optimizer,) = make_optimizers(text, model)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert seen == ["before", "after"]
    assert model.weight.grad_fn is None and torch.is_grad_enabled()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_stays() -> None:
    """In a process of its own, since there is no way back: what a freed tensor held is still held and used again."""
    program = """
import torch
from nanogpt.training.machine import keep_freed_memory

def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def use():
    return torch.ones(100_000_000, dtype=torch.uint8).sum()

use(); without = held()
keep_freed_memory()
use(); kept = held()
use(); again = held()
assert kept - without > 90_000_000, (without, kept)
assert abs(again - kept) < 10_000_000, (kept, again)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
