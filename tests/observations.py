"""Run folders made by hand, with observations that look like a model's: for what reads runs, without training any.

    run = make_run(tmp_path / "runs", steps=1000, layers=4, dead={1: {3: 200}}, shrink=0.5)

Numbers are drawn from a seed; what is planted (dead units, gradients that shrink) is exactly where it was asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.config import change, compose
from nanogpt.model.language_model import resolve_model
from nanogpt.observers.cadence import due
from nanogpt.observers.store import BINS, EDGES, Observation, Units, write
from nanogpt.runs import Run
from nanogpt.tokenizers.tables import CharTokenizer

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n"
PROBE = 512
"""Tokens of the probe."""
MODULES = ("mixer_norm", "mixer.q", "mixer.k", "mixer.v", "mixer.out", "mixer", "ffn_norm", "ffn.up", "ffn.act", "ffn")
WEIGHTS = ("mixer.q", "mixer.k", "mixer.v", "mixer.out", "ffn.up", "ffn.out")
PARTS = 15
"""Bins of confidence."""


def make_run(
    out: Path | str,
    name: str = "made",
    *,
    steps: int = 400,
    layers: int = 3,
    heads: int = 2,
    units: int = 32,
    dead: Mapping[int, Mapping[int, int]] | None = None,
    shrink: float = 1.0,
    act: str = "relu",
    overrides: tuple[str, ...] = (),
    observed: bool = True,
    sample: str = "The king is dead,\nlong live the king.",
    seed: int = 1,
) -> Run:
    """A run of ours. dead: layer -> unit -> step from which on it is dead. shrink: activation gradients, a layer.

    `overrides` are settings; `observed=False` leaves no layers/.
    """
    tokenizer = CharTokenizer.of([TEXT], documents=False)
    sizes = [f"model.n_layers={layers}", f"model.dim={8 * heads}", f"model.mixer=attention(heads={heads})"]
    sizes += [f"model.ffn=mlp(act={act}, hidden={units})", "model.context=32", f"train.steps={steps}", f"seed={seed}"]
    config = change(compose("gpt"), [*sizes, "tokenizer=char", *overrides])
    model = resolve_model(config.model.model_copy(update={"vocab_size": tokenizer.vocab_size}))
    files = {"tokenizer.json": tokenizer.json.encode(), "environment.json": b"{}\n"}
    run = Run.create(out, name, config.model_copy(update={"model": model}), files=files)
    log(run, steps, seed)
    for step in sorted({max(1, steps * n // 4) for n in range(1, 5)}):
        run.log_sample({"step": step, "text": sample})
    if observed:
        kind = {"relu": "rectified", "tanh": "bounded"}.get(act, "smooth")
        for step in [s for s in range(steps + 1) if due(s, steps)]:
            seen = observation(step, steps, layers, heads, units, kind, dead or {}, shrink, seed)
            seen.facts |= {
                "text": tokenizer.encode(TEXT[:12]).tolist(),
                "targets": tokenizer.encode(TEXT[1:13]).tolist(),
            }
            write(run.layers, seen)
    return run


def make_foreign(out: Path | str, name: str = "foreign", *, steps: int = 200, layers: int = 3, units: int = 16) -> Run:
    """A folder as `nanogpt.observers` leaves it for somebody's own module: no stream, no heads, no tokenizer."""
    run = Run(Path(out) / name)
    (run.path / "checkpoints").mkdir(parents=True)
    (run.path / "config.json").write_text(json.dumps({"observed": {"module": "Sequential(...)", "optimizer": "SGD"}}))
    for step in range(1, steps + 1):
        run.log({"step": step, "train/loss": 2.3 * math.exp(-step / steps) + 0.3, "accuracy": step / steps})
    for step in [s for s in range(steps + 1) if due(s, steps)]:
        write(run.layers, foreign_observation(step, layers, units))
    return run


def log(run: Run, steps: int, seed: int) -> None:
    """metrics.jsonl of a loss that falls, with noise, evaluated twenty times."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 0.06, steps + 1)
    rows = []
    for step in range(1, steps + 1):
        loss = 1.6 + 2.6 * math.exp(-6 * step / steps) + noise[step] * (1 + math.exp(-20 * step / steps))
        row: dict[str, Any] = {"step": step, "tokens": step * 256, "seconds": round(step * 0.031, 6)}
        row |= {"train/loss": loss, "lr": 1e-3 * min(1, step / (0.05 * steps)) * (1 - 0.9 * step / steps)}
        row |= {"grad_norm": float(math.exp(random.normal(0, 0.3)) + 4 * math.exp(-30 * step / steps))}
        row |= {"tokens_per_second": 8200 + 300 * float(random.normal())}
        if step % max(1, steps // 20) == 0:
            val = 1.68 + 2.6 * math.exp(-6 * step / steps) + 0.05 * step / steps
            row |= {"val/loss": val, "val/bpb": val / math.log(2)}
        rows.append(json.dumps(row))
    (run.path / "metrics.jsonl").write_text("\n".join(rows) + "\n" if rows else "")


def observation(
    step: int, steps: int, layers: int, heads: int, units: int, kind: str, dead: Mapping[int, Mapping[int, int]],
    shrink: float, seed: int = 1,
) -> Observation:  # fmt: skip
    """One look at a model of `layers` blocks."""
    random = np.random.default_rng([seed, step])
    blocks = range(layers)
    modules = ["embed", *(f"blocks.{n}.{m}" for n in blocks for m in MODULES), "norm", "head.linear"]
    weights = ["embed.weight", *(f"blocks.{n}.{w}.weight" for n in blocks for w in WEIGHTS), "head.linear.weight"]
    far = step / max(1, steps)
    arrays: dict[str, NDArray[Any]] = {"loss": np.float32(1.65 + 2.5 * math.exp(-6 * far))}  # type: ignore[dict-item]
    scale = {"activations": lambda n: 1.0 + 0.4 * n * far, "weights": lambda n: 0.05 + 0.05 * far}
    scale |= {"activation_gradients": lambda n: 2e-4 * shrink ** (layers - n) * (1.5 - far)}
    scale |= {"weight_gradients": lambda n: 3e-3 * shrink ** (layers - n) * (1.2 - far)}
    scale |= {"updates": lambda n: 1e-4 * (1 - 0.8 * far)}
    names = {"activations": modules, "activation_gradients": modules}
    names |= dict.fromkeys(("weights", "weight_gradients", "updates"), weights)
    for what, rows in names.items():
        places = [
            int(r.split(".")[1]) if r.startswith("blocks.") else (0 if r.startswith("emb") else layers) for r in rows
        ]
        stds = [scale[what](place) * math.exp(random.normal(0, 0.15)) for place in places]
        zero = [0.55 if r.endswith("ffn.act") and kind == "rectified" else 0.0 for r in rows]
        full = [
            0.04 if r.endswith("ffn.act") and kind == "bounded" and what == "activations" else math.nan for r in rows
        ]
        arrays |= moments(what, stds, zero, full, random)
    tokens = random.integers(20, 490, (layers, units))
    for layer, planted in dead.items():
        for unit, since in planted.items():
            tokens[layer, unit] = 0 if step >= since else 2
    arrays["neurons/active"] = tokens.astype(np.uint32).ravel()
    arrays["neurons/bias"] = (
        np.where(tokens == 0, -0.3, random.normal(0, 0.02, tokens.shape)).astype(np.float16).ravel()
    )
    arrays["neurons/norm"] = random.normal(0.9, 0.05, tokens.size).astype(np.float16)
    arrays |= stream(layers, heads, far, random) | output(far)
    names |= {"stream": [f"blocks.{n}" for n in blocks]}
    names |= {"attention": [f"blocks.{n}.mixer:{h}" for n in blocks for h in range(heads)]}
    facts = {"tokens": PROBE, "scored": 64, "seconds": 0.05}
    return Observation(step, arrays, names, [Units(f"blocks.{n}.ffn.act", units, kind) for n in blocks], facts)


def foreign_observation(step: int, layers: int, units: int) -> Observation:
    """One look at a Sequential of so many linear layers, each with a tanh."""
    random = np.random.default_rng(step)
    weights = [f"net.{2 * n}.weight" for n in range(layers)]
    names = {"activations": [f"net.{n}" for n in range(2 * layers)], "weights": weights, "updates": weights}
    arrays: dict[str, NDArray[Any]] = {}
    for what, rows in names.items():
        stds = [1e-3 if what == "updates" else 0.5] * len(rows)
        arrays |= moments(what, stds, [0] * len(rows), [math.nan] * len(rows), random)
    arrays["neurons/active"] = random.integers(1, PROBE, layers * units).astype(np.uint32)
    neurons = [Units(f"net.{2 * n + 1}", units, "bounded") for n in range(layers)]
    return Observation(step, arrays, names, neurons, {"tokens": PROBE})


def moments(what: str, stds: Any, zero: Any, full: Any, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Of Gaussians, a share of which is zero."""
    count = 4096
    table = np.zeros((len(stds), 9), np.float32)
    histograms = np.zeros((len(stds), BINS), np.uint32)
    for row, (std, none, limit) in enumerate(zip(stds, zero, full, strict=True)):
        high = 3.5 * std
        table[row] = [random.normal(0, 0.1) * std, std, random.normal(0, 0.2), 3 + random.normal(0, 0.3),
                      0 if none else -high, high, std * math.sqrt(count), none, limit]  # fmt: skip
        shares = gaussian(round(8 * math.log2(std))) * (1 - none)
        shares[BINS // 2] += none
        histograms[row] = np.rint(shares * count)
    return {f"{what}/moments": table, f"{what}/histogram": histograms}


@cache
def _shares(eighths: int) -> NDArray[np.float64]:
    below = np.array([0.5 * (1 + math.erf(e / 2 ** (eighths / 8) / math.sqrt(2))) for e in EDGES])
    return np.diff(below)


def gaussian(eighths: int) -> NDArray[np.float64]:
    """Share of a Gaussian of standard deviation 2^(eighths/8) in every bin."""
    return _shares(eighths).copy()


def stream(layers: int, heads: int, far: float, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    depth = np.arange(1, layers + 1)
    ids = random.integers(0, 20, (layers, 12)) if far < 0.5 else np.tile(random.integers(0, 20, 12), (layers, 1))
    return {
        "stream/rms": (0.5 + 0.5 * depth * (0.2 + far)).astype(np.float32),
        "stream/share": (0.6 / depth * (0.3 + far)).astype(np.float32),
        "stream/cosine": (0.3 * far - 0.1 * random.random(layers)).astype(np.float32),
        "lens/loss": (3.9 - 2.2 * far * depth / layers).astype(np.float32),
        "lens/error": np.full(layers, 0.2, np.float32),
        "lens/agree": np.linspace(0.3, 1, layers).astype(np.float32),
        "lens/tokens": ids.astype(np.int32),
        "lens/chances": np.clip(0.1 + 0.8 * far * depth[:, None] / layers * random.random(12), 0, 1).astype(np.float32),
        "attention/entropy": (3.2 - 2.5 * far * random.random(layers * heads)).astype(np.float32),
        "attention/logit": (1 + 9 * far * random.random(layers * heads)).astype(np.float32),
        "attention/first": (0.05 + 0.6 * far * random.random(layers * heads)).astype(np.float32),
    }


def output(far: float) -> dict[str, NDArray[Any]]:
    confidence = (np.arange(PARTS) + 0.5) / PARTS
    right = np.clip(confidence - 0.12 * confidence * (1 - far), 0, 1)
    tokens = np.rint(PROBE * np.exp(-3 * confidence) / np.exp(-3 * confidence).sum())
    tokens[-1] = 0
    places, ranks = np.arange(32), np.arange(10)
    return {
        "output/entropy": np.float32(4 - 2.2 * far),  # type: ignore[dict-item]
        "output/error": np.float32(0.12 - 0.08 * far),  # type: ignore[dict-item]
        "output/calibration": np.stack([tokens, confidence, right], 1).astype(np.float32),
        "output/position": np.stack(
            [np.full(32, 16), 4 - 2 * far * (1 - np.exp(-places / 5)), np.full(32, 0.3)], 1
        ).astype(np.float32),
        "output/frequency": np.stack(
            [2.0 ** (9 - ranks), 4 - far * (3 - 0.3 * ranks), 1 / 2.0 ** (4 - ranks / 2)], 1
        ).astype(np.float32),
    }
