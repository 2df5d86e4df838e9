"""Every published family, shrunk by --scale, learns a real text: 200 steps each, on the path of `nanogpt train`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pytest

from nanogpt.api import load
from nanogpt.config import presets
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.hub.solve import find_family
from nanogpt.runs import Run
from nanogpt.scale import parse_budget, scaled
from nanogpt.training import loop

FIRST: dict[str, str] = {}
for _name, _path in presets().items():
    if _path.parents[1].name == "families":
        FIRST.setdefault(_path.parent.name, _name)
STEPS, CHARACTERS, BUDGET = 200, 60_000, "100K"
SETTINGS = [
    "tokenizer=char", "model.context=32", f"train.steps={STEPS}", "train.batch=6", "train.accumulate=1",
    "train.threads=1", "train.compile=off", "train.observe=off", f"train.eval_every={STEPS}",
    f"train.sample_every={10 * STEPS}", "optim.optimizer=adamw(lr=3e-3)", "optim.schedule=cosine(warmup=20)",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of Tiny Shakespeare; where it is not at hand, Python's own source."""
    found = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpora" / "tinyshakespeare.txt"
    content = (found if found.is_file() else Path(argparse.__file__)).read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(c for c in content if ord(c) < 128)[:CHARACTERS], encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("family", FIRST)
def test_a_family_learns(family: str, text: Path, tmp_path: Path) -> None:
    config = scaled(FIRST[family], BUDGET, [*SETTINGS, f"data.corpus={text}"])
    ended = loop.train(config, out=tmp_path, name="small", quiet=True)
    run = Run.open(ended.run.path)
    assert find_family(run.config().model)[0].architecture  # still one that its checkpoints could be written for
    losses = [row["train/loss"] for row in run.metrics()]
    vocabulary = run.config().model.vocab_size
    assert len(losses) == STEPS and all(map(math.isfinite, losses))
    tenth = STEPS // 10
    start, end = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    assert losses[0] < 1.5 * math.log(vocabulary)
    assert end < start - 0.5, f"{start:.2f} -> {end:.2f}"
    assert end < 3.25  # counting letters alone gives 3.3 nats on Tiny Shakespeare


def test_a_scaled_run_has_its_budget_and_writes_in_every_precision(text: Path, tmp_path: Path) -> None:
    config = scaled(FIRST["gpt-2"], BUDGET, [*SETTINGS, f"data.corpus={text}", "train.steps=1"])
    ended = loop.train(config, out=tmp_path, name="small", quiet=True)
    assert abs(cost(ended.run.config().model).total / parse_budget(BUDGET) - 1) < 0.1
    loaded = load(ended.run)
    texts = [loaded.sample("A", tokens=12, temperature=0, precision=word) for word in ("fp32", "bf16", "int8")]
    assert [len(loaded.tokenizer.encode(text)) for text in texts] == [12] * 3
    with pytest.raises(UserError, match="precision=int4"):
        loaded.sample("A", precision="int4")  # type: ignore[call-overload]
