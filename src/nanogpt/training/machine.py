"""Where and how a run is calculated: device, threads, precision, compilation.

All of it follows from the configuration and the kind of machine, never from a timing: a run that was killed before it
had saved its choice makes the same one again. Each choice carries its reason, for the card.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch

from nanogpt.config import TrainConfig
from nanogpt.errors import UserError, nearest

CPU_RATE = {"fp32": 0.05e12, "bf16": 0.15e12}
"""FLOP/s of a training step, for each core. About 40% of what large products alone reach (0.13 and, with AMX, 0.85)."""
DEVICE_RATE = {"cuda": {"fp32": 10e12, "bf16": 60e12}, "mps": {"fp32": 2e12, "bf16": 2e12}}
"""The same for small models on a whole accelerator: low guesses, their use is to tell minutes from hours."""
COMPILE_FROM = {"cpu": 300.0, "cuda": 120.0}
"""Estimated seconds of a run from which compiling is taken to pay: it costs 15 to 35 s."""
BF16_DIM = {"AMX": 256, "AVX512_BF16": 128}
"""Widths from which a CPU that multiplies bf16 trains faster in it: autocast converts weights and activations in every
step, work in proportion to dim, and saves work in proportion to dim squared. Measured on a whole step of `modern`
(docs/LOG.md): on AMD's Zen 5, which has AVX512_BF16 and no AMX, bf16 is 1.6 times as fast as fp32 at 128, 1.9 at 256,
2.7 at 384. A CPU with neither has no such products, and bf16 is slower at every width, 1.4 to 1.8 times."""


@dataclass
class Machine:
    device: str
    precision: str
    compile: str
    threads: int
    reasons: dict[str, str] = field(default_factory=dict)
    """Why each one, where it was left to us."""

    @property
    def kind(self) -> str:
        return self.device.partition(":")[0]

    def autocast(self) -> AbstractContextManager[None]:
        """bf16 products with fp32 weights; nothing for fp32."""
        return torch.autocast(self.kind, torch.bfloat16, enabled=self.precision == "bf16")

    def prepare(self) -> None:
        torch.set_num_threads(self.threads)
        if self.kind == "cpu":
            keep_freed_memory()

    @property
    def rate(self) -> float:
        return _rate(self.kind, self.precision, self.threads)

    def seed(self, seed: int) -> None:
        """Of what is random in a step. Not torch.manual_seed: it prepares every kind of device there could be, which
        took a quarter of a small model's step."""
        torch.default_generator.manual_seed(seed)
        if self.kind == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.kind == "mps":
            torch.mps.manual_seed(seed)

    def wait(self) -> None:
        """Let the device finish, so that a clock tells the truth."""
        if self.kind == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.kind == "mps":
            torch.mps.synchronize()


def _rate(kind: str, precision: str, threads: int) -> float:
    return CPU_RATE[precision] * threads if kind == "cpu" else DEVICE_RATE[kind][precision]


def has_amx() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def bf16_kind() -> str | None:
    """What multiplies bf16 on this CPU, a key of BF16_DIM; None where nothing does."""
    if has_amx():
        return "AMX"
    return "AVX512_BF16" if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() else None


def has_compiler(kind: str) -> bool:
    """Whether torch.compile finds what it needs: Triton on CUDA, a C++ compiler elsewhere."""
    if kind == "cuda":
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "cl") if name)


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process, where the C library is glibc; whether it agreed.

    glibc gives each large block back to the system as soon as it is freed, and the next activation of the same size is
    made of fresh pages, which the system fills with zeros one by one. A step frees and asks for the same blocks again
    and again: keeping them took 10% off a step 320 wide, 19% off one 128 wide (docs/LOG.md). What the process holds is
    then the most that it ever held.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*option) == 1 for option in _KEEP)


_KEEP = ((-4, 0), (-1, 2**31 - 1))
"""M_MMAP_MAX: no block of pages of its own; M_TRIM_THRESHOLD: the heap's end is not given back (mallopt(3))."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices() -> dict[str, Callable[[], bool]]:
    """Kinds of devices, best first, and whether there is one."""
    return {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}


def choose_device(wanted: str, local_rank: int = 0) -> str:
    """The device of a run. UserError where the one asked for is not there."""
    there = [kind for kind, available in devices().items() if available()]
    kind, _, number = wanted.partition(":")
    if wanted == "auto":
        kind = there[0]
    elif kind not in there:
        raise UserError(f"train.device={wanted}: this machine has none that torch can use{nearest(kind, there)}")
    if kind != "cuda":
        return kind
    index = int(number) if number else local_rank
    if index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"train.device={wanted}: there are {count}; nearest: cuda:{count - 1}")
    return f"cuda:{index}" if number or local_rank else "cuda"


def choose(train: TrainConfig, *, dim: int, flops: float, loops: bool = False, local_rank: int = 0) -> Machine:
    """Fill in what the configuration leaves to us. `flops`: of the whole run, forward and backward; `loops`: whether a
    part goes through the tokens one by one."""
    device = choose_device(train.device, local_rank)
    kind = device.partition(":")[0]
    reasons = {} if train.device != "auto" else {"device": "best there is"}
    threads = train.threads or cores()
    precision: str = train.precision
    if precision == "auto":
        precision, reasons["precision"] = _precision(kind, dim)
    seconds = flops / _rate(kind, precision, threads)
    compiled: str = train.compile
    if compiled == "auto" and loops:
        compiled, reasons["compile"] = "off", "a part goes through the tokens one by one: compiling it takes minutes"
    elif compiled == "auto":
        compiled, reasons["compile"] = _compile(kind, precision, seconds)
    elif compiled == "on" and not has_compiler(kind):
        compiled, reasons["compile"] = "off", "asked for, but there is no C++ compiler here"
    return Machine(device, precision, compiled, threads, reasons)


def _precision(kind: str, dim: int) -> tuple[str, str]:
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU multiplies it fastest"
        return "fp32", "this GPU has no bf16"
    if kind == "cpu" and (found := bf16_kind()):
        if dim >= BF16_DIM[found]:
            return "bf16", f"this CPU has {found}"
        return "fp32", f"below {BF16_DIM[found]} wide, converting to bf16 costs what {found} saves"
    return "fp32", "bf16 is no faster here"


def _compile(kind: str, precision: str, seconds: float) -> tuple[str, str]:
    least = COMPILE_FROM.get(kind)
    if least is None:
        return "off", f"not on {kind}"
    if kind == "cpu" and precision == "bf16" and bf16_kind() != "AMX":  # measured: docs/LOG.md, "Speed"
        return "off", "in bf16 it is no faster on a CPU without AMX"
    if seconds < least:
        return "off", f"would not pay in about {seconds:.0f} s of training"
    if not has_compiler(kind):
        return "off", "it would pay, but there is no C++ compiler here"
    return "on", f"pays in about {seconds / 60:.0f} min of training"
