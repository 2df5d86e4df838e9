"""Writing text: tokens a second of a Llama of 110 M parameters, ours and the `generate` of `transformers`, in turn.

    python benchmarks/generation.py --json                       about six minutes on two cores
    python benchmarks/generation.py --llama2c ./run              beside llama2.c as well, its compiled program
    python benchmarks/generation.py --loss runs/smollm notes.txt what bf16 and int8 cost a real model on a real text

All have the same random weights (dim 768, hidden 2048, 12 layers, 12 heads, vocabulary 32,000, tied) and write 200
tokens after one, the likeliest each time. A contender's number is the median of its rounds. Weights are converted and
models compiled before the clock starts; `first_seconds` are those of the first, short text.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import Busy, emit, in_turn, machine, medians, say, timed
from safetensors.torch import save_file

import nanogpt as ng
from nanogpt.config import ModelConfig, compose
from nanogpt.generate import Sampling, generate
from nanogpt.hub.export import to_theirs
from nanogpt.hub.source import WEIGHTS
from nanogpt.kernels.prepared import Precision, prepared
from nanogpt.model.language_model import LanguageModel, resolve_model

PRESET, FIRST = "stories110m", 1
GREEDY, SAMPLED = Sampling(temperature=0), Sampling(temperature=1)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
COMPILED = "transformers fp32 compiled x1"
WARM = 12
"""Tokens before the clock starts: caches, threads and weights are ready then."""
SCORED = 32
"""Windows of 256 tokens that are scored, for the loss."""


def peer(config: ModelConfig, model: LanguageModel) -> Any:
    """The same model, with the same weights, as `transformers` has it."""
    import transformers

    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    _, keys, weights = to_theirs(resolve_model(config), model.state_dict())
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    with tempfile.TemporaryDirectory() as folder:  # as from a file, where tensors may have other names than in memory
        (Path(folder) / "config.json").write_text(json.dumps({**keys, **ends}))
        save_file({k: v.contiguous().clone() for k, v in weights.items()}, Path(folder) / WEIGHTS, {"format": "pt"})
        found, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    assert not any(info.values()), info
    found.generation_config.pad_token_id = 0
    return found.eval()


@dataclass(frozen=True)
class Writer:
    """Who writes how many rows at once."""

    rows: int
    write: Callable[[int], Any]
    """Tokens -> all of them, for every row."""

    def rate(self, tokens: int) -> float:
        """Tokens a second, of all rows together."""
        return self.rows * tokens / timed(lambda: self.write(tokens))()


def ours(model: LanguageModel, rows: int, how: Sampling = GREEDY) -> Writer:
    return Writer(rows, lambda tokens: generate(model, [[FIRST]] * rows, tokens, how))


def theirs(model: Any, rows: int, **how: Any) -> Writer:
    ids = torch.full((rows, 1), FIRST)
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False, **how}
    return Writer(rows, lambda tokens: model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **given))


def static() -> dict[str, Any]:
    """Their fixed cache, and the step compiled for it."""
    from transformers import CompileConfig

    compiled = CompileConfig(mode="default")
    compiled._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": compiled}


def llama2c(program: Path, model: LanguageModel, folder: Path, tokens: int) -> Callable[[], float]:
    """Tokens a second as llama2.c prints it, of the same weights in its own file."""
    (folder / "model.bin").write_bytes(_llama2c_file(model))
    words = b"".join(struct.pack("<fi", 0.0, 1) + b"x" for _ in range(model.vocab_size))
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 1) + words)
    command = [str(program.resolve()), "model.bin", "-z", "tokenizer.bin", "-t", "0", "-n", str(tokens)]

    def run() -> float:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
        found = re.search(rb"achieved tok/s: ([\d.]+)", done.stderr + done.stdout)
        return float(found[1]) if found else 0.0

    return run


def _llama2c_file(model: LanguageModel) -> bytes:
    """Version 0 of llama2.c's format: seven numbers, then the weights of one kind in all layers after each other."""
    weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
    layers = range(len(model.blocks))
    order = ["mixer_norm", "mixer.q", "mixer.k", "mixer.v", "mixer.out", "ffn_norm", "ffn.gate", "ffn.out", "ffn.up"]
    names = [f"blocks.{n}.{part}.weight" for part in order for n in layers]
    first: Any = model.blocks[0]
    sizes = (model.dim, first.ffn.hidden, len(layers), first.mixer.heads, first.mixer.kv_heads)
    angles = torch.zeros(model.context * first.mixer.head_dim)  # written once, read no more
    data = [weights["embed.weight"], *(weights[name] for name in names), weights["norm.weight"], angles]
    return struct.pack("<7i", *sizes, model.vocab_size, model.context) + b"".join(t.numpy().tobytes() for t in data)


def writers(model: LanguageModel, config: ModelConfig) -> dict[str, Writer]:
    """All that are compared."""
    ready = {precision: prepared(model, precision) for precision in PRECISIONS}
    hf = {"fp32": peer(config, model), "bf16": peer(config, model).bfloat16()}
    found: dict[str, Writer] = {}
    for rows in (1, 16):
        found |= {f"ours {precision} x{rows}": ours(m, rows) for precision, m in ready.items()}
        found |= {f"transformers {precision} x{rows}": theirs(m, rows) for precision, m in hf.items()}
        found[f"ours fp32 sampled x{rows}"] = ours(ready["fp32"], rows, SAMPLED)
        found[f"transformers fp32 sampled x{rows}"] = theirs(hf["fp32"], rows, do_sample=True, top_k=0)
    found[COMPILED] = theirs(hf["fp32"], 1, **static())
    return found


def speed(rounds: int, tokens: int, program: Path | None) -> dict[str, Any]:
    config = compose(PRESET).model
    model = ng.build(PRESET).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        found, warm = writers(model, config), {}
        for name, writer in found.items():
            say(f"warming up: {name}")
            length = tokens if name == COMPILED else WARM  # a fixed cache has the size of its text
            warm[name] = timed(lambda w=writer, n=length: w.write(n))()
        thunks = {name: partial(writer.rate, tokens) for name, writer in found.items()}
        if program is not None:
            thunks["llama2.c x1"] = llama2c(program, model, Path(folder), tokens)
        with Busy() as busy:
            rates = in_turn({name: partial(_told, name, rate) for name, rate in thunks.items()}, rounds)
    middle = medians(rates)
    count = sum(p.numel() for p in model.parameters())
    return {
        "parameters": count,
        "tokens_per_second": {name: round(rate, 1) for name, rate in middle.items()},
        "ratio": {name: round(value, 2) for name, value in _ratios(middle).items()},
        "weights_gb_per_second": {p: round(middle[f"ours {p} x1"] * count * size / 1e9, 1)
                                  for p, size in zip(PRECISIONS, (4, 2, 1), strict=True)},
        "read_gb_per_second": round(_read_rate(), 1),
        "first_seconds": {name: round(seconds, 2) for name, seconds in warm.items()},
        "rounds": {name: [round(rate, 1) for rate in rates] for name, rates in rates.items()},
        "others_share": round(busy.share, 2),
        **machine(),
    }  # fmt: skip


def _told(name: str, rate: Callable[[], float]) -> float:
    """A rate, said at once: whoever stops the benchmark has what is measured by then."""
    found = rate()
    say(f"{name}: {found:.1f} tokens a second")
    return found


def _ratios(middle: Mapping[str, float]) -> dict[str, float]:
    """What the goals are about: 1.4 at batch 1, 2 at batch 16; and each of our precisions beside their fp32."""
    pairs = {
        f"{precision} {more}x{batch}": (f"ours {precision} {more}x{batch}", f"transformers {precision} {more}x{batch}")
        for batch in (1, 16)
        for precision, more in (("fp32", ""), ("bf16", ""), ("fp32", "sampled "))
    }
    pairs |= {f"int8 to bf16 x{batch}": (f"ours int8 x{batch}", f"transformers bf16 x{batch}") for batch in (1, 16)}
    pairs["fp32 to compiled x1"] = ("ours fp32 x1", "transformers fp32 compiled x1")
    pairs["fp32 to llama2.c x1"] = ("ours fp32 x1", "llama2.c x1")
    return {name: middle[a] / middle[b] for name, (a, b) in pairs.items() if b in middle}


def _read_rate() -> float:
    """GB/s at which a sum reads memory: about the most that weights can be read at."""
    numbers = torch.zeros(10**8)
    return 0.4 / min(timed(numbers.sum)() for _ in range(7))


def loss(run: str, text: Path) -> dict[str, Any]:
    """Bits per byte of a run on the end of a text, for each precision, in windows of 256 tokens (or the context)."""
    loaded = ng.load(run)
    content = text.read_text(encoding="utf-8")[-200_000:]
    ids = torch.tensor(loaded.tokenizer.encode(content).tolist())
    size = min(256, loaded.model.context)
    starts = range(0, len(ids) - size - 1, size)[:SCORED]
    scored = loaded.tokenizer.decode(ids[: len(starts) * size].tolist())
    found: dict[str, float] = {}
    for precision in PRECISIONS:
        model = prepared(loaded.model, precision)
        with torch.no_grad():
            nats = sum(
                model.losses(ids[None, n : n + size], ids[None, n + 1 : n + size + 1])["loss"].item() for n in starts
            )
        found[precision] = nats * size / 0.6931471805599453 / len(scored.encode())
    more = {p: round(found[p] - found["fp32"], 5) for p in PRECISIONS[1:]}
    rounded = {p: round(bits, 4) for p, bits in found.items()}
    return {"run": run, "text": str(text), "tokens": len(starts) * size, "bits_per_byte": rounded, "more": more}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--llama2c", type=Path, metavar="PROGRAM", help="llama2.c's run, compiled with OpenMP")
    parser.add_argument("--loss", nargs=2, metavar=("RUN", "TEXT"), help="only this: the loss of each precision")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result = (
        loss(given.loss[0], Path(given.loss[1])) if given.loss else speed(given.rounds, given.tokens, given.llama2c)
    )
    emit(result, given.json)


if __name__ == "__main__":
    main()
