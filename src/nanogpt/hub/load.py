"""A published model -> ours, in memory or as a run folder."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanogpt.config import ModelConfig, RunConfig, validate
from nanogpt.errors import UserError
from nanogpt.files import one_line
from nanogpt.hub.families import Family, Values, family_of, read_keys, to_model
from nanogpt.hub.source import Source
from nanogpt.hub.tensors import Row, from_theirs, rows
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.runs import Run, check_name
from nanogpt.tokenizers import read_tokenizer
from nanogpt.training import checkpoint as checkpoints


@dataclass
class Parts:
    """What a config.json says in our words, before any tensor is read."""

    family: Family
    given: dict[str, Any]
    config: ModelConfig
    """Resolved."""
    shapes: Mapping[str, torch.Size]
    table: list[Row]


def understand(config: Mapping[str, Any], where: str) -> Parts:
    """Read a config.json. UserError, naming the key, for what has no part here."""
    family = family_of(config, where)
    given = read_keys(family, config, where)
    try:
        resolved = resolve_model(to_model(family, given, where))
        with torch.device("meta"):
            model = LanguageModel(resolved)
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from None
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    table = rows(family, Values(family, given, where), list(shapes))
    return Parts(family, given, resolved, shapes, table)


def load(source: Source) -> tuple[LanguageModel, Parts]:
    """The model with its weights, in fp32, in evaluation mode."""
    parts = understand(source.config, source.name)
    found = from_theirs(parts.table, source.tensors, parts.shapes, parts.family, source.name)
    weights = {name: tensor.float().contiguous() for name, tensor in found}
    with torch.device("meta"):
        model = LanguageModel(parts.config)
    model.load_state_dict(weights, assign=True)
    return model.eval(), parts


def import_run(source: Source, *, out: Path | str, name: str) -> Run:
    """Write a run folder that holds the model at step 0, as though it had been trained here. Whole or not at all."""
    out = Path(out)
    check_name(name)
    if (out / name).exists():
        raise UserError(f"{out / name} exists already; give another --name")
    model, parts = load(source)
    facts = _facts(source, parts)
    beside = out / f".{secrets.token_hex(4)}"
    files = {} if source.tokenizer is None else {"tokenizer.json": source.tokenizer.encode()}
    try:
        run = Run.create(beside, name, _run_config(parts), files=files)
        run.save_environment(facts)
        checkpoints.save(run, checkpoints.Progress(), model, [])
        with one_line(f"make {out / name}"):
            run.path.rename(out / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Run(out / name)


def _run_config(parts: Parts) -> RunConfig:
    return validate({"preset": parts.family.name, "model": parts.config.model_dump(), "tokenizer": "tokenizer.json"})


def _facts(source: Source, parts: Parts) -> dict[str, Any]:
    """environment.json. UserError for a tokenizer that cannot be read, or is another model's."""
    facts: dict[str, Any] = {"imported": source.name, "family": parts.family.name, "documents": True}
    if source.tokenizer is not None:
        tokenizer = read_tokenizer(source.tokenizer, f"the tokenizer of {source.name}")
        tokenizer.check_fits(parts.config.vocab_size, f"the tokenizer of {source.name}")
        facts["tokenizer_sha256"] = tokenizer.fingerprint
    return {**facts, "launches": [{"started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}]}
