"""A run -> a folder that `transformers` opens: config.json, weights, tokenizer, model card. Whole or not at all."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.errors import UserError
from nanogpt.files import one_line, write_whole
from nanogpt.hub.families import Family, Values
from nanogpt.hub.solve import find_family, write_config
from nanogpt.hub.source import INDEX, WEIGHTS
from nanogpt.hub.tensors import rows
from nanogpt.runs import Run, as_json
from nanogpt.spec import compress, parse
from nanogpt.tokenizers import Tokenizer, load_tokenizer
from nanogpt.training import checkpoint as checkpoints

SHARD = 5 * 10**9
"""Bytes of the largest file of weights, as on the hub."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def to_theirs(
    config: ModelConfig, weights: Mapping[str, Tensor], first: str = ""
) -> tuple[Family, dict[str, Any], dict[str, Tensor]]:
    """The family (`first`: the one to try first), its config.json, and its tensors."""
    family, keys = find_family(config, first)
    table = rows(family, Values(family, keys, family.name), list(weights))
    return family, write_config(family, keys), {row.theirs: row.join(weights) for row in table}


def export_run(
    run: Run, path: Path | str, *, checkpoint: str = "best", dtype: str = "fp32", shard: int = SHARD
) -> Family:
    """Write the folder. UserError names the part that no published family has."""
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already; give another folder")
    config = run.config().model
    found = checkpoints.load(run.checkpoint(checkpoint))
    tokenizer = load_tokenizer(run.tokenizer_path) if run.tokenizer_path.exists() else None
    family, theirs, tensors = to_theirs(config, found.weights, run.environment().get("family", ""))
    theirs["dtype"] = str(DTYPES[dtype]).removeprefix("torch.")
    ends = _ends(tokenizer)
    files: dict[str, bytes] = {
        "config.json": as_json({**theirs, **ends}),
        "generation_config.json": as_json({"_from_model_config": True, **ends}),
        "README.md": _card(run, family, config, found.progress).encode(),
    }
    if tokenizer is not None:
        files["tokenizer.json"] = tokenizer.json.encode()
        files["tokenizer_config.json"] = as_json({**_tokenizer_config(tokenizer, config.context), **family.tokenizer})
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with one_line(f"write {path}"):
            beside.mkdir(parents=True)
            for name, content in files.items():
                write_whole(beside / name, content)
            _write_weights(beside, {k: v.to(DTYPES[dtype]).contiguous() for k, v in tensors.items()}, shard)
            beside.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return family


def _write_weights(folder: Path, tensors: Mapping[str, Tensor], shard: int) -> None:
    """One file, or several with an index."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > shard:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        write_whole(folder / WEIGHTS, save(shards[0], {"format": "pt"}))
        return
    where: dict[str, str] = {}
    for number, part in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_whole(folder / file, save(part, {"format": "pt"}))
        where |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_whole(folder / INDEX, as_json({"metadata": {"total_size": total}, "weight_map": where}))


def _ends(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Ids of the first and the last token of a text; null rather than what transformers would take for granted."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    begin = tokenizer.eot if tokenizer.bos is None else tokenizer.bos
    return {"bos_token_id": begin, "eos_token_id": tokenizer.eot, "pad_token_id": None}


def _tokenizer_config(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
    parts = json.loads(tokenizer.json)
    vocab = parts["model"]["vocab"]
    names = {n: row[0] for n, row in enumerate(vocab)} if isinstance(vocab, list) else {n: t for t, n in vocab.items()}
    names |= {row["id"]: row["content"] for row in parts.get("added_tokens") or ()}
    ends = _ends(tokenizer)
    named = {
        f"{end}_token": names[ends[f"{end}_token_id"]] for end in ("bos", "eos") if ends[f"{end}_token_id"] is not None
    }
    return {**facts, **named, "clean_up_tokenization_spaces": False}


def _short(config: ModelConfig) -> dict[str, Any]:
    """The parts of a model, each per-layer list as the shortest cycle."""
    fields = {k: v for k, v in config.model_dump().items() if k not in ("init", "objective")}
    return {k: compress([parse(part) for part in v]) if isinstance(v, list) else v for k, v in fields.items()}


def _card(run: Run, family: Family, config: ModelConfig, progress: checkpoints.Progress) -> str:
    """The model card: what it is, what it was trained on, how to open it."""
    run_config, facts = run.config(), run.environment()
    trained = f"imported from {facts['imported']}" if "imported" in facts and not progress.step else (
        f"trained for {progress.step:,} steps ({progress.tokens:,} tokens) on {run_config.data.corpus}"
    )  # fmt: skip
    loss = "" if progress.val_loss is None else f" Validation loss: {progress.val_loss:.4f} nats per token."
    rows = [(k, " + ".join(v) if isinstance(v, list) else v) for k, v in _short(config).items()]
    parts = "\n".join(f"| {name} | `{value}` |" for name, value in rows)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [nanogpt, {family.name}]
---
# {run.name}

A small language model, {trained}, exported by nanogpt as {family.architecture}.{loss}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("{run.name}")
tokenizer = AutoTokenizer.from_pretrained("{run.name}")
```

| | |
|---|---|
{parts}
"""
