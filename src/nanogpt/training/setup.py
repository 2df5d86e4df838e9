"""From a configuration to what the trainer needs. Three steps, the cheap ones first:

    check    refuses what cannot work, before any data is touched
    prepare  tokenizer, tokens, and the configuration with everything resolved
    build    model and optimizers

Each is a pure function of the run folder and the configuration, so that a run killed at any moment repeats it exactly.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from nanogpt.config import RunConfig
from nanogpt.cost import Cost, cost
from nanogpt.data.batches import windows
from nanogpt.data.corpora import Corpus, open_corpus
from nanogpt.data.shards import Tokens
from nanogpt.data.shards import prepare as prepare_tokens
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel, field, resolve_model
from nanogpt.model.rules import check_rows
from nanogpt.optim.optimizers import OPTIMIZERS, make_optimizers
from nanogpt.optim.schedules import SCHEDULES
from nanogpt.parts import build
from nanogpt.runs import Run
from nanogpt.tokenizers import Tokenizer, check_tokenizer, load_tokenizer, resolve_tokenizer, tokenizer_for
from nanogpt.training import machine
from nanogpt.training.machine import Machine
from nanogpt.training.world import World

ANY_VOCABULARY = 256
"""Stands for the size of a vocabulary that is not known yet."""


@dataclass
class Material:
    """What a trainer works with."""

    config: RunConfig
    tokenizer: Tokenizer
    documents: bool
    """Whether the text is separate documents, so that the model has seen where one begins."""
    splits: dict[str, Tokens]
    machine: Machine
    cost: Cost


def check(run: Run, config: RunConfig, world: World) -> None:
    """Refuse what cannot work. Takes milliseconds, reads no data."""
    if not run.tokenizer_path.exists():  # else it has its own, whatever became of the one that it was made from
        check_tokenizer(config.tokenizer)
    check_config(config, world)


def check_config(config: RunConfig, world: World) -> None:
    """All of that which does not depend on the run's folder."""
    with field("optim.optimizer"):
        build(OPTIMIZERS, config.optim.optimizer, precision="fp32")
    with field("optim.schedule"):
        build(SCHEDULES, config.optim.schedule)
    world.check_batch(config.train.batch, config.train.accumulate)
    machine.choose_device(config.train.device, world.local_rank)
    vocab_size = config.model.vocab_size or ANY_VOCABULARY
    model = resolve_model(config.model.model_copy(update={"vocab_size": vocab_size}))
    with field("optim.optimizer"), torch.device("meta"):
        built = LanguageModel(model)
        optimizers = make_optimizers(config.optim.optimizer, built)
    if not optimizers and config.train.steps > 1:
        raise UserError(
            f"train.steps={config.train.steps}: this model has no weights to train, it is fitted to the text at once; "
            "nearest: train.steps=1"
        )
    check_rows(built, config.train.batch // (config.train.accumulate * world.size), world.size)


def prepare(run: Run, config: RunConfig, world: World) -> Material:
    """Tokenizer, tokens and choices: read where the run has them, made where it has not."""
    with world.main_first():
        corpus = open_corpus(config.data)
        tokenizer = _tokenizer(run, config, corpus)
        _check_same(run, corpus, tokenizer)
        splits = prepare_tokens(corpus, tokenizer, corpus.batching)
        next(windows(splits["val"], 1, config.model.context, corpus.batching))  # refused now, not after the first steps
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    if vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size={vocab_size}: the tokenizer has {tokenizer.vocab_size} tokens; "
            f"nearest: {tokenizer.vocab_size}"
        )
    model = resolve_model(config.model.model_copy(update={"vocab_size": vocab_size}))
    counted = cost(model)
    tokens = config.train.steps * config.train.batch * model.context
    assert model.dim != "vocab", "resolved"
    chosen = machine.choose(
        config.train,
        dim=model.dim,
        flops=counted.training_flops * tokens / world.size,
        loops=counted.loops,
        local_rank=world.local_rank,
    )
    if not run.config().model.vocab_size:  # later the run's own tokenizer is what counts, and its file may be gone
        config = config.model_copy(update={"tokenizer": resolve_tokenizer(config.tokenizer)})
    config = _resolved(config, model, corpus, chosen)
    if world.is_main:
        run.save_environment(_environment(run, corpus, tokenizer, chosen))
    return Material(config, tokenizer, corpus.documents, splits, chosen, counted)


def _resolved(config: RunConfig, model: Any, corpus: Corpus, chosen: Machine) -> RunConfig:
    """The configuration with every choice and every default written out. Resolving it again changes nothing."""
    optim = {
        "optimizer": str(build(OPTIMIZERS, config.optim.optimizer, precision=chosen.precision).spec),
        "schedule": str(build(SCHEDULES, config.optim.schedule).spec),
    }
    train = {"device": chosen.kind, "precision": chosen.precision, "compile": chosen.compile, "threads": chosen.threads}
    if config.train.device != "auto":
        train["device"] = config.train.device
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"batching": corpus.batching}),
            "model": model,
            "optim": config.optim.model_copy(update=optim),
            "train": config.train.model_copy(update=train),
        }
    )


def _tokenizer(run: Run, config: RunConfig, corpus: Corpus) -> Tokenizer:
    """The run's own, once it has one: a tokenizer trained again on another machine could differ."""
    if run.tokenizer_path.exists():
        return load_tokenizer(run.tokenizer_path)
    tokenizer = tokenizer_for(config.tokenizer, corpus)
    tokenizer.save(run.tokenizer_path)
    return tokenizer


def _check_same(run: Run, corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Refuse to go on with another text or another tokenizer than the run began with."""
    before = run.environment()
    if before and before.get("corpus_rule", corpus.rule) != corpus.rule:  # the same bytes under another name
        raise UserError(f"{run.path}: the corpus would be split by another rule than the run's: {corpus.rule}")
    for what, now in (("corpus", corpus.sha256), ("tokenizer", tokenizer.fingerprint)):
        key = f"{what}_sha256"
        if before and before.get(key) != now:
            raise UserError(
                f"{run.path}: the {what} is not the one that this run began with "
                f"(sha256 {str(before.get(key))[:12]} then, {now[:12]} now); "
                "give it back the old one, or start a new run"
            )


def _environment(run: Run, corpus: Corpus, tokenizer: Tokenizer, chosen: Machine) -> dict[str, Any]:
    """Where a result came from. One entry for each launch: a run may be resumed elsewhere."""
    launch = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "git": _git_commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": machine.cores(),
                    "threads": chosen.threads, "device": chosen.device, "device_name": _device_name(chosen)},
    }  # fmt: skip
    launches = [*run.environment().get("launches", []), launch]
    facts = {
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "corpus_rule": corpus.rule,
        "documents": corpus.documents,
        "tokenizer_sha256": tokenizer.fingerprint,
    }
    return {**facts, "launches": launches}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("nanogpt", "torch", "numpy", "tokenizers", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            continue
    return found


def _device_name(chosen: Machine) -> str:
    return (
        torch.cuda.get_device_name(chosen.device) if chosen.kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    )


def _git_commit() -> str | None:
    """Commit of the code, where it lies in a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def build_model(material: Material) -> tuple[LanguageModel, list[Optimizer]]:
    """The model with its initial weights, on its device, and what changes them."""
    config, chosen = material.config, material.machine
    model = LanguageModel(config.model)
    model.initialise(config.seed)
    model.to(chosen.device)
    with field("optim.optimizer"):
        return model, make_optimizers(config.optim.optimizer, model, precision=chosen.precision)


def step_seed(seed: int, *numbers: int) -> int:
    """Of all randomness in one step. Nothing about random state needs to be saved, and no sample disturbs it."""
    text = ":".join(map(str, (seed, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
