"""Ctrl-C and SIGTERM: the first asks the run to stop at the next step's end, the second stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from nanogpt.training.world import is_main


class Interrupt:
    """`with Interrupt() as interrupt: while not interrupt.asked: ...`"""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if is_main():
            with suppress(OSError):  # not print: a signal may come in the middle of one
                os.write(2, b"\nfinishing this step, then saving; Ctrl-C again quits now\n")

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # only there can signals be caught
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
