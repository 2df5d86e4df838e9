"""A start on one screen: variances through depth beside theory, the conditions on the matrices, and the verdict."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nanogpt.observers.checks.case import layer_of
from nanogpt.observers.verdict import spans
from nanogpt.proportions import counted

WIDTH = 80
ROWS = 20
"""Layers that are shown; of a deeper network every so many."""
BAR = 6
LEAST = 4.0
"""Decades of variance that a bar spans at least, so that what hardly changes looks even."""
LEVELS = {"bad": "ILL", "warn": "look", "good": "well"}
SOUND = "nothing to change: what goes through keeps its size, and nothing is dead or saturated at birth"


def screen(found: Mapping[str, Any]) -> None:
    """Print what `nanogpt init --json` says."""
    for line in lines(found):
        print(line)


def lines(found: Mapping[str, Any]) -> list[str]:
    size = f"{found['parameters']:,} parameters, {counted(found['n_layers'], 'layer')}, dim {found['dim']}"
    made = [
        *_fold(f"{found['preset']}: {size}, init={found['init']}"),
        f"{found['tokens']:,} tokens of {found['corpus']}, vocabulary {found['vocab_size']:,}",
        "",
        *_depth(found),
        "",
        *_matrices(found["matrices"]),
    ]
    for fact in _facts(found):
        made += _fold(fact)
    return [line.rstrip() for line in [*made, "", *_verdict(found)]]


def _depth(found: Mapping[str, Any]) -> list[str]:
    """The variances through depth."""
    rows, left_out = _thinned(found)
    made = [
        f"{'variance of':15}{'activations':>15}{'':11}{'gradients':>13}{'':13}{'dead at':>8}",
        f"{'':15}{'measured':>8}{'theory':>9}{'':10}{'measured':>8}{'theory':>9}{'':9}{'birth':>9}",
    ]
    bars = {key: _bars([row[key] for row in rows]) for key in ("variance", "gradient")}
    for number, row in enumerate(rows):
        cells = [
            f"{_size(row[key]):>8}{_size(row[key + '_predicted']):>9}  {bars[key][number]:{BAR}}"
            for key in ("variance", "gradient")
        ]
        dead = "" if row["dead"] is None else f"{row['dead']:.0%}"
        made.append(f"{_short(row['name']):15}{'  '.join(cells)}{dead:>7}")
    return made + ([f"({left_out} of {len(found['depth'])} layers are left out here; --json has all)"] * bool(left_out))


def _thinned(found: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """What lies below the layers, the layers (evenly spaced where there are many), and what lies above."""
    depth, modules = found["depth"], found["modules"]
    inside = {layer_of(name) for name in depth}
    dead: dict[str, float] = {}
    for row in modules:
        if row["dead"] is not None:
            dead[layer_of(row["name"])] = max(row["dead"], dead.get(layer_of(row["name"]), 0.0))
    kept = set(depth[:: max(1, math.ceil(len(depth) / ROWS))]) | set(depth[-1:])
    rows = [
        {**row, "dead": dead.get(layer_of(row["name"]))} if row["name"] in kept else row
        for row in modules
        if row["variance"] is not None
        if row["name"] in kept or (layer_of(row["name"]) not in inside and not row["name"].startswith("blocks."))
    ]
    return rows, len(depth) - len(kept)


def _short(name: str) -> str:
    """`blocks.3.ffn.act`, which stands for its whole layer, is blocks.3."""
    short = layer_of(name) if name.startswith("blocks.") else name
    return short if len(short) < 15 else f"..{short[-12:]}"


def _bars(values: Sequence[float | None]) -> list[str]:
    """Lengths by the logarithm, the largest full."""
    logs = [math.log10(v) if v else None for v in values]
    known = [v for v in logs if v is not None]
    high = max(known, default=0.0)
    span = max(LEAST, high - min(known, default=0.0))
    return ["" if v is None else "█" * max(1, round(BAR * (1 - (high - v) / span))) for v in logs]


def _size(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"


def _matrices(matrices: Sequence[Mapping[str, Any]]) -> list[str]:
    """The conditions on the matrices, those of one kind in one row."""
    kinds: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for m in matrices:
        layer = layer_of(m["name"]) if m["name"].startswith("blocks.") else ""
        kinds.setdefault((m["name"].removeprefix(layer), m["n_in"], m["n_out"], m["after"]), []).append(m)
    if not kinds:
        return []
    made = [
        f"{'matrix':16}{'shape':>10}{'std':>8}  {'1 keeps the variance':21}{'forward':>8}{'back':>7}{'Xavier':>8}",
    ]
    for (name, *_), rows in kinds.items():
        inside = name.startswith(".")
        m = sorted(rows, key=lambda m: m["forward"] or 0.0)[len(rows) // 2]
        where = spans([layer_of(row["name"]) for row in rows]).replace("blocks.", "") if inside else ""
        law = m["condition"] + (f" ({m['after']})" if m["after"] else "")
        ratio = m["variance"] / m["xavier"]
        std, shape = math.sqrt(m["variance"]), f"{m['n_in']}x{m['n_out']}"
        made.append(
            f"{where + name.removesuffix('.weight'):16}{shape:>10}{std:>8.2g}  {law:21}"
            f"{_plain(m['forward']):>8}{_plain(m['backward']):>7}{_plain(ratio):>8}"
        )
    return [*made, ""]


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _facts(found: Mapping[str, Any]) -> Iterator[str]:
    if found["loss"] is not None:
        theory = f" (theory {found['loss_predicted']:.4g})" if found["loss_predicted"] is not None else ""
        yield (
            f"first loss {found['loss']:.4g}{theory}; knowing nothing costs ln {found['vocab_size']:,} = "
            f"{found['ln_vocab']:.4g}"
        )
    factor = found["factor_a_layer"]
    parts = [
        f"{what} by {factor[what]:.2f}"
        + (f" (theory {factor[what + '_predicted']:.2f})" if factor[what + "_predicted"] is not None else "")
        for what in ("activations", "gradients")
        if factor[what] is not None
    ]
    if parts:
        yield f"the median layer multiplies {', '.join(parts)}, in standard deviations"
    rows = {row["name"]: row for row in found["modules"]}
    if found["depth"] and all(rows[name]["gradient"] == 0 for name in found["depth"]):
        yield "no gradient comes below the head yet: it starts at zero, on purpose, and the first step moves it alone"
    depth = [rows[name] for name in found["depth"]]
    if found["residual"] and len(depth) > 1 and depth[0]["variance"] and depth[-1]["variance"]:
        first, last = (depth[place]["variance_predicted"] for place in (0, -1))
        theory = f" (theory {last / first:.3g})" if first and last else ""
        grown = depth[-1]["variance"] / depth[0]["variance"]
        yield (
            f"the residual stream's variance grows {grown:.3g}-fold{theory} from the first layer to the last; branches "
            "of equal variance add up to 1 + l"
            if grown > 1.01
            else "the residual stream passes unchanged: branches start at zero, or near it"
        )
    heads = [(row["entropy"], row["entropy_predicted"]) for row in found["modules"] if row["entropy"] is not None]
    if heads:
        least, expected = min(heads, key=lambda pair: pair[0])
        predicted = f" (theory {expected:.2f})" if expected is not None else ""
        yield f"attention is spread over tokens: its entropy is at least {least:.2f} nats{predicted} in every layer"


def _verdict(found: Mapping[str, Any]) -> list[str]:
    if not found["findings"]:
        return _fold(f"{LEVELS['good']:6}{SOUND}", 6)
    made = []
    cures = [finding["cure"] for finding in found["findings"]]
    for finding, after in zip(found["findings"], [*cures[1:], ""], strict=True):
        words = f"{finding['where']}: {finding['words']}" if finding["where"] else finding["words"]
        made += _fold(f"{LEVELS[finding['level']]:6}{words}", 6)
        made += [f"{'':6}-> {finding['cure']}"] * bool(finding["cure"] != after and finding["cure"])
    if found["cure"] is not None:
        made += ["", f"measured with {found['cure']['settings']}:", *_fold(" " * 6 + _measured(found["cure"]), 6)]
    elif not any(cures):
        made += _fold(f"{'':6}no setting that was tried, neither a scheme nor another part, makes this better", 6)
    if found["next"]:
        made += ["next:", f"  {found['next']}"]
    return made


def _measured(cure: Mapping[str, Any]) -> str:
    factor = cure["factor_a_layer"]
    parts = [f"{what} times {factor[what]:.2f} a layer" for what in ("activations", "gradients") if factor[what]]
    parts += [f"first loss {cure['loss']:.4g}"] if cure["loss"] is not None else []
    return "; ".join([", ".join(parts), *(f"left: {finding['words']}" for finding in cure["left"])])


def _fold(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
