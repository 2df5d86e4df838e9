"""nanogpt train, sample, eval, data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt.cli.base import Checkpoint, Json, Overrides, RunPath, print_json, show_table, split_arguments, table
from nanogpt.errors import UserError

if TYPE_CHECKING:
    from nanogpt.config import RunConfig
    from nanogpt.training.trainer import Summary

SAMPLES, SAMPLE_TOKENS = 3, 120
"""What a run shows of itself when it has ended."""


def train(
    arguments: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the run; by default preset and corpus.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run where it stopped.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Start from the weights of this run.")] = None,
    scale: Annotated[str | None, typer.Option(help="At so many parameters, proportions kept: 10M.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only how it ended.")] = False,
) -> int:
    """Train a model.

    PRESET is modern by default, any other that nanogpt show --presets lists, or a .toml file of your own. Any setting
    can be changed: a part is written name(knob=value), and your own part my_parts.py:Mine(knob=value).

    \b
    nanogpt train
    nanogpt train gpt data.corpus=shakespeare train.steps=500
    nanogpt train data.corpus=my_notes.txt tokenizer=char model.ffn=geglu
    nanogpt train model.ffn="my_parts.py:Mine(hidden=256)" --name mine
    nanogpt train model.mixer.heads=8 optim.optimizer="adamw(lr=1e-3)"
    nanogpt train qwen3-8b --scale 10M train.steps=300
    nanogpt train --resume runs/mine train.steps=1000

    nanogpt show --parts lists all parts and their knobs; nanogpt show --settings all settings.
    """
    preset, overrides = split_arguments(arguments)
    from nanogpt.config import DEFAULT_PRESET, compose
    from nanogpt.training.start import start
    from nanogpt.training.world import is_main

    if resume is not None:
        if preset or source or name or scale:
            raise UserError("--resume goes on with a run as it was: no preset, --name, --from or --scale with it")
        from nanogpt.training.loop import resume as go_on

        return _report(go_on(resume, overrides, quiet=quiet, **_from_above()))
    config = compose(preset or DEFAULT_PRESET, overrides)
    if scale is not None:
        config = _scaled(preset or DEFAULT_PRESET, scale, overrides, quiet)
    # Before torch is imported: killed from here on, it can be resumed. Of several processes only the first makes it.
    run = start(config, out=out, name=name, source=source) if is_main() else None
    from nanogpt.training import loop

    return _report(loop.train(config, run=run, quiet=quiet, **_from_above()))


def _scaled(preset: str, budget: str, overrides: list[str], quiet: bool) -> RunConfig:
    """The preset at another size, and what became of it."""
    from nanogpt.scale import became, proportions_kept, scaled

    config = scaled(preset, budget, overrides)
    if not quiet:
        print("\n  ".join([became(config, budget), *proportions_kept(preset, config, overrides)]))
    return config


def _from_above() -> dict[str, Any]:
    """What the loop does not know: how to write a sample, and who looks inside."""
    from nanogpt.api import write_while_training
    from nanogpt.observers.attach import attach

    return {"sampler": write_while_training, "observer": attach}


def _report(summary: Summary) -> int:
    """How training ended: the loss, what the model writes, where it lies, what to type next."""
    from nanogpt.api import load
    from nanogpt.runs import best_row
    from nanogpt.training.world import is_main

    run, row = summary.run.path, summary.row
    if summary.ending == "interrupted":
        print(f"\nstopped after step {summary.step} of {summary.steps}; go on with: nanogpt train --resume {run}")
        return 130
    if not is_main() or not row:
        return 0
    for number, text in enumerate(load(summary.run).sample([""] * SAMPLES, tokens=SAMPLE_TOKENS, temperature=0.8), 1):
        print(f"\n--- sample {number}\n{text.strip()}")
    print()
    early = f" (stopped early, after step {summary.step})" if summary.ending == "stopped early" else ""
    print(f"validation loss: {row['val/loss']:.4f} nats per token, {row['val/bpb']:.4f} bits per byte{early}")
    best = best_row(summary.run.metrics())
    if best["step"] < row["step"]:
        print(f"best was {best['val/loss']:.4f} after step {best['step']}: sample and eval take that one")
    print(f"the run: {run}")
    path = shlex.quote(str(run))
    more = f"train.steps={2 * summary.steps}" + (" train.patience=0" if early else "")
    print("next:")
    print(f"  nanogpt sample {path} --tokens 200")
    print(f"  nanogpt eval {path}")
    if "lr" in row:  # else there were no steps, and there will be none
        print(f"  nanogpt train --resume {path} {more}")
    print("  nanogpt train model.ffn=geglu data.corpus=FILE    (another part, a text of your own)")
    print("  nanogpt show --parts                              (all the parts there are)")
    return 0


def sample(
    run: RunPath,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to continue; several make a batch.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to write.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Only the k likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest tokens that add up to p.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Only tokens at least p times as likely as the likeliest.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the random choices.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; may be given again.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples of each prompt.")] = 1,
    precision: Annotated[str, typer.Option(help="Of the weights: fp32; bf16, int8: faster, less exact.")] = "fp32",
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Let a run write.

    \b
    nanogpt sample runs/modern-python --prompt "def main(" --tokens 200
    nanogpt sample runs/names --temperature 1 --count 10
    nanogpt sample runs/mine --prompt "To be" --temperature 0 --json
    nanogpt sample runs/large --precision int8
    """
    from nanogpt.api import load
    from nanogpt.generate import Sampling

    how = Sampling(temperature, top_k, top_p, min_p, seed)
    loaded = load(run, checkpoint)
    prompts = [p for p in prompt or [""] for _ in range(count)]
    texts = loaded.sample(prompts, tokens=tokens, how=how, stop=stop or [], precision=precision)
    if json:
        numbers = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
        settings: dict[str, Any] = {**numbers, "precision": precision}
        samples = [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]
        print_json({"run": str(run), "step": loaded.step, **settings, "samples": samples})
        return
    print("\n---\n".join(p + text for p, text in zip(prompts, texts, strict=True)))


def evaluate(
    run: RunPath,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    context: Annotated[int | None, typer.Option(min=1, help="Tokens in a window; by default as in training.")] = None,
    mix: Annotated[str | None, typer.Option(help="Mix with this run's probabilities: RUN or RUN=0.5.")] = None,
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Score a run on a whole split: nats per token, bits per byte.

    \b
    nanogpt eval runs/modern-python
    nanogpt eval runs/modern-python --split test --checkpoint last --json
    nanogpt eval runs/modern-python --context 512
    nanogpt eval runs/nplm --mix runs/trigram=0.5
    """
    from nanogpt.api import load

    loaded = load(run, checkpoint)
    other, share = _mixed_with(mix)
    score = loaded.evaluate(split, context=context, mix=load(other, "best") if other else None, share=share)
    corpus = loaded.config.data.corpus
    result: dict[str, Any] = {"run": str(run), "step": loaded.step, "corpus": corpus, "split": split, **score}
    if context:
        result["context"] = context
    if other:
        result["mix"] = {"run": other, "share": share}
    if json:
        print_json(result)
    else:
        text = corpus if isinstance(corpus, str) else " ".join(corpus)
        counts = f"{score['tokens']:,} tokens, perplexity {score['perplexity']:.2f}"
        print(f"{run} step {loaded.step}, {split} of {text}: {score['loss']:.4f} nats per token, "
              f"{score['bpb']:.4f} bits per byte ({counts})")  # fmt: skip


def _mixed_with(mix: str | None) -> tuple[str, float]:
    """`RUN` or `RUN=0.5`; a folder may have a = in its name."""
    run, _, share = (mix or "").rpartition("=")
    try:
        return (run, float(share)) if run else (share, 0.5)
    except ValueError:
        return mix or "", 0.5


def data(
    corpus: Annotated[
        list[str], typer.Argument(help="python, shakespeare, names, tinystories, brown, files, folders, globs.")
    ],
    tokenizer: Annotated[
        str, typer.Option(help="char, byte, bpe(vocab_size=2048), gpt2, a tokenizer.json ...")
    ] = "byte",
    batching: Annotated[str, typer.Option(help="auto, stream, pad or pack.")] = "auto",
    json: Json = False,
) -> None:
    """Look at a text as a model will: splits, tokens, bytes per token. What is prepared is kept for training.

    \b
    nanogpt data python --tokenizer "bpe(vocab_size=2048)"
    nanogpt data names --tokenizer char
    nanogpt data notes/ letters/*.txt --json
    """
    from nanogpt.api import prepare
    from nanogpt.config import validate

    sections = {"data": {"corpus": corpus if len(corpus) > 1 else corpus[0], "batching": batching}}
    config = validate({**sections, "tokenizer": tokenizer, "model": {"dim": 1, "n_layers": 0, "context": 1}})
    summary = prepare(config)
    if json:
        print_json(summary)
        return
    splits, text = summary.pop("splits"), summary.pop("sample")
    for key, value in summary.items():
        shown = f"{value:,}" if type(value) is int else value
        print(f"{key.replace('_', ' '):>16}  {shown}")
    rows = table("split", "#bytes", "#tokens", "#documents")
    for key, row in splits.items():
        rows.add_row(key, f"{row['bytes']:,}", f"{row['tokens']:,}", f"{row['documents'] or 1:,}")
    show_table(rows)
    print(text)
