"""nanogpt import, export, compare: published models."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nanogpt.cli.base import Checkpoint, Json, RunPath, print_json, show_table, table
from nanogpt.errors import UserError

FORMATS = ("transformers", "tensorboard")
Model = Annotated[str, typer.Argument(show_default=False, help="A run, or what nanogpt import takes.")]


def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False,
                                          help="A folder as on the hub, org/name, .gguf, .bin, .json.")],
    name: Annotated[str, typer.Option(help="Name of the run.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    json: Json = False,
) -> None:  # fmt: skip
    """Make a run of a published model.

    SOURCE is a folder with config.json and safetensors, such a folder on the Hugging Face hub, a GGUF file, llama2.c's
    .bin (with its tokN.bin beside it) or minGPT's JSON. The run can then be sampled from, scored, shown, trained on.

    \b
    nanogpt import HuggingFaceTB/SmolLM2-135M --name smollm
    nanogpt import stories260K.bin --name stories
    nanogpt train runs/smollm/config.json --from runs/smollm data.corpus=notes.txt
    """
    from nanogpt.hub.load import import_run
    from nanogpt.hub.source import open_source

    found = open_source(source)
    run = import_run(found, out=out, name=name)
    facts = {"run": str(run.path), "family": run.environment()["family"], "tokenizer": found.tokenizer is not None}
    if json:
        return print_json(facts)
    path = shlex.quote(str(run.path))
    print(f"{source} ({facts['family']}) is the run {run.path}")
    if not facts["tokenizer"]:
        return print(f"it came without a tokenizer.json: to sample, put the right one into {run.path}")
    print(f"next:\n  nanogpt sample {path}\n  nanogpt show {path}\n  nanogpt eval {path}")
    return None


def export(
    run: RunPath,
    path: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False, help="A folder that is not there yet.")],
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    shard: Annotated[float, typer.Option(min=0.001, help="Most megabytes in one file of weights.")] = 5000.0,
    checkpoint: Checkpoint = "best",
    format: Annotated[str, typer.Option(help="transformers: the model; tensorboard: what training logged.")] = FORMATS[
        0
    ],
    json: Json = False,
) -> None:
    """Write a run as a folder that transformers opens: AutoModelForCausalLM.from_pretrained(FOLDER).

    A model of parts that no published family has is refused, naming the part. With --format tensorboard, its curves,
    layer statistics, histograms and samples as event files: tensorboard --logdir FOLDER.

    \b
    nanogpt export runs/mine mine-hf
    nanogpt export runs/mine mine-hf --dtype bf16
    nanogpt export runs/mine mine-events --format tensorboard
    """
    from nanogpt.errors import nearest

    if format not in FORMATS:
        raise UserError(f"--format {format}: not one of its words{nearest(format, FORMATS)}")
    if format == "tensorboard":
        return _events(run, path, json)
    from nanogpt.hub.export import DTYPES, export_run
    from nanogpt.runs import Run

    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: not one of its words{nearest(dtype, DTYPES)}")
    family = export_run(Run.open(run), path, checkpoint=checkpoint, dtype=dtype, shard=round(shard * 1e6))
    facts = {"run": str(run), "folder": str(path), "family": family.name, "architecture": family.architecture}
    if json:
        return print_json(facts)
    print(f"{run} is {path}, a {family.architecture}")
    print(f"next:\n  nanogpt compare {shlex.quote(str(run))} {shlex.quote(str(path))}")
    return None


def _events(run: Path, path: Path, json: bool) -> None:
    from nanogpt.observers.tensorboard import export_tensorboard
    from nanogpt.runs import Run

    written = export_tensorboard(Run.open(run), path)
    if json:
        return print_json({"run": str(run), "folder": str(path), **written})
    for problem in written["problems"]:
        print(problem)
    print(f"{run} is {path}: {written['scalars']:,} scalars, {written['histograms']:,} histograms, "
          f"{written['texts']:,} texts; next: tensorboard --logdir {shlex.quote(str(path))}")  # fmt: skip
    return None


def compare(
    a: Model,
    b: Model,
    text: Annotated[
        str | None, typer.Option(help="Read this; by default 64 random tokens.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Give two models the same tokens: the largest difference of a logit, and the first layer where they part.

    \b
    nanogpt compare runs/mine mine-hf
    nanogpt compare runs/mine runs/other --text "To be, or not"
    """
    from nanogpt.hub import compare as hub

    found = hub.compare(a, b, text)
    if json:
        return print_json({"a": a, "b": b, **asdict(found)})
    made = table("after", "#largest difference")
    for name, apart in found.layers.items():
        made.add_row(name, f"{apart:.1e}" + (" <- they part here" if name == found.parted else ""))
    show_table(made)
    print(f"largest difference over {found.tokens} tokens: {found.logits:.1e} of a logit, {found.nats:.1e} nats; "
          f"the same likeliest token in {found.same_choice:.1%} of places")  # fmt: skip
    if found.parted is None:
        print("they part nowhere: " + ("what differs is rounding" if found.logits else "they are equal"))
    return None
