"""What the benchmarks of speed share: things run in turn, medians and their ratios, the rate of a large product.

A machine is never quite idle, and its clock changes with heat and with what runs beside: so what is compared runs in
turn, round after round, and only ratios of medians from one and the same process are claimed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def product_rate(dtype: torch.dtype, n: int = 4096, seconds: float = 1.0, device: str = "cpu") -> float:
    """FLOP/s of products of two n x n matrices: what a machine can reach, to which utilisation refers.

    The median over as many products as fit into `seconds`, at least three, after one that warms up. 2 n^3 operations.
    """
    a = torch.randn(n, n, device=device).to(dtype)
    out = torch.empty_like(a)

    def once() -> float:
        wait(device)
        started = time.perf_counter()
        torch.mm(a, a, out=out)
        wait(device)
        return time.perf_counter() - started

    once()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        times.append(once())
    return 2 * n**3 / statistics.median(times)


def wait(device: str) -> None:
    """Let a device finish, so that a clock tells the truth."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def in_turn(thunks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each thunk once a round; what each answered (seconds, or a rate), by name. Warm up before."""
    found: dict[str, list[float]] = {name: [] for name in thunks}
    for _ in range(rounds):
        for name, thunk in thunks.items():
            found[name].append(thunk())
    return found


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in found.items() if values}


def ratio(middle: Mapping[str, float]) -> dict[str, float]:
    """How many times the first each of the others is, from medians."""
    first = next(iter(middle.values()))
    return {name: value / first for name, value in middle.items()}


def timed(action: Callable[[], Any]) -> Callable[[], float]:
    """A thunk for `in_turn` that answers how many seconds `action` took."""

    def thunk() -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    return thunk


def whole_process(command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None,
                  on_line: Callable[[str, float], None] | None = None) -> tuple[float, str]:  # fmt: skip
    """Run a command to its end: seconds from start to exit, and what it printed. `on_line`: each line as it comes,
    and after how many seconds. Raises SystemExit with the end of the output where the command failed."""
    started = time.perf_counter()
    process = subprocess.Popen(
        list(command), cwd=cwd, env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            if on_line:
                on_line(line, time.perf_counter() - started)
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    seconds, text = time.perf_counter() - started, "".join(lines)
    if status:
        raise SystemExit(f"{' '.join(command)}\nended with status {status}:\n{text[-2000:]}")
    return seconds, text


class Busy:
    """How busy the machine was with other work: the share of all cores that other processes took, while this ran."""

    def __enter__(self) -> Busy:
        self._before = _cpu_seconds()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        elapsed = time.perf_counter() - self._started
        (all_before, own_before), (all_now, own_now) = self._before, _cpu_seconds()
        others = (all_now - all_before) - (own_now - own_before)
        self.share = max(0.0, others / elapsed / (os.cpu_count() or 1)) if elapsed else 0.0


def _cpu_seconds() -> tuple[float, float]:
    """CPU seconds spent by everyone and by this process with its children that have ended; zeros where unknown."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0, 0.0
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), own


def peak_memory(action: Callable[[], Any], every: float = 0.01) -> int:
    """The most resident bytes of this process while `action` runs, watched from a thread. Linux only: 0 elsewhere."""
    most, done = [_resident()], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            most[0] = max(most[0], _resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        action()
    finally:
        done.set()
        thread.join()
    return max(most[0], _resident())


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def say(text: str) -> None:
    """Progress, beside the result: on standard error, so that `--json` stays one object on standard output."""
    print(text, file=sys.stderr, flush=True)


def emit(result: Mapping[str, Any], as_json: bool) -> None:
    """The result: one JSON object, or a line for each entry."""
    if as_json:
        print(json.dumps(result), flush=True)
        return
    for key, value in result.items():
        shown = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
        print(f"{key:28s} {shown}", flush=True)
