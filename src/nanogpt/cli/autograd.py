"""nanogpt autograd trace, ninja."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt.cli.base import Json, Overrides, print_json, show_table, split_arguments, table
from nanogpt.cli.init import check_weights, configuration
from nanogpt.errors import UserError

if TYPE_CHECKING:
    from nanogpt.autograd.trace import Trace
    from nanogpt.config import RunConfig

LARGEST = 500_000_000
"""Parameters: with gradients 4 GB, and a pass in seconds."""

autograd = typer.Typer(
    help="Look at gradients: the graph of a model, and a dozen of them derived by hand.\n\n"
    "\b\nnanogpt autograd trace gpt --svg gpt.svg      the graph as a drawing\n"
    "nanogpt autograd ninja                        by hand, beside PyTorch's",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@autograd.command()
def trace(
    arguments: Overrides = None,
    scale: Annotated[str | None, typer.Option(help="At so many parameters, proportions kept: 10M.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Write the graph as a drawing.")] = None,
    dot: Annotated[Path | None, typer.Option(help="Write it for graphviz, every node.")] = None,
    json: Json = False,
) -> None:
    """Trace one training step under PyTorch: operations, what each keeps for the backward pass, gradients.

    A forward and a backward pass on real text, in the precision that training would have. Tells where the memory goes,
    by module and by operation, and what checkpointing each block would save and cost: bytes and time as measured,
    operations as predicted.

    \b
    nanogpt autograd trace
    nanogpt autograd trace gpt --svg gpt.svg
    nanogpt autograd trace gpt2 --scale 10M data.corpus=shakespeare
    nanogpt autograd trace modern model.ffn=geglu train.precision=fp32 --json
    nanogpt autograd trace runs/modern-python --dot graph.dot
    """
    preset, overrides = split_arguments(arguments)
    config, parts = configuration(preset, overrides, scale)
    with parts:
        found, cost, (rows, T), precision = _traced(config)
    from nanogpt.autograd import picture
    from nanogpt.files import write_whole
    from nanogpt.show import size

    title = Path(preset).name if preset else config.preset
    if svg is not None:
        write_whole(svg, picture.svg(found, title).encode())
    if dot is not None:
        write_whole(dot, picture.dot(found).encode())
    step = found.kept * config.train.batch / rows
    if json:
        facts = {"preset": config.preset, "precision": precision, "batch": config.train.batch, "step_bytes": step}
        return print_json({**facts, "checkpointing": cost, **found.as_dict()})
    print(f"{title}: {precision}, {len(found.nodes):,} nodes, {rows} rows of {T} tokens")
    _say(found, cost)
    print(f"a training step of {config.train.batch} rows of {T} tokens keeps {size(step)}")
    print("the drawing: --svg FILE")
    return None


def _traced(config: RunConfig) -> tuple[Trace, dict[str, float], tuple[int, int], str]:
    """The trace, what checkpointing adds to a step, rows and tokens of the text that it saw, and the precision."""
    from nanogpt.autograd.trace import more_operations, more_time
    from nanogpt.autograd.trace import trace as traced
    from nanogpt.cost import cost
    from nanogpt.observers.probes import probe_of_config
    from nanogpt.training.machine import choose

    check_weights(config)
    size = config.model.vocab_size or 256
    count = cost(config.model.model_copy(update={"vocab_size": size})).total
    if count > LARGEST:
        raise UserError(f"{config.preset}: {count:,} parameters are too many to run here; nearest: --scale 10M")
    model, probe, _ = probe_of_config(config)
    machine = choose(config.train.model_copy(update={"device": "cpu"}), dim=model.dim, flops=0.0)

    def loss() -> Any:
        with machine.autocast():
            return probe.loss()

    assert probe.words is not None
    found = traced(model.train(), loss, probe.tokens)
    rows, T = probe.words.tokens_BT.shape
    adds = {"more_operations": more_operations(model, T), "more_time": more_time(model, loss)}
    return found, adds if found.recomputed else {}, (rows, T), machine.precision


def _say(found: Trace, adds: dict[str, float]) -> None:
    from nanogpt.autograd.folded import any_layer
    from nanogpt.show import size

    lists = {"module": found.by(lambda n: any_layer(n.module)), "operation": found.by(lambda n: n.op)}
    for name, rows in lists.items():
        made = table(name, "#kept for backward", "#share", "#bytes a token")
        for what, count in rows.items():
            made.add_row(what, size(count), f"{count / found.kept:.1%}", f"{count / found.tokens:,.1f}")
        made.add_row("total", size(found.kept), "100.0%", f"{found.kept / found.tokens:,.1f}")
        show_table(made)
    if adds:
        again = found.checkpointed + found.recomputed
        print(
            f"with each block checkpointed: {size(found.checkpointed)} kept, {size(again)} with one block run again: "
            f"{again / found.kept:.0%} of the memory; {adds['more_operations']:.0%} more operations (predicted), "
            f"{adds['more_time']:.0%} more time (measured)"
        )


@autograd.command()
def ninja(
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    json: Json = False,
) -> None:
    """Derive a dozen gradients by hand, and print how far they are from PyTorch's.

    Each part's derivation is in nanogpt/autograd/ninja.py. Below them the lecture's network of 4,137 parameters, taken
    apart into its smallest steps (Karpathy 2022, "Becoming a backprop ninja").

    \b
    nanogpt autograd ninja
    nanogpt autograd ninja --seed 7 --json
    """
    from nanogpt.autograd.lecture import stepwise
    from nanogpt.autograd.ninja import table as parts

    rows, steps = parts(seed), stepwise(seed)
    if json:
        return print_json({"parts": rows, "lecture": steps})
    made = table("part", "gradient by hand", "#largest gradient", "#difference, double", "#single")
    for row in rows:
        apart = [f"{row[name]:.1e}" if row[name] else "0" for name in ("difference", "difference_fp32")]
        made.add_row(row["part"], row["formula"], f"{row['largest']:.2g}", *apart)
    show_table(made)
    same = sum(apart == 0 for apart in steps.values())
    print(
        f"the lecture's network, single: {len(steps)} gradients of its steps, {same} equal bit for bit, the others "
        f"within {max(steps.values()):.1e}"
    )
    return None
