"""nanogpt show: what a configuration builds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nanogpt.cli.base import Json, Overrides, print_json, show_table, split_arguments, table


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
