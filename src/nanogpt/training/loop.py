"""Train a new run, or go on with one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from nanogpt.config import RunConfig, change
from nanogpt.data.corpora import placed
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.runs import CHECKPOINTS, Run, diff
from nanogpt.tokenizers import load_tokenizer
from nanogpt.training import checkpoint as checkpoints
from nanogpt.training.checkpoint import Checkpoint, full_disk_is_one_line, load_weights
from nanogpt.training.machine import choose_device
from nanogpt.training.progress import Listener, listener
from nanogpt.training.setup import Material, check, prepare
from nanogpt.training.start import start
from nanogpt.training.trainer import Summary, Trainer
from nanogpt.training.world import World

SampleWriter = Callable[[Any, Any, bool], str]
"""(model, tokenizer, whether the text is documents) -> text, written while training. Comes from above, since
generate.py is not known here."""
Observer = Callable[[Trainer], None]
"""Attaches itself to a trainer that is ready to go, and looks inside while it trains. Comes from above too."""
FREE = {
    "data.corpus", "train.steps", "train.eval_every", "train.checkpoint_every", "train.sample_every", "train.patience",
    "train.accumulate", "train.device", "train.precision", "train.compile", "train.threads", "train.observe",
}  # fmt: skip
"""Keys that may change when a run goes on: those that change neither the model nor the batches it has seen.
A text may have moved: that it is the same is checked by its sha256."""


def train(config: RunConfig, *, out: Path | str = "runs", name: str | None = None, source: Path | str | None = None,
          run: Run | None = None, quiet: bool = False, on_event: Listener | None = None,
          sampler: SampleWriter | None = None, observer: Observer | None = None) -> Summary:  # fmt: skip
    """Train a new run. `source`: a run whose weights it starts from. `run`: a folder that was already made for it
    (start.py, without torch, makes it before the slow imports). What ends before its first step leaves no folder."""
    world = World.from_environment()
    if run is None and world.is_main:
        run = start(config, out=out, name=name, source=source)
    listeners = _listeners(world, quiet, on_event)
    try:
        with world.joined_on(_device_kind(config)):
            run = Run(world.share(str(run.path) if run else ""))
            with _at_work(run, world):
                return _go(run, run.config(), world, None, listeners, sampler, observer)
    except Exception:  # not a kill nor Ctrl-C: what was interrupted can be resumed
        if run and world.is_main:
            with suppress(UserError, OSError), run.held():  # unless another process has taken it up meanwhile
                run.discard()
        raise


def resume(path: Path | str, overrides: Iterable[str] = (), *, quiet: bool = False, on_event: Listener | None = None,
           sampler: SampleWriter | None = None, observer: Observer | None = None) -> Summary:  # fmt: skip
    """Go on with a run from its last checkpoint, or from its beginning where it has none."""
    world = World.from_environment()
    run = Run.open(path)
    saved = run.config()
    config = change(saved, overrides)
    config = config.model_copy(update={"data": placed(config.data)})
    for key, (before, now) in diff(saved, config).items():
        if key not in FREE:
            raise UserError(
                f"{key}={now}: this run began with {before}; only {', '.join(sorted(FREE))} can change on resuming"
            )
    try:
        device = _device_kind(config)
    except UserError as error:
        raise UserError(f"{error}; or --resume {run.path} train.device=auto") from None
    listeners = _listeners(world, quiet, on_event)
    with world.joined_on(device), _at_work(run, world):
        last = run.last()
        checkpoint = checkpoints.load(last) if last else None
        if checkpoint and checkpoint.progress.step > config.train.steps:
            raise UserError(f"train.steps={config.train.steps}: this run has already taken {checkpoint.progress.step}")
        if world.is_main:
            checkpoints.clean(run)
        return _go(run, config, world, checkpoint, listeners, sampler, observer)


def _at_work(run: Run, world: World) -> ExitStack:
    """Hold the run for this process, with its own copies of the user's parts."""
    stack = ExitStack()
    if world.is_main:
        stack.enter_context(run.held())
    stack.enter_context(run.own_parts())
    return stack


def _go(run: Run, config: RunConfig, world: World, checkpoint: Checkpoint | None, listeners: Sequence[Listener],
        sampler: SampleWriter | None, observer: Observer | None) -> Summary:  # fmt: skip
    check(run, config, world)
    origin = None if checkpoint else _origin(run, config)

    def note(text: str) -> None:
        for listen in listeners:
            listen("note", {"text": text})

    note(f"text       {_words(config.data.corpus)}, as tokens of {config.tokenizer}")
    with full_disk_is_one_line(run):
        material = prepare(run, config, world)
        if world.is_main:
            run.save_config(material.config)
            run.rewind(checkpoint.progress.step if checkpoint else 0)
    if material.tokenizer.note:
        note(f"tokenizer  {material.tokenizer.note}")
    trainer = Trainer(run, material, world, listeners, _bound(sampler, material))
    if checkpoint:
        trainer.restore(checkpoint)
    elif origin:
        load_weights(trainer.model, origin.weights, origin.path)
    if observer and world.is_main and material.config.train.observe == "on" and trainer.parameters:
        observer(trainer)
    return trainer.go()


def _words(corpus: str | list[str]) -> str:
    return corpus if isinstance(corpus, str) else ", ".join(corpus)


def _origin(run: Run, config: RunConfig) -> Checkpoint | None:
    """The weights to start from, where this run starts from another's. Those that do not fit are refused."""
    origin = run.origin()
    if origin is None:
        return None
    found = checkpoints.load(Path(origin["run"]) / CHECKPOINTS / origin["checkpoint"])
    size = config.model.vocab_size or load_tokenizer(run.tokenizer_path).vocab_size
    with torch.device("meta"):
        model = LanguageModel(resolve_model(config.model.model_copy(update={"vocab_size": size})))
    checkpoints.check_fit(model, found.weights, found.path)
    return found


def _bound(sampler: SampleWriter | None, material: Material) -> Callable[[Any], str] | None:
    return None if sampler is None else lambda model: sampler(model, material.tokenizer, material.documents)


def _device_kind(config: RunConfig) -> str:
    return choose_device(config.train.device).partition(":")[0]


def _listeners(world: World, quiet: bool, on_event: Listener | None) -> list[Listener]:
    if not world.is_main:
        return []
    return [listener(quiet)] + ([on_event] if on_event else [])
