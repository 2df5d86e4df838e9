"""How much memory one run takes, of several that a process trains one after the other."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import torch


def begin() -> int | None:
    """Count the most bytes from here on; answers those held now. None where the system does not tell."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return 0
    if not sys.platform.startswith("linux"):
        return None
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # training keeps what it freed (training/machine.py)
        trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the most that was held is what is held now
        return _most()
    return None


def taken(before: int | None) -> int | None:
    """Most bytes since `begin` answered this: on the device, or in this process beyond what it held then."""
    if before is None:
        return None
    return (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _most()) - before


def _most() -> int:
    """Not getrusage, which would count what the parent held where this process was made from it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
