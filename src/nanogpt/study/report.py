"""What a study found, as plain values and as Markdown. The page with its figures is views/study_page.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nanogpt.study.folder import Study
from nanogpt.study.matching import UNITS
from nanogpt.study.plan import Check, Plan
from nanogpt.study.verdict import Reach, Verdict, units

REPRODUCED, NOT_REPRODUCED, ANSWERED = "reproduced", "not reproduced", "answered"


def facts(study: Study) -> dict[str, Any]:
    """Everything that the report says, for a program. Unfinished where a run is missing."""
    plan = study.plan
    numbers = _numbers(study)
    checks = [_check(one, numbers) for one in plan.checks]
    verdicts = [_verdict(one) for one in study.claims]
    misses = [f"{v['comparison']}: expected {v['expect']}; {v['sentence']}" for v in verdicts if not v["fits"]]
    misses += [check["sentence"] for check in checks if not check["holds"]]
    ending = ANSWERED if not (verdicts or checks) else NOT_REPRODUCED if misses else REPRODUCED
    return {
        "name": plan.name,
        "question": plan.question,
        "source": plan.source,
        "quick": plan.is_quick,
        "ending": ending,
        "misses": misses,
        "claims": verdicts,
        "checks": checks,
        "against_control": [_verdict(one) for one in study.against_control],
        "arms": [_arm(study, arm) for arm in plan.arms],
        "reach": reach_lines(plan, study.reach),
        "numbers": {k: v for one in study.measured().values() for k, v in one.numbers.items()},
        "findings": [line for one in study.measured().values() for line in one.findings],
        "not_controlled": not_controlled(study),
    }


def _numbers(study: Study) -> dict[str, float]:
    """What checks may name."""
    found = {name: value for one in study.measured().values() for name, value in one.numbers.items()}
    for arm, scores in study.outcome.scores.items():
        for split in ("val", "test"):
            found[f"{split}/{arm}"] = float(np.mean([s.of(split, study.plan.metric) for s in scores.values()]))
        found[f"params/{arm}"] = float(study.fixed.arms[arm].parameters)
    return found


def _check(one: Check, numbers: Mapping[str, float]) -> dict[str, Any]:
    """One number of the criterion: whether it holds, and by how much not."""
    got = numbers.get(one.number, math.nan)
    low = one.reference - one.tolerance if one.reference is not None and one.tolerance is not None else -math.inf
    high = one.reference + one.tolerance if one.reference is not None and one.tolerance is not None else math.inf
    low, high = max(low, _or(one.at_least, -math.inf)), min(high, _or(one.at_most, math.inf))
    holds = low <= got <= high
    wanted = f"{one.reference:g} ± {one.tolerance:g}" if one.tolerance is not None else bounds(low, high)
    by = f", off by {max(low - got, got - high):.4g}" if not holds and math.isfinite(got) else ""
    missing = "" if math.isfinite(got) else " (not measured)"
    sentence = f"{one.says or one.number}: {got:.4g}{missing}, expected {wanted}{by}"
    return {"number": one.number, "says": one.says, "got": got, "reference": one.reference, "low": low, "high": high,
            "holds": bool(holds), "sentence": sentence}  # fmt: skip


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def bounds(low: float, high: float) -> str:
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def _verdict(one: Verdict) -> dict[str, Any]:
    return {
        "comparison": one.comparison.name,
        "left": list(one.comparison.left),
        "right": list(one.comparison.right),
        "of": one.comparison.of,
        "expect": one.comparison.expect,
        "word": one.word,
        "sentence": one.sentence,
        "fits": one.fits if one.comparison.expect else None,
        "mean": one.estimate.mean,
        "sd": one.estimate.sd,
        "interval": [one.estimate.low, one.estimate.high],
        "interval_of_all": list(one.wide),
        "bootstrap": list(one.bootstrapped),
        "differences": list(one.differences),
        "p_holm": one.p,
        "p_equivalence_holm": one.p_matters,
        "seeds_needed": one.seeds_needed,
    }


def _arm(study: Study, name: str) -> dict[str, Any]:
    """One row of the tables of losses and of costs."""
    arm, scores = study.fixed.arms[name], study.scores(name)
    metric = study.plan.metric
    tested = [one.of("test", metric) for one in scores.values()]
    choice = study.outcome.rates.get(name)
    memory = [one.memory for one in scores.values() if one.memory is not None]
    return {
        "arm": name,
        "about": study.plan.arms[name].about,
        "settings": study.plan.arms[name].set,
        "solved": arm.solved,
        "mismatch": arm.mismatch,
        "rate": choice.rate if choice else None,
        "rate_on_edge": choice.edge if choice else None,
        "tried": {f"{rate:g}": loss for rate, loss in choice.tried.items()} if choice else {},
        "test": float(np.mean(tested)),
        "sd": float(np.std(tested, ddof=1)) if len(tested) > 1 else None,
        "val": float(np.mean([one.of("val", metric) for one in scores.values()])),
        "by_seed": {str(seed): one.of("test", metric) for seed, one in scores.items()},
        "reference": study.plan.arms[name].reference,
        "parameters": arm.parameters,
        "training_flops": arm.training_flops,
        "tokens": arm.tokens,
        "seconds": float(np.median([one.seconds for one in scores.values()])),
        "memory": max(memory) if memory else None,
        "diverged": sum(one.diverged for one in scores.values()),
    }


def not_controlled(study: Study) -> list[str]:
    """What the verdicts do not answer for, as far as the engine can see, and what the author knows."""
    plan, fixed = study.plan, study.fixed
    lines = []
    missed = {name: arm.mismatch for name, arm in fixed.arms.items() if abs(arm.mismatch) > 0.0005}
    if missed:
        said = ", ".join(f"{name} {share:+.2%}" for name, share in missed.items())
        lines.append(f"{UNITS[plan.match]} are not quite equal: {said} against {plan.control}")
    if plan.match == "none" and len({arm.parameters for arm in fixed.arms.values()}) > 1:
        lines.append("the arms have different numbers of parameters, and no budget was matched")
    edges = [arm for arm, choice in study.outcome.rates.items() if choice.edge]
    if edges:
        lines.append(f"the best learning rate was still at the edge of those tried: {', '.join(edges)}")
    if plan.sweep is None and len(plan.arms) > 1:
        lines.append("learning rates were not swept: each arm has the one of its preset")
    elif plan.sweep is not None:
        lines.append("of the optimizer only the learning rate was tuned for each arm; all else is as in the base")
    other = {name: arm.shared for name, arm in fixed.arms.items() if arm.shared < 0.9995}
    if other and plan.control:
        said = ", ".join(f"{name} {share:.0%}" for name, share in other.items())
        lines.append(f"initial weights are {plan.control}'s only where name and shape agree: {said} of the parameters")
    for arm, scores in study.outcome.scores.items():
        if lost := [str(seed) for seed, one in scores.items() if one.diverged]:
            lines.append(f"{arm} diverged with seed {', '.join(lost)}: counted as the uniform guess, ln(vocabulary)")
    if plan.arms:
        lines.append("one text, one size, one length of training: what holds here may not hold elsewhere")
    return [*lines, *plan.not_controlled]


def reach_lines(plan: Plan, found: Reach | None) -> list[str]:
    """What the study could tell before it ran."""
    if found is None:
        return []
    return [
        f"noise of one paired difference: {found.noise:.3g} {units(plan)} ({found.source})",
        f"noise floor with {found.seeds} seeds: an interval of ±{found.floor:.3g}",
        f"smallest difference found {plan.power:.0%} of the time: {found.detectable:.3g}; margin {plan.margin:g}",
    ]


# ---- Markdown


def markdown(study: Study, found: Mapping[str, Any]) -> str:
    """The report without its figures, from its facts."""
    plan = study.plan
    how = f"**{found['ending']}**" + (" in its quick form" if plan.is_quick else "")
    parts = [f"# {plan.name}: {plan.question}", how + (f" ({plan.source})" if plan.source else "")]
    if found["misses"]:
        parts.append(_list(found["misses"]))
    if found["claims"]:
        rows = [[v["comparison"], v["expect"], v["sentence"]] for v in found["claims"]]
        parts += ["## Claims", _table(["claim", "expected", "verdict"], rows)]
    if found["checks"]:
        rows = [[c["sentence"], "holds" if c["holds"] else "does not hold"] for c in found["checks"]]
        parts += ["## Checks", _table(["number", ""], rows)]
    if found["findings"]:
        parts += ["## Findings", _list(found["findings"])]
    if found["against_control"]:
        rows = [[v["comparison"], v["sentence"], _span(v["bootstrap"])] for v in found["against_control"]]
        parts += [f"## Each arm against {plan.control}", _table(["arm", "verdict", "bootstrap"], rows)]
    if found["arms"]:
        parts += ["## Losses", _table(*losses(plan, found["arms"])), "## Cost", _table(*costs(found["arms"]))]
        if plan.reference:
            parts.insert(-2, f"published: {plan.reference}")
    parts += ["## The plan, as it was fixed", _list(plan_lines(study)), "## What was not controlled"]
    parts.append(_list(found["not_controlled"]) if found["not_controlled"] else "Nothing is known.")
    return "\n\n".join(parts) + "\n"


def plan_lines(study: Study) -> list[str]:
    plan = study.plan
    lines = [f"base: {plan.preset} {' '.join(plan.set)}".strip()]
    if plan.arms:
        lines.append(f"seeds {', '.join(map(str, plan.seeds))}, the same batches in every arm")
        lines.append(f"primary: {plan.metric} on the test split ({units(plan)}), paired t intervals, Holm over "
                     f"comparisons, false alarms {plan.alpha:.0%}, margin {plan.margin:g}")  # fmt: skip
    if plan.match != "none":
        lines.append(f"matched: {UNITS[plan.match]}, within {plan.tolerance:.1%}")
    if plan.sweep:
        rates = ", ".join(f"{rate:g}" for rate in plan.sweep.lr)
        lines.append(f"{plan.sweep.key}: {rates} for each arm, chosen on validation with {plan.sweep.seeds} seed(s) of "
                     f"their own, edges widened up to {plan.sweep.widen} times")  # fmt: skip
    lines += reach_lines(plan, study.reach)
    lines += [f"claim: {one.says} (expected: {one.expect})" for one in plan.claims]
    return lines + [f"check: {one.says or one.number}" for one in plan.checks]


def losses(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of losses, with the published numbers where there are any."""
    has = any(row["reference"] is not None for row in rows)
    head = ["arm", f"test ({units(plan)})", "sd over seeds", "validation", "learning rate"]
    lines = [
        [row["arm"], f"{row['test']:.4f}", "" if row["sd"] is None else f"{row['sd']:.4f}", f"{row['val']:.4f}",
         "" if row["rate"] is None else f"{row['rate']:g}",
         *([_or_blank(row["reference"])] if has else [])]
        for row in rows
    ]  # fmt: skip
    return [*head, *(["published"] if has else [])], lines


def costs(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of costs."""
    head = ["arm", "parameters", "training FLOPs", "seconds", "memory (MB)", "solved", "mismatch"]
    lines = [
        [row["arm"], f"{row['parameters']:,}", f"{row['training_flops']:.3g}", f"{row['seconds']:.1f}",
         "" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}", row["solved"], f"{row['mismatch']:+.2%}"]
        for row in rows
    ]  # fmt: skip
    return head, lines


def _or_blank(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _span(pair: Sequence[float]) -> str:
    return f"[{pair[0]:+.4f}, {pair[1]:+.4f}]"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
