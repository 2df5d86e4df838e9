"""The presets that benchmarks/time_to_loss.py measures keep its rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt.config import compose
from nanogpt.cost import cost
from nanogpt.model.language_model import resolve_model
from nanogpt.training.loop import train

RULES = {"fast-shakespeare": (2_000_000, 2048), "best-shakespeare": (11_000_000, 256)}
"""Most parameters, and the longest context."""


@pytest.mark.parametrize("name", RULES)
def test_presets_keep_the_rules(name: str) -> None:
    config = compose(name)
    parameters, context = RULES[name]
    shape = resolve_model(config.model.model_copy(update={"vocab_size": 65}))
    assert 100_000 < cost(shape).total <= parameters and config.model.context <= context
    assert config.data.corpus == "shakespeare" and config.tokenizer == "char"
    assert all(mixer.startswith("attention") for mixer in shape.mixer), "a transformer"
    assert not shape.embed.startswith("ngram"), "no counting"
    assert config.train.eval_every == config.train.steps, "scored once, at the end"


def test_fast_shakespeare_learns_within_a_few_steps(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} times {n} is {n * n}, and that is all.\n" for n in range(800)))
    overrides = [f"data.corpus={text}", "train.steps=12", "train.eval_every=12", "train.batch=4", "train.threads=1"]
    row = train(compose("fast-shakespeare", overrides), out=tmp_path / "runs", quiet=True).row
    assert row["val/loss"] < 2.0, row  # a uniform guess is 3.3
