"""What a person sees while waiting: a live display on a terminal, plain lines elsewhere.

Both are listeners: functions of (event, facts) that the trainer calls. Events: `card`, `start`, `step`, `sample`,
`checkpoint`, `note`, `end`.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

Listener = Callable[[str, Mapping[str, Any]], None]
OFTEN = 10.0
"""Plain lines: seconds after which one is due even if the run has not got 2% further."""
SELDOM = 0.5
"""Plain lines: seconds between two, at least; an evaluation is always said."""


def duration(seconds: float) -> str:
    """`42s`, `3m05s`, `2h07m`"""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Pace:
    """Tokens a second and time left: medians of the last steps, so that a slow one, as the first, does not count."""

    def __init__(self) -> None:
        self.last: deque[tuple[float, float]] = deque(maxlen=32)

    def add(self, row: Mapping[str, Any]) -> None:
        self.last.append((row["step_seconds"], row["step_tokens"] / max(row["step_seconds"], 1e-9)))

    @property
    def per_step(self) -> float:
        return median(seconds for seconds, _ in self.last)

    @property
    def rate(self) -> float:
        return median(rate for _, rate in self.last)

    def left(self, row: Mapping[str, Any], steps: int) -> str:
        return duration(self.per_step * (steps - row["step"]))


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # a log is read as it grows
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains of it when it exits
        raise


class Lines:
    """Plain lines: for logs, pipes and tests."""

    def __init__(self, out: Callable[[str], None] | None = None) -> None:
        self.out = out or _print
        self.pace = Pace()
        self.steps = self.said_step = 0
        self.said_at = 0.0

    def _say(self, text: str) -> None:
        try:
            self.out(text)
        except UnicodeEncodeError:  # a sample in letters that this output has not
            self.out(text.encode("ascii", "replace").decode())
        except (BrokenPipeError, ValueError):  # nobody reads any more, as after `| head`: no reason to stop training
            self.out = lambda text: None

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == "card":
            self._say("\n".join(facts["lines"]))
        elif event == "start":
            self.steps, self.said_step = facts["steps"], facts["step"]
        elif event == "step":
            self.pace.add(facts)
            self._step(facts)
        elif event == "sample":
            self._say(f"--- sample at step {facts['step']}\n{facts['text']}\n---")
        elif event == "note":
            self._say(facts["text"])

    def _step(self, row: Mapping[str, Any]) -> None:
        step, now = row["step"], time.monotonic()
        due = (step - self.said_step >= self.steps / 50 and now - self.said_at > SELDOM) or now - self.said_at > OFTEN
        if due or "val/loss" in row or step == self.steps:
            self.said_step, self.said_at = step, now
            self._say(line(row, self.steps, self.pace))


def line(row: Mapping[str, Any], steps: int, pace: Pace) -> str:
    text = f"step {row['step']:>{len(str(steps))}}/{steps}  loss {row['train/loss']:.4f}"
    if "val/loss" in row:
        text += f"  val {row['val/loss']:.4f}  bpb {row['val/bpb']:.4f}"
    return text + f"  {pace.rate:,.0f} tokens/s  {pace.left(row, steps)} left"


class Display:
    """A bar, the latest numbers and the latest sample, redrawn in place. Evaluations stay above it as lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.pace = Pace()
        self.steps = 0
        self.val = ""
        self.sample = Text("")
        self.bar = Progress(TextColumn("step"), MofNCompleteColumn(), BarColumn(None), TextColumn("{task.description}"))
        self.task = self.bar.add_task("", total=None)
        self.live: Live | None = None

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == "card":
            self._say("\n".join(facts["lines"]))
        elif event == "start":
            self.steps = facts["steps"]
            self.bar.update(self.task, total=self.steps, completed=facts["step"])
            self.live = Live(Group(self.bar, self.sample), console=self.console, refresh_per_second=4)
            self.live.start()
        elif event == "step":
            self._step(facts)
        elif event == "sample":
            self.sample = Text(f"\nat step {facts['step']}:\n{facts['text']}", style="dim", overflow="fold")
            if self.live:
                self.live.update(Group(self.bar, self.sample))
        elif event == "note":
            self._say(facts["text"])
        elif event == "end" and self.live:
            self.live.stop()

    def _step(self, row: Mapping[str, Any]) -> None:
        self.pace.add(row)
        if "val/loss" in row:
            self.val = f"  val {row['val/loss']:.4f}"
            self._say(line(row, self.steps, self.pace))
        numbers = f"loss {row['train/loss']:.4f}{self.val}  {self.pace.rate:,.0f} tokens/s"
        self.bar.update(
            self.task, completed=row["step"], description=f"{numbers}  {self.pace.left(row, self.steps)} left"
        )

    def _say(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def listener(quiet: bool) -> Listener:
    """What suits where the output goes."""
    if quiet:
        return lambda event, facts: None
    console = Console()
    return Display(console) if console.is_terminal else Lines()
