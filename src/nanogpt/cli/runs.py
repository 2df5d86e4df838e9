"""nanogpt runs: list, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nanogpt.cli.base import Json, print_json, show_table, table
from nanogpt.errors import UserError


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
    from nanogpt.listing import list_runs
    from nanogpt.runs import Run, best_row, diff

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
