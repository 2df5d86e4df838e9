"""The Python face: `build`, `train`, `load`. What the command line does, as three functions.

import nanogpt as ng
run = ng.train("llama", "data.corpus=shakespeare", "train.steps=200")
print(ng.load(run.path).sample("To be"))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from nanogpt.config import DEFAULT_PRESET, RunConfig, compose
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import prepare as prepare_tokens
from nanogpt.data.summary import summary
from nanogpt.errors import UserError
from nanogpt.generate import Sampling, generate
from nanogpt.model.language_model import LanguageModel
from nanogpt.runs import Run
from nanogpt.show import vocabulary
from nanogpt.tokenizers import Tokenizer, load_tokenizer, tokenizer_for
from nanogpt.training import checkpoint as checkpoints
from nanogpt.training import loop, machine
from nanogpt.training.evaluate import evaluate

WHILE_TRAINING = 100
"""Tokens of a sample that is written while training."""


def build(preset: str = DEFAULT_PRESET, *overrides: str, seed: int = 1, **model: Any) -> LanguageModel:
    """A model with its initial weights: `build("llama", dim=256)`, `build("gpt", "model.ffn=swiglu")`.

    Keywords are keys of the model section. `vocab_size` is the tokenizer's where it is not given.
    """
    config = compose(preset, [*overrides, *(f"model.{key}={value}" for key, value in model.items())])
    size = config.model.vocab_size or vocabulary(config)
    built = LanguageModel(config.model.model_copy(update={"vocab_size": size}))
    built.initialise(seed)
    return built


def train(
    preset: str = DEFAULT_PRESET,
    *overrides: str,
    out: Path | str = "runs",
    name: str | None = None,
    source: Path | str | None = None,
    quiet: bool = False,
) -> Run:
    """Train a new run, as `nanogpt train PRESET OVERRIDES` does. `source`: a run whose weights it starts from.

    Ctrl-C saves at the end of the step, then raises KeyboardInterrupt.
    """
    config = compose(preset, overrides)
    ended = loop.train(config, out=out, name=name, source=source, quiet=quiet, sampler=write_while_training)
    if ended.ending == "interrupted":
        raise KeyboardInterrupt(f"saved after step {ended.step}; go on with: nanogpt train --resume {ended.run.path}")
    return ended.run


def load(path: Path | str | Run, checkpoint: str = "best") -> Loaded:
    """A run's model and tokenizer. `checkpoint`: best (by validation loss), last, or a step's number."""
    run = path if isinstance(path, Run) else Run.open(path)
    config = run.config()
    found = checkpoints.load(run.checkpoint(checkpoint))
    with run.own_parts():
        model = LanguageModel(config.model)
    checkpoints.load_weights(model, found.weights, found.path)
    device = machine.choose_device("auto")
    return Loaded(run, config, model.to(device).eval(), load_tokenizer(run.tokenizer_path), found.progress.step)


@dataclass
class Loaded:
    """A trained model that can write and be scored."""

    run: Run
    config: RunConfig
    model: LanguageModel
    tokenizer: Tokenizer
    step: int

    @overload
    def sample(self, prompt: str = "", **settings: Any) -> str: ...
    @overload
    def sample(self, prompt: Sequence[str], **settings: Any) -> list[str]: ...
    def sample(
        self,
        prompt: str | Sequence[str] = "",
        *,
        tokens: int = 200,
        how: Sampling | None = None,
        stop: Sequence[str] = (),
        **settings: Any,
    ) -> str | list[str]:
        """Text that continues the prompt, or each of several. `settings`: temperature, top_k, top_p, min_p, seed.

        It ends after `tokens` tokens, before a text of `stop`, or where the model ends the document.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        texts = write(self.model, self.tokenizer, prompts, tokens, how or Sampling(**settings), stop)
        return texts[0] if isinstance(prompt, str) else texts

    def evaluate(self, split: str = "val") -> dict[str, float]:
        """Nats per token and bits per byte on a whole split, as training computes them."""
        corpus = open_corpus(self.config.data, carve_test=False)
        if corpus.sha256 != self.run.environment().get("corpus_sha256", corpus.sha256):
            raise UserError(
                f"{self.run.path}: {corpus.name} is not the text that this run was trained on (its sha256 differs)"
            )
        splits = prepare_tokens(corpus, self.tokenizer, corpus.batching)
        if split not in splits:
            raise UserError(f"--split {split}: {corpus.name} has {', '.join(splits)}")
        how = machine.choose(self.config.train, dim=self.model.dim, flops=0.0)
        score = evaluate(self.model.to(how.device), splits[split], batching=corpus.batching, machine=how)
        return {"loss": score.loss, "bpb": score.bpb, "perplexity": math.exp(score.loss), "tokens": score.tokens}


def write(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    tokens: int,
    how: Sampling,
    stop: Sequence[str] = (),
) -> list[str]:
    """Continue each prompt. An empty one begins a document, or a line where the text is one long stream."""
    ids = [first_ids(tokenizer, p) for p in prompts]
    longest = max((len(tokenizer.encode(s)) for s in stop), default=0)

    def stopped(new: list[int]) -> bool:
        if tokenizer.eot is not None and new[-1] == tokenizer.eot:
            return True
        tail = tokenizer.decode(new[-2 * longest - 8 :]) if stop else ""  # a stop may be cut into other, more tokens
        return any(s in tail for s in stop)

    texts = []
    for new in generate(model, ids, tokens, how, stopped):
        text = tokenizer.decode(new[:-1] if new and new[-1] == tokenizer.eot else new)
        ends = [text.index(s) for s in stop if s in text]
        texts.append(text[: min(ends)] if ends else text)
    return texts


def first_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """What a model reads before it writes its first token."""
    start = [] if tokenizer.eot is None else [tokenizer.eot]
    if prompt:
        return start + tokenizer.encode(prompt).tolist()
    if start:
        return start
    try:
        return tokenizer.encode("\n").tolist()
    except UserError:  # an alphabet without line ends
        return [0]


def write_while_training(model: LanguageModel, tokenizer: Tokenizer) -> str:
    """The sample that a run shows of itself: the same seed each time, so that what changes is the model."""
    return write(model, tokenizer, [""], WHILE_TRAINING, Sampling(temperature=0.8))[0]


def prepare(config: RunConfig) -> dict[str, Any]:
    """Read and tokenise a corpus; what `nanogpt data` prints."""
    corpus = open_corpus(config.data)
    tokenizer = tokenizer_for(config.tokenizer, corpus)
    found = summary(corpus, tokenizer, prepare_tokens(corpus, tokenizer, corpus.batching))
    return {**found, "lossless": tokenizer.lossless, "note": tokenizer.note}


__all__ = ["Loaded", "Sampling", "build", "load", "train"]
