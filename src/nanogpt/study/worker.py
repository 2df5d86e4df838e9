"""One process, one run: reads a job as a line of JSON, trains it or goes on with it, scores it, answers in JSON."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import IO, Any

import torch

from nanogpt.config import compose
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import prepare
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel
from nanogpt.observers.attach import attach
from nanogpt.runs import Run, best_row
from nanogpt.study.execution import Job, Score
from nanogpt.tokenizers import load_tokenizer, tokenizer_for
from nanogpt.training import checkpoint as checkpoints
from nanogpt.training import loop, machine
from nanogpt.training.evaluate import evaluate
from nanogpt.training.nonfinite import NotFinite

OFTEN = 0.5
"""Seconds between two words about progress."""
PATIENCE = 60.0
"""Seconds to wait for the process of a killed study to let go of a run."""


def main() -> None:
    """Answer one job on standard output; end at once when standard input is closed: the study is gone."""
    line = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 (no lock that a thread could keep)
    table = json.loads(line.readline())
    threads = table.pop("threads")
    Thread(target=_end_with_the_study, args=(line,), daemon=True).start()
    out, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer

    def say(**facts: Any) -> None:
        print(json.dumps(facts), file=out, flush=True)

    try:
        say(score=asdict(work(Job(**table), threads, say)))
    except UserError as error:
        say(error=str(error), status=error.status)


def _end_with_the_study(line: IO[bytes]) -> None:
    line.read(1)
    os._exit(1)


def work(job: Job, threads: int, say: Callable[..., None]) -> Score:
    """Train the run, or go on with it from its last checkpoint, and score it."""
    before, path = held(), Path(job.folder) / job.name
    listener = _Progress(say)
    overrides = [*job.overrides, f"train.threads={threads}"]
    try:
        if (path / "config.json").is_file():
            _wait_for(Run(path))
            ended = loop.resume(path, [f"train.threads={threads}"], quiet=True, on_event=listener, observer=attach)
        else:
            config = compose(job.preset, overrides)
            ended = loop.train(config, out=job.folder, name=job.name, quiet=True, on_event=listener, observer=attach)
    except NotFinite:
        return diverged(job)
    if ended.ending == "interrupted":
        raise UserError("interrupted")
    return score(ended.run, memory(before))


class _Progress:
    """Passes on steps, not too often."""

    def __init__(self, say: Callable[..., None]) -> None:
        self.say, self.steps, self.at = say, 0, 0.0
        self.first: tuple[float, int] | None = None

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if event == "start":
            self.steps, self.first = facts["steps"], (now, facts["step"])
        elif event == "step" and self.first and now - self.at > OFTEN:
            self.at = now
            per_step = (now - self.first[0]) / max(1, facts["step"] - self.first[1])
            self.say(step=facts["step"], steps=self.steps, per_step=per_step, loss=facts["train/loss"])


def _wait_for(run: Run) -> None:
    """Until whoever trained it has let go: a process dies a moment after the study that started it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with run.held():
                return
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def score(run: Run, most: int | None) -> Score:
    """The checkpoint that is best on validation, on the whole test split."""
    config, metrics = run.config(), run.metrics()
    found = checkpoints.load(run.checkpoint("best"))
    with run.own_parts():
        model = LanguageModel(config.model)
    checkpoints.load_weights(model, found.weights, found.path)
    how = machine.choose(config.train, dim=model.dim, flops=0.0)
    how.prepare()
    corpus = open_corpus(config.data)
    test = prepare(corpus, load_tokenizer(run.tokenizer_path), corpus.batching)["test"]
    tested = evaluate(model.to(how.device), test, batching=corpus.batching, machine=how)
    best, last = best_row(metrics), metrics[-1]
    return Score(
        val_loss=best["val/loss"],
        val_bpb=best["val/bpb"],
        test_loss=tested.loss,
        test_bpb=tested.bpb,
        seconds=last["seconds"],
        memory=most,
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=last["tokens"],
    )


def diverged(job: Job) -> Score:
    """A model whose loss is not finite is worth no more than one that knows nothing: every token as likely as any."""
    config = compose(job.preset, list(job.overrides))
    corpus = open_corpus(config.data)
    run = Run(Path(job.folder) / job.name)
    own = run.tokenizer_path
    tokenizer = load_tokenizer(own) if own.exists() else tokenizer_for(config.tokenizer, corpus)
    splits = prepare(corpus, tokenizer, corpus.batching)
    loss = math.log(tokenizer.vocab_size)
    bpb = {name: loss / math.log(2) * len(tokens) / tokens.n_bytes for name, tokens in splits.items()}
    metrics = run.metrics()
    seconds, tokens = (metrics[-1][key] if metrics else 0 for key in ("seconds", "tokens"))
    return Score(loss, bpb["val"], loss, bpb["test"], float(seconds), None, 0, int(tokens), diverged=True)


def held() -> int:
    """Most bytes that this process has held so far; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held, where this process was made from it
        found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(found.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(before: int) -> int | None:
    """Most bytes of the run itself: on the device, or in this process beyond what it held at first."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return held() - before if before else None


if __name__ == "__main__":
    main()
