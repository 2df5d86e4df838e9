"""This machine as an executor: processes side by side, each with one run after the other."""

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
from typing import Any

import nanogpt
from nanogpt.errors import RunError, UserError
from nanogpt.study.execution import Job, Said, Score

GRACE = 30.0
"""Seconds that runs have to save themselves after Ctrl-C."""


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
        messages: Messages = Queue()
        workers: list[_Worker] = []
        at_work: dict[_Worker, Job] = {}
        try:
            while waiting and len(workers) < self.processes:
                workers.append(_Worker(self.threads, messages))
                at_work[workers[-1]] = workers[-1].begin(waiting.popleft())
            while at_work:
                worker, message = messages.get()
                job = at_work.get(worker)
                if job is None:
                    continue  # it has died after its last run
                if message is None:
                    worker.ended(job)
                elif "score" in message:
                    del at_work[worker]
                    if waiting:
                        at_work[worker] = worker.begin(waiting.popleft())
                    yield job, Score(**message["score"])
                elif "error" in message:
                    kind = RunError if message["status"] == 1 else UserError
                    raise kind(f"{job.name}: {message['error']}")
                else:
                    said(job, message)
        except KeyboardInterrupt:
            for worker in at_work:
                worker.interrupt()
            for worker in at_work:
                worker.wait(GRACE)
            raise
        finally:
            for worker in workers:
                worker.stop()


class _Worker:
    """One process that trains one run after the other (worker.py): jobs go in as lines of JSON, lines of JSON come out.
    Python and torch take longer to start than a small run does to train, so they start once. Its standard input is its
    life line: it ends when that is closed, so no run outlives a study that was killed."""

    def __init__(self, threads: int, messages: Messages) -> None:
        self.threads = threads
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanogpt.study.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=_environment(threads),
            start_new_session=True,
        )  # fmt: skip
        Thread(target=self._listen, args=(messages,), daemon=True).start()

    def _listen(self, messages: Messages) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                messages.put((self, json.loads(line)))
        messages.put((self, None))

    def begin(self, job: Job) -> Job:
        assert self.process.stdin
        with suppress(OSError):  # it has just died: its output is closed too, which is listened to
            self.process.stdin.write(json.dumps({**asdict(job), "threads": self.threads}).encode() + b"\n")
            self.process.stdin.flush()
        return job

    def ended(self, job: Job) -> None:
        """It has closed its output without an answer."""
        status = self.process.wait()
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        raise RunError(f"{job.name}: its process ended with status {status}: {' '.join(last) or 'no word of why'}")

    def interrupt(self) -> None:
        """Have it save after this step, as Ctrl-C does."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)

    def wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def stop(self) -> None:
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.errors.close()


Messages = Queue[tuple[_Worker, dict[str, Any] | None]]


def _environment(threads: int) -> dict[str, str]:
    """Of a worker: this very nanogpt, and no library that takes more threads than its share."""
    path = os.pathsep.join([str(Path(nanogpt.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    shares = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    return {**os.environ, **shares, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
