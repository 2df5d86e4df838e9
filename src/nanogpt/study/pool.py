"""This machine as an executor: processes side by side, one run each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO, Any

import nanogpt
from nanogpt.errors import RunError, UserError
from nanogpt.study.execution import Job, Said, Score

GRACE = 30.0
"""Seconds that runs have to save themselves after Ctrl-C."""
Messages = Queue[tuple[Job, dict[str, Any] | None]]


def shares(processes: int = 0) -> tuple[int, int]:
    """(processes, threads of each). On a CPU one for each core, with one thread: small models gain little from a second
    thread (docs/studies.md has the measurement). On an accelerator one, since two would share it."""
    from nanogpt.training.machine import choose_device, cores

    count = processes or (cores() if choose_device("auto") == "cpu" else 1)
    return count, max(1, cores() // count)


class Pool:
    """So many processes side by side, each with its share of the threads."""

    def __init__(self, processes: int, threads: int) -> None:
        self.processes, self.threads = processes, threads

    def run(self, jobs: Sequence[Job], said: Said) -> Iterator[tuple[Job, Score]]:
        waiting = deque(jobs)
        at_work: dict[Job, _Worker] = {}
        messages: Messages = Queue()
        try:
            while waiting or at_work:
                while waiting and len(at_work) < self.processes:
                    job = waiting.popleft()
                    at_work[job] = _Worker(job, self.threads, messages)
                job, message = messages.get()
                if message is None:
                    at_work.pop(job).ended()
                elif "score" in message:
                    at_work.pop(job).stop()
                    yield job, Score(**message["score"])
                elif "error" in message:
                    kind = RunError if message["status"] == 1 else UserError
                    raise kind(f"{job.name}: {message['error']}")
                else:
                    said(job, message)
        except KeyboardInterrupt:
            for worker in at_work.values():
                worker.interrupt()
            raise
        finally:
            for worker in at_work.values():
                worker.stop()


class _Worker:
    """One process that trains one run (worker.py): its job goes in as a line of JSON, lines of JSON come out. Its
    standard input is its life line: it ends when that is closed, so no run outlives a study that was killed."""

    def __init__(self, job: Job, threads: int, messages: Messages) -> None:
        self.job = job
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanogpt.study.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=_environment(threads),
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({**asdict(job), "threads": threads}).encode() + b"\n")
        self.process.stdin.flush()
        Thread(target=_listen, args=(job, self.process.stdout, messages), daemon=True).start()

    def ended(self) -> None:
        """It has closed its output without an answer."""
        status = self.process.wait()
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        raise RunError(f"{self.job.name}: its process ended with status {status}: {' '.join(last) or 'no word of why'}")

    def interrupt(self) -> None:
        """Have it save after this step, as Ctrl-C does."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)

    def stop(self) -> None:
        assert self.process.stdin and self.process.stdout
        with suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def _listen(job: Job, out: IO[bytes], messages: Messages) -> None:
    answered = False
    for line in out:
        message = json.loads(line)
        answered = answered or "score" in message or "error" in message
        messages.put((job, message))
    out.close()
    if not answered:
        messages.put((job, None))


def _environment(threads: int) -> dict[str, str]:
    """Of a worker: this very nanogpt, and no library that takes more threads than its share."""
    path = os.pathsep.join([str(Path(nanogpt.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    shares = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    return {**os.environ, **shares, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
