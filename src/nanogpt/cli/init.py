"""nanogpt init: how a network starts, before it is trained."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt.cli.base import Json, Overrides, print_json, split_arguments
from nanogpt.errors import UserError

if TYPE_CHECKING:
    from nanogpt.config import RunConfig


def init(
    arguments: Overrides = None,
    scale: Annotated[str | None, typer.Option(help="At so many parameters, proportions kept: 10M.")] = None,
    json: Json = False,
) -> None:
    """Look at a network before training: do activations and gradients keep their size through depth?

    One forward and one backward pass on real text. The variance of both at each depth stands beside what theory
    predicts from the weights (He et al. 2015, Glorot & Bengio 2010, mean field; docs/initialisation.md), with the first
    loss, units that are dead at birth, and a verdict with the setting that was measured to be better.

    \b
    nanogpt init
    nanogpt init gpt model.init=xavier
    nanogpt init gpt model.init=kaiming model.n_layers=100 model.dim=64
    nanogpt init gpt model.dim=128 model.n_layers=30 model.mixer=none "model.ffn=dense(act=relu)"
        "model.layout=none(residual=none)" model.init=xavier            (a deep plain network, as in He et al. 2015)
    nanogpt init qwen3-8b --scale 1M
    nanogpt init makemore-mlp --json
    """
    preset, overrides = split_arguments(arguments)
    config, parts = configuration(preset, overrides, scale)
    import numpy as np

    with parts, np.errstate(all="ignore"):  # a start that overflows is one of those to be told of
        facts = _look(config)
    facts["next"] = _next(preset, overrides, scale, facts["cure"]["settings"]) if facts["cure"] else ""
    if json:
        return print_json(facts)
    from nanogpt.cli.depth import screen

    return screen(facts)


def _look(config: RunConfig) -> dict[str, Any]:
    from nanogpt.observers.initial import examine
    from nanogpt.observers.look import look, probe_of_config
    from nanogpt.observers.remedy import Cure, measured

    check_weights(config)
    model, probe, _ = probe_of_config(config)
    head = _head(config, model, probe.tokens)
    start = examine(model, look(model, probe, weights=False), probe.words)
    found: Cure | None = None
    if start.faults:
        start, found = measured(config, model, probe, start)
    return {**head, **start.as_dict(), "cure": found.as_dict() if found else None}


def configuration(
    preset: str | None, overrides: list[str], scale: str | None
) -> tuple[RunConfig, AbstractContextManager[Any]]:
    """The configuration, and where its own parts are looked for while it is built."""
    from nanogpt.config import DEFAULT_PRESET, change, compose
    from nanogpt.runs import Run

    name = preset or DEFAULT_PRESET
    if (Path(name) / "config.json").is_file():
        if scale is not None:
            raise UserError(f"--scale: {name} is a run, and its size is what it is; nearest: the preset it was made of")
        run = Run.open(name)
        return change(run.config(), overrides), run.own_parts()
    if scale is None:
        return compose(name, overrides), nullcontext()
    from nanogpt.scale import scaled

    return scaled(name, scale, overrides), nullcontext()


def _next(preset: str | None, overrides: list[str], scale: str | None, settings: str) -> str:
    """The command that trains with the cure."""
    changed = [setting.partition("=")[0] for setting in shlex.split(settings)]
    kept = [o for o in overrides if o.partition("=")[0] not in changed]
    words = [*([preset] if preset else []), *kept, *shlex.split(settings), *(["--scale", scale] if scale else [])]
    return f"nanogpt train {shlex.join(words)}"


def check_weights(config: RunConfig) -> None:
    """Refuse what has no weights, before any text is read."""
    import torch

    from nanogpt.model.language_model import LanguageModel

    size = config.model.vocab_size or 256
    with torch.device("meta"):
        model = LanguageModel(config.model.model_copy(update={"vocab_size": size}))
    if next(model.parameters(), None) is None:
        raise UserError(
            f"{config.preset}: this model has no weights that could start well or badly, it is fitted to the text at "
            "once; nearest: nanogpt init bigram"
        )


def _head(config: RunConfig, model: Any, tokens: int) -> dict[str, Any]:
    corpus = config.data.corpus
    return {
        "preset": config.preset,
        "init": config.model.init,
        "parameters": sum(p.numel() for p in model.parameters()),
        "n_layers": len(model.blocks),
        "dim": model.dim,
        "vocab_size": model.vocab_size,
        "corpus": corpus if isinstance(corpus, str) else ", ".join(corpus),
        "tokens": tokens,
        "residual": any(getattr(b, "residual", None) is not None and b.residual.name != "none" for b in model.blocks),
    }
