"""nanogpt show: what a configuration builds."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from nanogpt.cli.base import Json, print_json, say, show_table, table
from nanogpt.errors import UserError


def show(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL ... SECTION.KEY=VALUE", show_default=False)
    ] = None,
    parts: Annotated[bool, typer.Option("--parts", help="List every part and its knobs.")] = False,
    presets: Annotated[bool, typer.Option("--presets", help="List every preset.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="List every setting and its default.")] = False,
    scale: Annotated[str | None, typer.Option(help="At so many parameters, proportions kept: 10M.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Write a drawing of the architecture.")] = None,
    json: Json = False,
) -> None:
    """Show what a preset or a run builds: parts, shapes, parameters, FLOPs, memory. Several stand side by side.

    \b
    nanogpt show gpt2
    nanogpt show llama model.dim=512 model.mixer.kv_heads=1
    nanogpt show llama-3-8b qwen3-8b olmo-2-7b
    nanogpt show gemma-3-1b --svg gemma.svg
    nanogpt show qwen3-8b --scale 10M
    nanogpt show runs/modern-python
    nanogpt show --parts
    nanogpt show --presets
    """
    if settings:
        return _show_settings(json)
    if presets:
        return _show_presets(json)
    from nanogpt import show as view

    if parts:
        listed = view.parts()
        return print_json(listed) if json else _show_parts(listed)
    from nanogpt.config import DEFAULT_PRESET

    names = [a for a in arguments or [] if "=" not in a] or [DEFAULT_PRESET]
    overrides = [a for a in arguments or [] if "=" in a]
    models = [_facts(name, overrides, scale) for name in names]
    if svg is not None:
        if len(models) > 1:
            raise UserError(f"--svg draws one model, not {len(models)}")
        if svg.is_dir() or not svg.parent.is_dir():
            what = "is a folder" if svg.is_dir() else f"there is no folder {svg.parent}"
            raise UserError(f"--svg {svg}: {what}; nearest: --svg {Path(names[0]).name}.svg")
        from nanogpt.diagram import svg as draw
        from nanogpt.files import write_whole

        write_whole(svg, draw(models[0]).encode())
    if len(models) > 1:
        rows = view.compare(models)
        return print_json({"models": models, "rows": rows}) if json else _show_side_by_side(names, models, rows)
    return print_json(models[0]) if json else _show_model(models[0])


def _facts(name: str, overrides: list[str], scale: str | None) -> dict[str, Any]:
    """A preset or a run folder, changed, described."""
    from nanogpt.config import change, compose
    from nanogpt.runs import Run
    from nanogpt.show import describe

    if (Path(name) / "config.json").is_file():
        if scale is not None:
            raise UserError(
                f"--scale: {name} is a run, and its size is what it is; nearest: the preset that it was made of"
            )
        run = Run.open(name)
        with run.own_parts():
            return describe(change(run.config(), overrides))
    if scale is None:
        return describe(compose(name, overrides))
    from nanogpt.scale import became, proportions_kept, scaled

    config = scaled(name, scale, overrides)
    lines = [became(config, scale), *proportions_kept(name, config, overrides)]
    return {**describe(config), "scaled": lines}


def _show_side_by_side(names: list[str], models: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """What each model says of itself; then a row for each fact. Those in which the models differ are marked, coloured
    where there is colour, and explained below."""
    from nanogpt.config import presets

    for name, facts in dict(zip(names, models, strict=True)).items():
        if name in presets():
            say(f"{name}: {_comment(presets()[name])}")
        for line in facts.get("scaled", []):
            say(f"  {line}", 2)
    made = table("", "", *names)
    keys = {row["key"] for row in rows}
    for row in rows:
        mark = "\u2260" if row["differs"] else ""
        group, _, rest = row["key"].partition(".")
        beneath = rest and group in keys  # its group has a row of its own
        label = f"  {rest}" if beneath else row["key"].removeprefix("ratio.").replace(".", " ", 1)
        made.add_row(mark, label, *row["values"], style="yellow" if row["differs"] else None)
    show_table(made)
    print(f"{sum(row['differs'] for row in rows)} of {len(rows)} rows differ (\u2260)")
    for row in rows:
        for said in row["what"]:
            say(f"  {row['key'].removeprefix('ratio.')}: {said}", 2)


def _show_presets(json: bool) -> None:
    from nanogpt.config import presets

    rows = {name: _comment(path) for name, path in presets().items()}
    if json:
        return print_json(rows)
    made = table("preset", "what it is")
    for name, what in rows.items():
        made.add_row(name, what)
    return show_table(made)


def _comment(preset: Path) -> str:
    """The comment that a preset begins with."""
    lines = takewhile(lambda line: line.startswith("#"), preset.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


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
    from nanogpt.diagram import text
    from nanogpt.proportions import counted
    from nanogpt.show import size

    model, total = facts["model"], facts["total_parameters"]
    layers = counted(model["n_layers"], "layer")
    what = (f"{facts['preset']}: {total:,} parameters, {layers}, dim {model['dim']}, "
            f"context {model['context']}, vocabulary {model['vocab_size']:,} ({facts['vocabulary']})")  # fmt: skip
    first, *kept = facts.get("scaled", [what])
    say(first)
    for line in kept:
        say(f"  {line}", 2)
    made = table("part", "#parameters", "#share")
    for name, count in facts["parameters"].items():
        made.add_row(name, f"{count:,}", f"{count / total:.1%}")
    made.add_row("total", f"{total:,}", "100.0%")
    show_table(made)
    if facts["proportions"]:
        print("proportions: " + ", ".join(f"{name} {said}" for name, said in facts["proportions"].items()))
    print(f"{layers}: {facts['pattern']}")
    if len(facts["kinds"]) > 1:
        print(f"  {facts['letters']}")
    for kind in facts["kinds"]:
        print(f"layer {kind['kind']}, {kind['layers']} of {model['n_layers']}")
        for axis in ("mixer", "ffn", "norm", "layout", "position"):
            print(f"  {axis:<10}{kind[axis]}")
    print("model")
    for axis in ("embed", "head", "init", "objective"):
        print(f"  {axis:<10}{model[axis]}")
    if facts["kinds"]:
        print(f"one layer\n{text(facts)}")
    made = table("tensor", "shape", "#parameters")
    for row in facts["tensors"]:
        made.add_row(row["name"], " x ".join(map(str, row["shape"])), f"{row['parameters']:,}")
    show_table(made)
    print(
        f"FLOPs per token, in windows of {model['context']:,}: {facts['flops_per_token']:,.0f} forward, "
        f"{facts['training_flops_per_token']:,.0f} in training"
    )
    print("weights: " + ", ".join(f"{size(n)} in {kind}" for kind, n in facts["weight_bytes"].items()))
    whole = {**facts["cache_bytes_at"], str(model["context"]): facts["cache_bytes_at_context"]}
    print(f"cache (bf16): {size(facts['cache_bytes_per_token'])} per token")
    for tokens, kept in sorted(facts["cache_bytes_windows_only_at"].items(), key=lambda item: int(item[0])):
        less = f"; {size(kept)} where layers keep only their window" if kept < whole[tokens] else ""
        print(f"  {size(whole[tokens])} at {int(tokens):,} tokens{less}")
