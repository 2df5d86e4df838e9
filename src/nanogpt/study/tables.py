"""The tables of a study's report, from its facts (report.py): head and rows of words, for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanogpt.study.plan import Plan
from nanogpt.study.verdict import percent, units

Table = tuple[list[str], list[list[str]]]
"""Head and rows."""


def tables(plan: Plan, found: Mapping[str, Any]) -> dict[str, Table]:
    """Title -> table, in the order of the report."""
    rows, verdicts = found["arms"], [*found["claims"], *found["against_control"]]
    made = {"Differences": differences(plan, verdicts)} if verdicts else {}
    if rows:
        made |= {"Losses": losses(plan, rows), "Cost": costs(rows), "Arms": arms(rows)}
    return made


def arms(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each arm is."""
    lines = [
        [
            row["arm"],
            row["about"],
            " ".join([*([row["preset"]] if row["preset"] else []), *row["settings"]]),
            row["solved"],
        ]
        for row in rows
    ]
    return ["arm", "about", "settings", "solved"], lines


def differences(plan: Plan, verdicts: Sequence[Mapping[str, Any]]) -> Table:
    """Every comparison by three intervals: the one its verdict rests on, that of this comparison alone, a bootstrap."""
    alone = percent(1 - plan.alpha)
    head = ["comparison", f"difference ({units(plan)})", "interval of the verdict", f"alone, {alone}",
            f"bootstrap, {alone}"]  # fmt: skip
    lines = [
        [one["comparison"], f"{one['mean']:+.4f}", f"{_span(one['interval'])}, {percent(one['confidence'])}",
         _span(one["interval_alone"]), _span(one["bootstrap"])]
        for one in verdicts
    ]  # fmt: skip
    return head, lines


def losses(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> Table:
    """With the published numbers where there are any."""
    has = any(row["reference"] is not None for row in rows)
    head = ["arm", f"test ({units(plan)})", "sd over seeds", "validation", "learning rate"]
    lines = [
        [row["arm"], f"{row['test']:.4f}", "" if row["sd"] is None else f"{row['sd']:.4f}", f"{row['val']:.4f}",
         "" if row["rate"] is None else f"{row['rate']:g}",
         *([_or_blank(row["reference"])] if has else [])]
        for row in rows
    ]  # fmt: skip
    return [*head, *(["published"] if has else [])], lines


def costs(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Of one run of each arm."""
    head = ["arm", "parameters", "training FLOPs", "seconds", "memory (MB)", "mismatch"]
    lines = [
        [row["arm"], f"{row['parameters']:,}", f"{row['training_flops']:.3g}", f"{row['seconds']:.1f}",
         "" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}", f"{row['mismatch']:+.2%}"]
        for row in rows
    ]  # fmt: skip
    return head, lines


def _or_blank(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _span(pair: Sequence[float]) -> str:
    return f"[{pair[0]:+.4f}, {pair[1]:+.4f}]"
