"""From a plan to the plan as it is fixed. What cannot work is refused here, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch

from nanogpt.config import DataConfig, RunConfig, compose
from nanogpt.cost import cost
from nanogpt.data.batches import Sampler, windows
from nanogpt.data.corpora import open_corpus
from nanogpt.data.shards import Tokens, prepare
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.study.comparable import batches, check_different, check_text
from nanogpt.study.estimate import pace
from nanogpt.study.fixed import Fixed, FixedArm, check_reach
from nanogpt.study.matching import Match, match, spender, tokens
from nanogpt.study.measurement import function
from nanogpt.study.plan import Plan
from nanogpt.study.verdict import primary
from nanogpt.tokenizers import tokenizer_for
from nanogpt.training import machine
from nanogpt.training.setup import check_config
from nanogpt.training.world import World

SETTINGS = ("train.observe=off", "train.compile=off", "data.carve=test")
"""What a study sets unless its plan says otherwise: nothing that costs time and answers no question of it, and a test
split for a text whose literature has none."""


def fix(plan: Plan, processes: int, threads: int) -> Fixed:
    """Everything that is decided before the first run. Reads the text, trains nothing."""
    for name in plan.measure:
        function(plan.folder, name)
    arms: dict[str, FixedArm] = {}
    settings: dict[str, str] = {}
    order = sorted(plan.arms, key=lambda arm: arm != plan.control)  # the control first: the others get what it spends
    for name in order:
        with _saying(plan, name):
            arms[name], settings[name] = _fix(plan, name, order[0], threads, arms)
            check_different(settings)
    fixed = Fixed(plan, {name: arms[name] for name in plan.arms}, processes, threads)
    check_reach(plan, fixed.reach())
    return fixed


@contextmanager
def _saying(plan: Plan, arm: str) -> Iterator[None]:
    """Which study and which arm it is that cannot work."""
    try:
        yield
    except UserError as error:
        text = str(error)
        raise UserError(f"study {plan.name}: {'' if text.startswith('arm') else f'arm {arm}: '}{text}") from None


def _pace(config: RunConfig, vocab_size: int, threads: int) -> float:
    """Measured once, however many steps there are to be."""
    key = config.model_copy(update={"train": config.train.model_copy(update={"steps": 1})}).model_dump_json()
    if key not in _paces:
        _paces[key] = pace(config, vocab_size, threads)
    return _paces[key]


_paces: dict[str, float] = {}


def _base(plan: Plan, arm: str) -> tuple[str, list[str]]:
    return plan.arms[arm].preset or plan.preset, [*SETTINGS, *plan.set, *plan.arms[arm].set]


def _precision(config: RunConfig) -> str:
    """The control's, for all: where the machine would choose by width, arms would differ in more than their names."""
    dim = config.model.dim if isinstance(config.model.dim, int) else 1
    return machine.choose(config.train, dim=dim, flops=0.0).precision


def _fix(plan: Plan, name: str, first: str, threads: int, done: Mapping[str, FixedArm]) -> tuple[FixedArm, str]:
    """The arm, and its settings in full. `first`: the control, or the first of the arms."""
    preset, overrides = _base(plan, name)
    its = compose(*_base(plan, first))
    overrides = [f"train.precision={_precision(its)}", *overrides]
    config = compose(preset, overrides)
    _check(plan, name, config)
    if primary(plan):
        check_text(name, config, first, its, plan.metric)
    vocab_size, splits, batching = _text(config.tokenizer, config.data.model_dump_json())
    Sampler(splits["train"], config.train.batch, config.model.context, batching, seed=1)  # of too short a text there
    for split in ("val", "test"):  # are no batches
        next(windows(splits[split], 1, config.model.context, batching))
    found = Match(tuple(overrides), "", 0.0, 0.0)
    if plan.match != "none":
        spent = spender(plan.match, vocab_size, lambda c: _pace(c, vocab_size, threads))
        wanted = done[plan.control].spent if plan.control in done else spent(config)  # type: ignore[index]
        solve = plan.arms[name].solve
        found = match(name, preset, overrides, solve, spent, wanted, plan.match, plan.tolerance)
        config = compose(preset, found.overrides)
    model = resolve_model(config.model.model_copy(update={"vocab_size": config.model.vocab_size or vocab_size}))
    counted = cost(model)
    step = _pace(config, vocab_size, threads)
    evaluations = min(
        config.train.steps, config.train.steps // config.train.eval_every if config.train.eval_every else 10
    )
    forward = step / 3 / (config.train.batch * config.model.context)
    fixed = FixedArm(
        preset=preset,
        overrides=found.overrides,
        solved=found.solved,
        spent=found.spent,
        mismatch=found.mismatch,
        parameters=counted.total,
        training_flops=counted.training_flops * tokens(config),
        steps=config.train.steps,
        tokens=tokens(config),
        pace=step,
        scoring=forward * (evaluations * len(splits["val"]) + len(splits["test"])),
        shared=_shared(config, vocab_size, done.get(plan.control or "")),
        batches=batches(config, batching),
    )
    whole = config.model_copy(update={"preset": "", "model": model})
    return fixed, f"{whole.model_dump_json()} {plan.arms[name].lr}"


def _check(plan: Plan, name: str, config: RunConfig) -> None:
    """Refuse what the trainer would refuse, now."""
    check_config(config, World())
    if plan.sweep is not None:
        preset, overrides = _base(plan, name)
        check_config(compose(preset, [*overrides, f"{plan.sweep.key}={plan.sweep.lr[0]:g}"]), World())


@cache
def _text(tokenizer: str, data: str) -> tuple[int, dict[str, Tokens], str]:
    """Size of the vocabulary, the splits, and how they make batches. UserError where there is no test split to make
    claims on."""
    corpus = open_corpus(DataConfig.model_validate_json(data))
    if "test" not in corpus.splits:
        raise UserError(
            f"data.corpus={corpus.name}: has no test split, and a claim is made on one; "
            f"it has {', '.join(corpus.splits)}; a file of your own is given one"
        )
    made = tokenizer_for(tokenizer, corpus)
    return made.vocab_size, prepare(corpus, made, corpus.batching), corpus.batching


def _shared(config: RunConfig, vocab_size: int, control: FixedArm | None) -> float:
    """Parameters with the name and the shape of one of the control's, as a share of all."""
    if control is None:
        return 1.0
    mine, theirs = (_shapes(c, vocab_size) for c in (config, compose(control.preset, control.overrides)))
    total = sum(torch.Size(shape).numel() for shape in mine.values())
    same = sum(torch.Size(shape).numel() for name, shape in mine.items() if theirs.get(name) == shape)
    return same / total if total else 1.0


def _shapes(config: RunConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
    size = config.model.vocab_size or vocab_size
    with torch.device("meta"):
        model = LanguageModel(resolve_model(config.model.model_copy(update={"vocab_size": size})))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
