"""Language models that a measurement needs beside the study's arms: trained once, kept as ordinary run folders, and
asked for their logits.

N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nanogpt.config import DataConfig, RunConfig, compose
from nanogpt.data.batches import windows
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import Tokens, prepare
from nanogpt.files import write_whole
from nanogpt.model.language_model import LanguageModel
from nanogpt.runs import Run, step_of
from nanogpt.study.folder import Study
from nanogpt.tokenizers import Tokenizer, load_tokenizer
from nanogpt.training import checkpoint as checkpoints
from nanogpt.training import loop

ALIKE = ("train.threads=1", "train.observe=off", "train.compile=off", "train.precision=fp32", "train.device=cpu")
"""Of every run here, so that the numbers are about the same on every machine."""


@dataclass
class Trained:
    """A model at the end of its run, and its text."""

    config: RunConfig
    model: LanguageModel
    tokenizer: Tokenizer
    splits: dict[str, Tokens]

    def logits(self, split: str, most: int) -> tuple[Tensor, Tensor]:
        """(logits (N, V), targets (N,)) of the first `most` tokens of a split."""
        return logits(self.model, self.splits[split], most)


@torch.no_grad()
def logits(model: LanguageModel, tokens: Tokens, most: int) -> tuple[Tensor, Tensor]:
    """(logits (N, V), targets (N,)) of the first `most` tokens, in windows of the model's context."""
    found, targets, have = [], [], 0
    for batch in windows(tokens, 32, model.context, "stream"):
        scored = torch.from_numpy(batch.targets_BT).flatten()
        mask_BT = None if batch.mask_BT is None else torch.from_numpy(batch.mask_BT)
        found.append(model(torch.from_numpy(batch.tokens_BT), mask_BT).flatten(0, 1)[scored >= 0].float())
        targets.append(scored[scored >= 0])
        have += len(targets[-1])
        if have >= most:
            break
    return torch.cat(found)[:most], torch.cat(targets)[:most]


def shakespeare(out: Path, name: str, edit: Callable[[str], str] = str) -> Path:
    """Tiny Shakespeare as a file of its own, so that it is cut as we need it; `edit` is applied to the text."""
    corpus = open_corpus(DataConfig.model_validate({"corpus": "shakespeare"}))
    path = out / f"{name}.txt"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, edit("".join(p for split in ("train", "val") for p in corpus.split(split))).encode())
    return path


def trained(out: Path, name: str, preset: str, *overrides: str) -> Trained:
    """The run of this name: one that is whole is only read, one that was cut off goes on."""
    config = compose(preset, [*overrides, *ALIKE])
    if not (out / name).exists():
        loop.train(config, out=out, name=name, quiet=True)
    run = Run.open(out / name)
    last = run.last()
    if last is None or step_of(last) < config.train.steps:
        loop.resume(run.path, quiet=True)
    config, found = run.config(), checkpoints.load(run.checkpoint("last"))
    model = LanguageModel(config.model)
    checkpoints.load_weights(model, found.weights, found.path)
    tokenizer, corpus = load_tokenizer(run.tokenizer_path), open_corpus(config.data)
    return Trained(config, model.eval(), tokenizer, prepare(corpus, tokenizer, corpus.batching))


def counted(study: Study, name: str, *overrides: str) -> Run:
    """An n-gram, counted once."""
    trained(folder(study), name, "ngram", "model.context=16", "train.steps=1", *overrides)
    return Run.open(folder(study) / name)


def folder(study: Study) -> Path:
    """Where such texts and runs lie."""
    return study.path / "models"


def writer(study: Study) -> Trained:
    """The model of letters whose distribution is tempered, and which writes."""
    text = shakespeare(folder(study), "shakespeare")
    steps = 60 if study.quick else 500
    return trained(folder(study), "writer", "fast-shakespeare", f"data.corpus={text}", f"train.steps={steps}",
                   f"train.eval_every={max(1, steps // 5)}")  # fmt: skip
