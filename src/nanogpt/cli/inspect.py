"""nanogpt inspect: how each layer of a run fares."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt.cli.base import Json, RunPath, few, print_json
from nanogpt.errors import UserError

if TYPE_CHECKING:
    from nanogpt.observers.store import Layers
    from nanogpt.runs import Run


def inspect(
    run: RunPath,
    step: Annotated[
        int | None, typer.Option(min=0, help="As it was after this step; by default now.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Look inside a run: dead neurons, gradients, updates, attention; the worst layer first, each with its cure.

    It reads what training has observed so far, so it works while a run trains, and for what ng.observe watched.

    \b
    nanogpt inspect runs/modern-python
    nanogpt inspect runs/mine --step 0
    nanogpt inspect runs/mine --json
    """
    from nanogpt.cli.screen import screen
    from nanogpt.observers.store import Layers
    from nanogpt.observers.summary import summary
    from nanogpt.runs import Run

    opened = Run.open(run)
    layers, problems = Layers(opened.path), list[str]()
    try:
        settings = opened.settings()
    except UserError as error:  # it says less about cures without
        settings, problems = {}, [str(error)]
    looks = len(layers.seen)
    if step is not None:
        layers.seen = [one for one in layers.seen if one.step <= step]
    head: dict[str, Any] = {"run": str(run), "preset": settings.get("preset"), "corpus": settings.get("data.corpus")}
    found = summary(layers, settings) if layers.seen else None
    problems += layers.problems
    if json:
        return print_json({**head, "observed": found is not None, **(found or {}), "problems": problems})
    if found is None:
        why = f"{run}: nothing was observed up to step {step}" if looks else _nothing(opened, layers, settings)
        return print("\n".join([*few(problems), why]))
    screen({**head, **found, "problems": few(problems)})
    return None


def _nothing(run: Run, layers: Layers, settings: dict[str, Any]) -> str:
    """Why there is nothing to show, and how to get it."""
    if any(key.startswith("observed.") for key in settings):
        if layers.problems:
            return f"{run.path}: nothing of what was observed can be read"
        return (
            f"{run.path} was made by ng.observe, and nothing is observed: that begins with the first step of the "
            "optimizer it was given (with a probe, before it), and ends, with a word, where the module cannot run on it"
        )
    again = f"nanogpt train {shlex.quote(str(run.path / 'config.json'))} train.observe=on"
    if layers.problems:
        return f"{run.path}: nothing of what was observed can be read; to train it again: {again}"
    if settings.get("train.observe") == "on" and not run.metrics():
        return f"{run.path} has only begun: nothing is observed yet"
    why = "was trained with train.observe=off" if settings.get("train.observe") == "off" else "was not observed"
    return f"{run.path} {why}; to see inside, train it again: {again}"
