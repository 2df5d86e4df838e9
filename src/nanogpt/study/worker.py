"""One process, one run after the other: reads a job as a line of JSON, trains it or goes on with it, scores it, answers
in JSON."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from nanogpt.config import compose
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import prepare
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel
from nanogpt.observers.attach import attach
from nanogpt.runs import Run, best_row
from nanogpt.study import memory
from nanogpt.study.execution import Job, Score
from nanogpt.tokenizers import load_tokenizer, tokenizer_for
from nanogpt.training import checkpoint as checkpoints
from nanogpt.training import loop, machine
from nanogpt.training.evaluate import Evaluation, evaluate
from nanogpt.training.nonfinite import NotFinite

OFTEN = 0.5
"""Seconds between two words about progress."""
PATIENCE = 60.0
"""Seconds to wait for the process of a killed study to let go of a run."""


def main() -> None:
    """Answer jobs on standard output, one at a time; end at once when standard input is closed: the study is gone."""
    jobs: Queue[dict[str, Any]] = Queue()
    Thread(target=_listen, args=(jobs,), daemon=True).start()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed, by a library too, is no answer

    def say(**facts: Any) -> None:
        print(json.dumps(facts), file=out, flush=True)

    while True:
        table = jobs.get()
        threads = table.pop("threads")
        try:
            say(score=asdict(work(Job(**table), threads, say)))
        except UserError as error:
            say(error=str(error), status=error.status)


def _listen(jobs: Queue[dict[str, Any]]) -> None:
    for line in open(0, "rb", buffering=0, closefd=False):  # noqa: SIM115 (no buffer whose lock a thread could keep)
        jobs.put(json.loads(line))
    os._exit(1)


def work(job: Job, threads: int, say: Callable[..., None]) -> Score:
    """Train the run, or go on with it from its last checkpoint, and score it."""
    before, path = memory.begin(), Path(job.folder) / job.name
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
        raise SystemExit("interrupted")
    return score(ended.run, job.test, memory.taken(before))


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


def score(run: Run, test: bool, most: int | None) -> Score:
    """The checkpoint that is best on validation: what training said of it, and its loss on the test split if asked."""
    metrics = run.metrics()
    best, last = best_row(metrics), metrics[-1]
    tested = _tested(run) if test else None
    return Score(
        val_loss=best["val/loss"],
        val_bpb=best["val/bpb"],
        test_loss=tested.loss if tested else None,
        test_bpb=tested.bpb if tested else None,
        seconds=last["seconds"],
        memory=most,
        tokens=last["tokens"],
    )


def _tested(run: Run) -> Evaluation:
    """On the whole test split."""
    config, found = run.config(), checkpoints.load(run.checkpoint("best"))
    with run.own_parts():
        model = LanguageModel(config.model)
    checkpoints.load_weights(model, found.weights, found.path)
    how = machine.choose(config.train, dim=model.dim, flops=0.0)
    how.prepare()
    corpus = open_corpus(config.data)
    test = prepare(corpus, load_tokenizer(run.tokenizer_path), corpus.batching)["test"]
    return evaluate(model.to(how.device), test, batching=corpus.batching, machine=how)


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
    test_loss, test_bpb = (loss, bpb["test"]) if job.test else (None, None)
    return Score(loss, bpb["val"], test_loss, test_bpb, float(seconds), None, int(tokens), diverged=True)


if __name__ == "__main__":
    main()
