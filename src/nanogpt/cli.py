"""The command line: the one place that connects everything. torch is imported only by the commands that need it."""

from __future__ import annotations

import json as json_text
import os
import shlex
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from nanogpt.training.trainer import Summary

app = typer.Typer(
    help="A laboratory for studying modern LLM architectures by building small language models.\n\n"
    "\b\nnanogpt train                                        the default model on Python's own source\n"
    "nanogpt train gpt data.corpus=shakespeare            another model, another text\n"
    "nanogpt train model.ffn=geglu data.corpus=my.txt     one part changed, a file of your own\n"
    "nanogpt sample runs/NAME --prompt 'def '             let it write",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

SAMPLES, SAMPLE_TOKENS = 3, 120
"""What a run shows of itself when it has ended."""

Overrides = Annotated[list[str] | None, typer.Argument(metavar="PRESET SECTION.KEY=VALUE", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="A run folder, as runs/NAME.")]
Checkpoint = Annotated[str, typer.Option(help="best, last, or a step's number.")]


def main() -> None:
    """The entry point. What the user can mend is one line on stderr; the exit status says whose move it is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a console that lacks a character shows it in another way
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(standalone_mode=False)
    except UserError as error:
        print(f"nanogpt: {error}", file=sys.stderr)
        status = error.status
    except (typer.Abort, KeyboardInterrupt):
        status = 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"nanogpt: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        status = 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # only what the command line's own parser refuses has it
            raise
        print(f"nanogpt: {error.format_message()} (nanogpt --help)", file=sys.stderr)
        status = 2
    sys.exit(status if isinstance(status, int) else 0)


def split_arguments(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """['gpt', 'train.steps=5'] -> ('gpt', ['train.steps=5']): what has no '=' is the preset."""
    words = [a for a in arguments or [] if "=" not in a]
    if len(words) > 1:
        raise UserError(f"two presets, '{words[0]}' and '{words[1]}'; settings are written section.key=value")
    return (words[0] if words else None), [a for a in arguments or [] if "=" in a]


def print_json(value: Any) -> None:
    print(json_text.dumps(value, ensure_ascii=False))


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; columns that start with '#' hold numbers."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column.lstrip("#"), justify="right" if column.startswith("#") else "left")
    return made


def show_table(made: Table) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160  # a pipe has no width: wide enough to be read by a program
    Console(width=width, highlight=False).print(made)


@app.command()
def train(
    arguments: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the run; by default preset and corpus.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run where it stopped.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Start from the weights of this run.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only how it ended.")] = False,
) -> int:
    """Train a model.

    PRESET is modern (the default), llama, gpt2, gpt, bigram, or a .toml file of your own. Any setting can be changed:
    a part is written name(knob=value), and your own part my_parts.py:Mine(knob=value).

    \b
    nanogpt train
    nanogpt train gpt data.corpus=shakespeare train.steps=500
    nanogpt train data.corpus=my_notes.txt tokenizer=char model.ffn=geglu
    nanogpt train model.ffn="my_parts.py:Mine(hidden=256)" --name mine
    nanogpt train model.mixer.heads=8 optim.optimizer="adamw(lr=1e-3)"
    nanogpt train --resume runs/mine train.steps=1000

    nanogpt show --parts lists all parts and their knobs; nanogpt show --settings all settings.
    """
    preset, overrides = split_arguments(arguments)
    from nanogpt.config import DEFAULT_PRESET, compose
    from nanogpt.training.start import start
    from nanogpt.training.world import is_main

    if resume is not None:
        if preset or source or name:
            raise UserError("--resume goes on with a run as it was: no preset, --name or --from with it")
        from nanogpt.training.loop import resume as go_on

        return _report(go_on(resume, overrides, quiet=quiet, sampler=_sampler()))
    config = compose(preset or DEFAULT_PRESET, overrides)
    # Before torch is imported: killed from here on, it can be resumed. Of several processes only the first makes it.
    run = start(config, out=out, name=name, source=source) if is_main() else None
    from nanogpt.training import loop

    return _report(loop.train(config, run=run, quiet=quiet, sampler=_sampler()))


def _sampler() -> Any:
    from nanogpt.api import write_while_training

    return write_while_training


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
    print(f"  nanogpt train --resume {path} {more}")
    print("  nanogpt train model.ffn=geglu data.corpus=FILE    (another part, a text of your own)")
    print("  nanogpt show --parts                              (all the parts there are)")
    return 0


@app.command()
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
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Let a run write.

    \b
    nanogpt sample runs/modern-python --prompt "def main(" --tokens 200
    nanogpt sample runs/names --temperature 1 --count 10
    nanogpt sample runs/mine --prompt "To be" --temperature 0 --json
    """
    from nanogpt.api import load
    from nanogpt.generate import Sampling

    how = Sampling(temperature, top_k, top_p, min_p, seed)
    loaded = load(run, checkpoint)
    prompts = [p for p in prompt or [""] for _ in range(count)]
    texts = loaded.sample(prompts, tokens=tokens, how=how, stop=stop or [])
    if json:
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
        samples = [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]
        print_json({"run": str(run), "step": loaded.step, **settings, "samples": samples})
        return
    print("\n---\n".join(p + text for p, text in zip(prompts, texts, strict=True)))


@app.command(name="eval")
def evaluate(
    run: RunPath,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Score a run on a whole split: nats per token, bits per byte.

    \b
    nanogpt eval runs/modern-python
    nanogpt eval runs/modern-python --split test --checkpoint last --json
    """
    from nanogpt.api import load

    loaded = load(run, checkpoint)
    score = loaded.evaluate(split)
    result = {"run": str(run), "step": loaded.step, "split": split, **score}
    if json:
        print_json(result)
    else:
        print(f"{run} step {loaded.step} {split}: {score['loss']:.4f} nats per token, {score['bpb']:.4f} bits per byte "
              f"({score['tokens']:,} tokens, perplexity {score['perplexity']:.2f})")  # fmt: skip


@app.command()
def data(
    corpus: Annotated[
        list[str], typer.Argument(help="python, shakespeare, names, tinystories, files, folders, globs.")
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


@app.command()
def show(
    arguments: Overrides = None,
    parts: Annotated[bool, typer.Option("--parts", help="List every part and its knobs.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="List every setting and its default.")] = False,
    json: Json = False,
) -> None:
    """Show what a preset or a run builds: parts, shapes, parameters, FLOPs. Nothing is trained.

    \b
    nanogpt show gpt2
    nanogpt show llama model.dim=512 model.mixer.kv_heads=1
    nanogpt show runs/modern-python
    nanogpt show --parts
    """
    if settings:
        return _show_settings(json)
    from nanogpt import show as view

    if parts:
        listed = view.parts()
        return print_json(listed) if json else _show_parts(listed)
    from nanogpt.config import DEFAULT_PRESET, change, compose
    from nanogpt.runs import Run

    preset, overrides = split_arguments(arguments)
    if preset and (Path(preset) / "config.json").is_file():
        run = Run.open(preset)
        with run.own_parts():
            facts = view.describe(change(run.config(), overrides))
    else:
        facts = view.describe(compose(preset or DEFAULT_PRESET, overrides))
    return print_json(facts) if json else _show_model(facts)


def _show_settings(json: bool) -> None:
    from nanogpt.config import settings

    rows = settings()
    if json:
        return print_json(rows)
    made = table("setting", "default", "meaning")
    for row in rows:
        made.add_row(row["key"], str(row["default"]), row["meaning"])
    return show_table(made)


def _show_parts(listed: dict[str, dict[str, Any]]) -> None:
    for axis, rows in listed.items():
        made = table(axis, "knobs", "what it is")
        for name, part in rows.items():
            knobs = ", ".join(k if v is None else f"{k}={v}" for k, v in part["knobs"].items())
            made.add_row(name, knobs, part["what"])
        show_table(made)


def _show_model(facts: dict[str, Any]) -> None:
    model, total = facts["model"], facts["total_parameters"]
    print(f"{facts['preset']}: {total:,} parameters, {model['n_layers']} layers, dim {model['dim']}, "
          f"context {model['context']}, vocabulary {model['vocab_size']:,} ({facts['vocabulary']})")  # fmt: skip
    made = table("part", "#parameters", "#share")
    for name, count in facts["parameters"].items():
        made.add_row(name, f"{count:,}", f"{count / total:.1%}")
    show_table(made)
    for row in facts["layers"]:
        print(f"layers {row.pop('layers')}")
        for axis, part in row.items():
            print(f"  {axis:<10}{part}")
    print("model")
    for axis in ("embed", "head", "init", "objective"):
        print(f"  {axis:<10}{model[axis]}")
    made = table("tensor", "shape", "#parameters")
    for row in facts["tensors"]:
        made.add_row(row["name"], " x ".join(map(str, row["shape"])), f"{row['parameters']:,}")
    show_table(made)
    print(
        f"FLOPs per token: {facts['flops_per_token']:,.0f} forward, "
        f"{facts['training_flops_per_token']:,.0f} in training"
    )
    print(f"weights: {size(facts['weight_bytes']['fp32'])} in fp32, {size(facts['weight_bytes']['bf16'])} in bf16; "
          f"cache (bf16): {size(facts['cache_bytes_per_token'])} per token, "
          f"{size(facts['cache_bytes_at_context'])} at {model['context']:,} tokens")  # fmt: skip


def size(n: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


@app.command()
def runs(
    two: Annotated[list[Path] | None, typer.Argument(metavar="[RUN RUN]", help="Two runs, to compare.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    json: Json = False,
) -> None:
    """List the runs, or compare two.

    \b
    nanogpt runs
    nanogpt runs runs/modern-python runs/mine
    """
    from nanogpt.runs import Run, best_row, diff, list_runs

    if two and len(two) != 2:
        raise UserError("two runs are compared; without any, all are listed")
    if two:
        a, b = (Run.open(path) for path in two)
        changed = diff(a.config(), b.config())
        scores = {str(r.path): best_row(r.metrics()) for r in (a, b)}
        if json:
            return print_json({"config": {k: list(v) for k, v in changed.items()}, "best": scores})
        made = table("setting", a.path.name, b.path.name)
        for key, (left, right) in changed.items():
            made.add_row(key, _brief(left), _brief(right))
        for key in ("step", "val/loss", "val/bpb", "seconds"):
            made.add_row(f"(best) {key}", *(_number(row.get(key)) for row in scores.values()))
        return show_table(made)
    rows = list_runs(out)
    if json:
        return print_json(rows)
    if not rows:
        print(f"no runs in {out}; nanogpt train makes one")
        return None
    made = table("run", "preset", "corpus", "#step", "#train loss", "#val loss", "#val bpb", "#seconds")
    for row in rows:
        if "error" in row:
            made.add_row(row["name"], row["error"])
            continue
        numbers = (_number(row[k]) for k in ("train/loss", "val/loss", "val/bpb", "seconds"))
        made.add_row(row["name"], row["preset"], _brief(row["corpus"]), f"{row['step']}/{row['steps']}", *numbers)
    return show_table(made)


def _brief(value: Any) -> str:
    """A value in one cell: equal layers are said once."""
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        return f"{len(value)} x {value[0]}"
    return str(value)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


@app.command()
def doctor(json: Json = False) -> None:
    """Examine this machine: devices, cores, the rate of matrix products, one training step on each device.

    \b
    nanogpt doctor
    """
    from nanogpt.doctor import examine

    found = examine()
    if json:
        return print_json(found)
    devices = found.pop("devices")
    for key, value in found.items():
        print(f"{key:>10}  {value}")
    made = table("device", "what", "#TFLOP/s fp32", "#bf16", "#step, ms", "same as cpu")
    for name, d in devices.items():
        agrees = f"{'yes' if d['agrees'] else 'NO'} ({d['apart']:.1e} apart)"
        rates = (f"{d['tflops'][p]:.2f}" for p in ("fp32", "bf16"))
        made.add_row(name, d["what"], *rates, f"{1000 * d['step_seconds']:.1f}", agrees)
    return show_table(made)
