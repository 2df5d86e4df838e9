"""The Python face: `build`, `train`, `load`, `run_study`. What the command line does, as functions.

import nanogpt as ng
run = ng.train("llama", "data.corpus=shakespeare", "train.steps=200")
print(ng.load(run.path).sample("To be"))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from nanogpt.config import DEFAULT_PRESET, RunConfig, TrainConfig, compose
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import prepare as prepare_tokens
from nanogpt.data.summary import summary
from nanogpt.errors import RunError, UserError
from nanogpt.generate import Sampling, generate
from nanogpt.kernels.prepared import Precision, prepared
from nanogpt.model.language_model import LanguageModel
from nanogpt.notebook import Comparison, compare
from nanogpt.observers.attach import attach
from nanogpt.observers.observer import observe
from nanogpt.observers.patch import ablate, patch
from nanogpt.observers.trace import trace
from nanogpt.runs import Run
from nanogpt.study.folder import Study
from nanogpt.study.plan import Plan
from nanogpt.study.pool import Pool, shares
from nanogpt.study.progress import view
from nanogpt.study.reading import read as read_plan
from nanogpt.tokenizers import Tokenizer, expected_size, load_tokenizer, tokenizer_for
from nanogpt.training import checkpoint as checkpoints
from nanogpt.training import loop, machine
from nanogpt.training.evaluate import Mixture, evaluate

WHILE_TRAINING = 100
"""Tokens of a sample that is written while training."""


def build(preset: str = DEFAULT_PRESET, *overrides: str, seed: int = 1, **model: Any) -> LanguageModel:
    """A model with its initial weights: `build("llama", dim=256)`, `build("gpt", "model.ffn=swiglu")`.

    Keywords are keys of the model section. `vocab_size` is the tokenizer's where it is not given, and 65, Tiny
    Shakespeare's, where only the text would tell (`char`).
    """
    config = compose(preset, [*overrides, *(f"model.{key}={value}" for key, value in model.items())])
    size = config.model.vocab_size or expected_size(config.tokenizer)[0]
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
    ended = loop.train(
        config, out=out, name=name, source=source, quiet=quiet, sampler=write_while_training, observer=attach
    )
    if ended.ending == "interrupted":
        raise KeyboardInterrupt(f"saved after step {ended.step}; go on with: nanogpt train --resume {ended.run.path}")
    return ended.run


def run_study(
    what: str | Path | Mapping[str, Any] | Plan,
    *,
    quick: bool = False,
    out: Path | str = "studies",
    processes: int = 0,
    quiet: bool = False,
) -> Study:
    """Run a study, or go on with it, as `nanogpt study run` does, and write its report. `what`: one that comes with
    nanogpt, a TOML file, a table of the same form, or a Plan. `processes`: runs side by side; 0: one for each core.

    It answers the study: `.claims` and `.against_control` are its verdicts, `.path` has the report; in a notebook it
    draws itself.
    """
    from nanogpt.views.studies.page import write as write_report

    begun = Study.begin(read_plan(what, quick=quick), out, *shares(processes))
    shown = view(begun.fixed, quiet)
    try:
        begun.conduct(Pool(*shares(processes)), shown)
    finally:
        shown.close()
    write_report(begun)
    return Study.open(begun.path)


def load(path: Path | str | Run, checkpoint: str = "best") -> Loaded:
    """A run's model and tokenizer. `checkpoint`: best (by validation loss), last, or a step's number."""
    run = path if isinstance(path, Run) else Run.open(path)
    config = run.config()
    found = checkpoints.load(run.checkpoint(checkpoint))
    if not run.tokenizer_path.exists():
        raise UserError(f"{run.path} has no tokenizer.json, and came without one; put there the one of its model")
    tokenizer = load_tokenizer(run.tokenizer_path)
    if tokenizer.fingerprint != run.environment().get("tokenizer_sha256", tokenizer.fingerprint):
        raise RunError(f"{run.tokenizer_path} is not the one that this run was trained with (its sha256 differs)")
    with run.own_parts():
        model = LanguageModel(config.model)
    tokenizer.check_fits(model.vocab_size, str(run.tokenizer_path))
    checkpoints.load_weights(model, found.weights, found.path)
    model.to(machine.choose_device("auto")).eval()
    return Loaded(run, config, model, tokenizer, found.progress.step)


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
        precision: Precision = "fp32",
        **settings: Any,
    ) -> str | list[str]:
        """Text that continues the prompt, or each of several. `settings`: temperature, top_k, top_p, min_p, seed.

        It ends after `tokens` tokens, before a text of `stop`, or where the model ends the document.
        precision: of the weights: fp32, bf16 or int8, each faster than the one before where there are many, and less
        exact (docs/performance.md says by how much).
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        documents = bool(self.run.environment().get("documents"))
        model = prepared(self.model, precision)
        texts = write(model, self.tokenizer, documents, prompts, tokens, how or Sampling(**settings), stop)
        return texts[0] if isinstance(prompt, str) else texts

    def evaluate(
        self, split: str = "val", *, context: int | None = None, mix: Loaded | None = None, share: float = 0.5
    ) -> dict[str, float]:
        """Nats per token and bits per byte on a whole split, as training computes them.

        context: tokens in a window, by default as in training: what is before a window is not seen. mix: another run
        on the same text in the same tokens, whose probabilities get this share of a mixture.
        """
        corpus = open_corpus(self.config.data)
        if corpus.sha256 != self.run.environment().get("corpus_sha256", corpus.sha256):
            raise UserError(
                f"{self.run.path}: {corpus.name} is not the text that this run was trained on (its sha256 differs)"
            )
        splits = prepare_tokens(corpus, self.tokenizer, corpus.batching)
        if split not in splits:
            raise UserError(f"--split {split}: {corpus.name} has {', '.join(splits)}")
        how = machine.choose(self._settings(), dim=self.model.dim, flops=0.0)
        how.prepare()
        model: Any = self.model.to(how.device)
        if mix is not None:
            self._check_mix(mix, share)
            model = Mixture(model, mix.model.to(how.device), share)
        score = evaluate(model, splits[split], batching=corpus.batching, machine=how, context=context)
        return {"loss": score.loss, "bpb": score.bpb, "perplexity": math.exp(score.loss), "tokens": score.tokens}

    def _check_mix(self, other: Loaded, share: float) -> None:
        """Refuse what is not a mixture of two distributions over one next token."""
        if not 0 < share < 1:
            raise UserError(f"--mix: {other.run.path}={share}: a share must be between 0 and 1; nearest: 0.5")
        if other.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise UserError(
                f"--mix: {other.run.path} and {self.run.path} have different tokenizers, so their next tokens are not "
                "the same; train one with the other's tokenizer.json"
            )
        mine, theirs = (run.environment() for run in (self.run, other.run))
        for key in ("corpus_sha256", "corpus_rule"):
            if mine.get(key) != theirs.get(key):
                raise UserError(
                    f"--mix: {other.run.path} was trained on another text or another split of it: it may have seen "
                    "what is scored here"
                )

    def _settings(self) -> TrainConfig:
        """As in training, on the device of training where this machine has it."""
        try:
            machine.choose_device(self.config.train.device)
        except UserError:
            return self.config.train.model_copy(update={"device": "auto"})
        return self.config.train


def write(
    model: LanguageModel,
    tokenizer: Tokenizer,
    documents: bool,
    prompts: Sequence[str],
    tokens: int,
    how: Sampling,
    stop: Sequence[str] = (),
) -> list[str]:
    """Continue each prompt. An empty one begins a document, or a line where the text is one long stream."""
    ids = [first_ids(tokenizer, documents, p) for p in prompts]
    stop = [s for s in stop if s]
    longest = max((len(s.encode()) for s in stop), default=0)  # a token is at least a byte

    def stopped(new: list[int]) -> bool:
        if tokenizer.eot is not None and new[-1] == tokenizer.eot:
            return True
        tail = tokenizer.decode(new[-longest - 8 :]) if stop else ""
        return any(s in tail for s in stop)

    texts = []
    for new in generate(model, ids, tokens, how, stopped):
        text = tokenizer.decode(new[:-1] if new and new[-1] == tokenizer.eot else new)
        ends = [text.index(s) for s in stop if s in text]
        texts.append(text[: min(ends)] if ends else text)
    return texts


def first_ids(tokenizer: Tokenizer, documents: bool, prompt: str) -> list[int]:
    """What a model reads before it writes its first token. Only a model of documents has seen where one begins."""
    begin = tokenizer.eot if tokenizer.bos is None else tokenizer.bos
    start = [begin] if documents and begin is not None else []
    if prompt or start:
        ids = start + (tokenizer.encode(prompt).tolist() if prompt else [])
        if not ids:
            raise UserError(f"the prompt {prompt!r} has no tokens in this run's tokenizer; give it a word")
        return ids
    try:
        return tokenizer.encode("\n").tolist() or [0]
    except UserError:  # an alphabet without line ends
        return [0]


def write_while_training(model: LanguageModel, tokenizer: Tokenizer, documents: bool) -> str:
    """The sample that a run shows of itself: the same seed each time, so that what changes is the model."""
    return write(model, tokenizer, documents, [""], WHILE_TRAINING, Sampling(temperature=0.8))[0]


def prepare(config: RunConfig) -> dict[str, Any]:
    """Read and tokenise a corpus; what `nanogpt data` prints."""
    corpus = open_corpus(config.data)
    tokenizer = tokenizer_for(config.tokenizer, corpus)
    found = summary(corpus, tokenizer, prepare_tokens(corpus, tokenizer, corpus.batching))
    return {**found, "lossless": tokenizer.lossless, "note": tokenizer.note}


__all__ = [
    "Comparison",
    "Loaded",
    "Sampling",
    "ablate",
    "build",
    "compare",
    "load",
    "observe",
    "patch",
    "run_study",
    "trace",
    "train",
]
