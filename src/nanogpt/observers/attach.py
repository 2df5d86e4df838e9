"""Observing one of our own runs: what `train` gives to its loop."""

from __future__ import annotations

from typing import Any

from nanogpt.observers.around import Observer
from nanogpt.observers.probes import Probe, probe_of


def attach(trainer: Any) -> None:
    """Look inside a run from before its first step to its last (`training.trainer.Trainer`, ready to go). Of what a
    young model shows, what is wrong is said at once, with its cure."""
    known: list[Probe] = []

    def probe() -> Probe:
        if not known:
            known.append(probe_of(trainer))
        return known[0]

    def say(text: str) -> None:
        trainer.say("note", text=text)

    observer = Observer(
        trainer.model,
        trainer.optimizers,
        trainer.run.layers,
        step=lambda: trainer.progress.step,
        steps=trainer.steps,
        probe=probe,
        say=say,
    )
    if trainer.progress.step == 0:
        observer.at_start()
