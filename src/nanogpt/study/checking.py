"""What is refused in a plan because it cannot work, and is seen without building a model; fixing.py has the rest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from nanogpt.config import presets
from nanogpt.errors import UserError, nearest
from nanogpt.study.plan import SWEEP_SEEDS, Claim, Plan

NAME = re.compile(r"[A-Za-z0-9_][\w.+-]{0,60}")
"""Of an arm: it becomes part of the name of a folder."""
MEASURE = re.compile(r"[^:]+\.py:[A-Za-z_]\w*")
KINDS = ("test", "val", "params")
"""Numbers of an arm that a check may name."""


def check(plan: Plan) -> Plan:
    """The plan. UserError, in one line, for what cannot work."""
    try:
        _check_arms(plan)
        for claim in plan.claims:
            _check_claim(plan, claim)
        _once("claim", (claim.says for claim in plan.claims))
        _check_measures(plan)
        _check_numbers(plan)
        _check_seeds(plan)
        _check_noise(plan)
    except UserError as error:
        raise UserError(f"study {plan.name}: {error}") from None
    return plan


def _check_arms(plan: Plan) -> None:
    known = presets()
    for name, arm in plan.arms.items():
        if not NAME.fullmatch(name):
            raise UserError(f"arm '{name}': a name is letters, digits, _ . + -, at most 61, as it becomes a folder's")
        preset = arm.preset or plan.preset
        if preset not in known and not preset.endswith((".toml", ".json")):
            raise UserError(f"arm {name}: no preset '{preset}'{nearest(preset, known)}")
    if plan.control is not None and plan.control not in plan.arms:
        raise UserError(f"control: no arm '{plan.control}'{nearest(plan.control, plan.arms)}")
    if plan.match != "none" and plan.control is None:
        raise UserError(f"match={plan.match}: needs a control, whose {plan.match} the others get")
    if not plan.arms and not plan.measure:
        raise UserError("nothing to do: no arms and no measure")


def _check_claim(plan: Plan, claim: Claim) -> None:
    for side, patterns in (("left", claim.left), ("right", claim.right)):
        at = f"claim '{claim.says}': {side}"
        if not patterns:
            raise UserError(f"{at}: needs at least one arm{nearest('', plan.arms)}")
        for pattern in patterns:
            if not plan.named([pattern]):
                raise UserError(f"{at}: no arm '{pattern}'{nearest(pattern, plan.arms)}")
        if claim.of == "spread" and len(plan.named(patterns)) < 2:
            raise UserError(f"{at}: a spread needs at least two arms")
    if both := set(plan.named(claim.left)) & set(plan.named(claim.right)):
        raise UserError(f"claim '{claim.says}': {min(both)} stands on both sides")


def _check_measures(plan: Plan) -> None:
    for name in plan.measure:
        if not MEASURE.fullmatch(name):
            raise UserError(f"measure={name}: a function in a file beside the plan, as in mine.py:count")
    _once("measure", (name.rpartition(":")[2] for name in plan.measure))


def _check_numbers(plan: Plan) -> None:
    """What `measure` will answer is not known yet; all else has to be there."""
    for one in plan.checks:
        kind, slash, arm = one.number.partition("/")
        if kind in KINDS and slash and arm not in plan.arms:
            raise UserError(f"check of {one.number}: no arm '{arm}'{nearest(arm, plan.arms)}")
        if kind not in KINDS and arm in plan.arms:
            raise UserError(f"check of {one.number}: no number '{kind}' of an arm{nearest(kind, KINDS)}")
        if not plan.measure and not (kind in KINDS and slash):
            numbers = [f"{kind}/{arm}" for arm in plan.arms for kind in KINDS]
            raise UserError(f"check of {one.number}: nothing measures that{nearest(one.number, numbers)}")


def _once(what: str, names: Iterable[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{what} '{twice[0]}': there are two of this name; the report could not tell them apart")


def _check_seeds(plan: Plan) -> None:
    if len(set(plan.seeds)) != len(plan.seeds):
        raise UserError("seeds: the same seed twice is one run, not two")
    if any(not 0 <= seed <= SWEEP_SEEDS for seed in plan.seeds):
        raise UserError(f"seeds: from 0 to {SWEEP_SEEDS}; those above choose learning rates")
    if plan.arms and not plan.seeds:
        raise UserError("seeds: needs at least one")
    if _compares(plan) and len(plan.seeds) < 2:
        raise UserError("seeds=1: one pair has no spread, so nothing can be told from it; at least: seeds=2")


def _compares(plan: Plan) -> bool:
    return bool(plan.claims) or (plan.control is not None and len(plan.arms) > 1)


def _check_noise(plan: Plan) -> None:
    """It decides what a study can tell: it has one source."""
    if plan.pilot and plan.noise is not None:
        raise UserError("pilot and noise: a pilot measures the noise, so only one of them; what would do: pilot=0")
    if plan.pilot and (plan.pilot < 2 or len(plan.arms) < 2):
        raise UserError("pilot: measures the spread of differences: it needs two arms, and at least pilot=2 (better 5)")
    if not plan.pilot and plan.noise is None and _compares(plan):
        raise UserError("what can be told depends on the noise between seeds: give noise=0.01 (assumed) or pilot=5")
    if plan.noise is not None and not plan.noise_from:
        raise UserError(
            f'noise={plan.noise:g}: where is it from? as in noise_from = "three seeds of {next(iter(plan.arms))}"'
        )
