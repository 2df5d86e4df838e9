"""What a study found, as plain values and as Markdown. The page with its figures is views/study_page.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nanogpt.proportions import counted
from nanogpt.study.conduct import pilot_arms
from nanogpt.study.folder import Study
from nanogpt.study.matching import UNITS
from nanogpt.study.plan import Check, Claim, Plan
from nanogpt.study.tables import tables
from nanogpt.study.verdict import UNKNOWN, Reach, Verdict, percent, units

REPRODUCED, NOT_REPRODUCED, NOT_SETTLED, ANSWERED = "reproduced", "not reproduced", "not settled", "answered"


def facts(study: Study) -> dict[str, Any]:
    """Everything that the report says, for a program. Unfinished where a run is missing."""
    plan = study.plan
    numbers = _numbers(study)
    checks = [_check(one, numbers) for one in plan.checks]
    verdicts = [_verdict(one) for one in study.claims]
    misses = [f"{v['comparison']}: expected {v['expect']}; {v['sentence']}" for v in verdicts if not v["fits"]]
    misses += [check["sentence"] for check in checks if not check["holds"]]
    ending, answer = _ending(study, checks)
    return {
        "name": plan.name,
        "question": plan.question,
        "source": plan.source,
        "quick": plan.is_quick,
        "ending": ending,
        "answer": answer,
        "misses": misses,
        "claims": verdicts,
        "checks": checks,
        "against_control": [_verdict(one) for one in study.against_control],
        "against_control_is": exploratory(plan),
        "arms": [_arm(study, arm) for arm in plan.arms],
        "reach": reach_lines(plan, study.reach),
        "numbers": {k: v for one in study.measured().values() for k, v in one.numbers.items()},
        "findings": [line for one in study.measured().values() for line in one.findings],
        "not_controlled": not_controlled(study),
    }


def _ending(study: Study, checks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """In a word and in words. A claim that cannot be told yet refutes nothing, and neither does a number that is not
    there."""
    if not (study.claims or checks):
        return ANSWERED, ANSWERED
    open_ = [one for one in study.claims if one.word == UNKNOWN]
    refuted = any(not one.fits for one in study.claims if one.word != UNKNOWN)
    if refuted or any(not check["holds"] for check in checks if math.isfinite(check["got"])):
        return NOT_REPRODUCED, NOT_REPRODUCED
    if open_:
        return NOT_SETTLED, f"{NOT_SETTLED}: {max(open_, key=_how_far).more} would settle it"
    if any(not check["holds"] for check in checks):
        return NOT_SETTLED, f"{NOT_SETTLED}: not everything could be measured"
    return REPRODUCED, REPRODUCED


def _how_far(one: Verdict) -> float:
    return math.inf if one.more_seeds is None else one.more_seeds


def exploratory(plan: Plan) -> str:
    """What the comparisons with the control are: the study's answer, unless it has claims."""
    if not plan.claims:
        return "primary"
    return f"exploratory: it decides nothing, and has false alarms of its own, {plan.alpha:.0%} over all of them"


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
    low, high = one.bounds
    holds = low <= got <= high
    wanted = f"{one.reference:g} ± {one.tolerance:g}" if one.tolerance is not None else bounds(low, high)
    by = f", off by {max(low - got, got - high):.4g}" if not holds and math.isfinite(got) else ""
    missing = "" if math.isfinite(got) else " (not measured)"
    sentence = f"{one.says or one.number}: {_precise(got, one.tolerance)}{missing}, expected {wanted}{by}"
    return {"number": one.number, "says": one.says, "got": got, "reference": one.reference, "low": low, "high": high,
            "holds": bool(holds), "sentence": sentence}  # fmt: skip


def _precise(got: float, tolerance: float | None) -> str:
    """With as many digits as it is held to, and at least four."""
    if tolerance is None or not got or not math.isfinite(got):
        return f"{got:.4g}"
    digits = 12 if tolerance == 0 else math.floor(math.log10(abs(got))) - math.floor(math.log10(tolerance)) + 1
    return f"{got:.{max(4, digits)}g}"


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
        "interval": list(one.interval),
        "confidence": one.confidence,
        "interval_alone": [one.estimate.low, one.estimate.high],
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
        "preset": study.plan.arms[name].preset,
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
        "memory": int(np.median(memory)) if memory else None,
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
    if len(fixed.batches) > 1:
        said = "; ".join(f"{what} in {_names(arms)}" for what, arms in fixed.batches.items())
        lines.append(f"the arms do not read the same batches: {said}")
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


def _names(arms: Sequence[str]) -> str:
    return ", ".join(arms) if len(arms) <= 4 else f"{len(arms)} arms"


def reach_lines(plan: Plan, found: Reach | None) -> list[str]:
    """What the study could tell before it ran."""
    if found is None:
        return []
    lines = [
        f"noise of one paired difference: {found.noise:.3g} {units(plan)} ({found.source})",
        f"noise floor with {counted(found.seeds, 'seed')}: a {percent(1 - plan.alpha)} interval of ±{found.floor:.3g}",
        f"smallest difference found {plan.power:.0%} of the time: {found.detectable:.3g}; margin {plan.margin:g}",
    ]
    pair = f"{', '.join(pilot_arms(plan))} at the middle of their rates" if plan.pilot else "two single arms"
    if plan.pilot or any(of_many(plan, claim) for claim in plan.claims):
        lines.append(f"that noise is of {pair}: a claim over means of several arms, or over spreads, has another, and "
                     "may tell less or more than this says")  # fmt: skip
    return lines


def of_many(plan: Plan, claim: Claim) -> bool:
    """Whether its differences are of more than two single arms."""
    return claim.of == "spread" or max(len(plan.named(claim.left)), len(plan.named(claim.right))) > 1


# ---- Markdown


def markdown(study: Study, found: Mapping[str, Any]) -> str:
    """The report without its figures, from its facts."""
    plan = study.plan
    how = f"**{found['answer']}**" + (" (in its quick form)" if plan.is_quick else "")
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
        rows = [[v["comparison"], v["sentence"]] for v in found["against_control"]]
        parts.append(f"## Each arm against {plan.control}")
        parts += ([found["against_control_is"]] if plan.claims else []) + [_table(["arm", "verdict"], rows)]
    for title, (head, rows) in tables(plan, found).items():
        parts += [f"## {title}", _table(head, rows)]
        if title == "Losses" and plan.reference:
            parts.append(f"published: {plan.reference}")
    parts += ["## The plan, as it was fixed", _list(plan_lines(study)), "## What was not controlled"]
    parts.append(_list(found["not_controlled"]) if found["not_controlled"] else "Nothing is known.")
    return "\n\n".join(parts) + "\n"


def plan_lines(study: Study) -> list[str]:
    plan = study.plan
    lines = [f"base: {plan.preset} {' '.join(plan.set)}".strip()]
    if plan.arms:
        same = ", the same batches in every arm" if len(study.fixed.batches) == 1 else ""
        lines.append(f"seeds {', '.join(map(str, plan.seeds))}{same}")
        family = "the claims" if plan.claims else "the arms"
        lines.append(f"primary: {plan.metric} on the test split ({units(plan)}), paired t intervals, Holm over "
                     f"{family}, false alarms {plan.alpha:.0%}, margin {plan.margin:g}")  # fmt: skip
    if plan.match != "none":
        lines.append(f"matched: {UNITS[plan.match]}, within {plan.tolerance:.1%}")
    if plan.sweep:
        rates = ", ".join(f"{rate:g}" for rate in plan.sweep.lr)
        seeds = counted(plan.sweep.seeds, "seed")
        lines.append(f"{plan.sweep.key}: {rates} for each arm, chosen on validation with {seeds} of their own, "
                     f"edges widened up to {plan.sweep.widen} times")  # fmt: skip
    lines += reach_lines(plan, study.reach)
    lines += [f"claim: {one.says} (expected: {one.expect})" for one in plan.claims]
    return lines + [f"check: {one.says or one.number}" for one in plan.checks]


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
