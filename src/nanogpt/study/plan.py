"""The plan of a study: what is compared with what, at which cost, how often, and what would count as an answer.

A plan is a small TOML file, or `Plan(...)` in Python. Everything that could be bent after the results are known (the
primary measurement, the test, the margin, the criterion of "reproduced") is a field of it, so it is fixed before.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nanogpt.config import presets
from nanogpt.errors import UserError, nearest

NAME = re.compile(r"[A-Za-z0-9_][\w.+-]{0,60}")
"""Of an arm: it becomes part of the name of a folder."""
SWEEP_SEEDS, PILOT_SEEDS = 1000, 2000
"""Learning rates are chosen on seeds from 1001, a pilot has those from 2001; the claim has 1, 2, ... or those named."""
Budget = Literal["none", "params", "flops", "tokens", "seconds"]
Expected = Literal["better", "worse", "equivalent", "not worse", "different"]
Statistic = Literal["mean", "spread"]
Patterns = list[str]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Arm(Section):
    """One of the things that are compared: named changes of the base."""

    set: list[str] = Field([], description="overrides, as on the command line: model.ffn=geglu")
    preset: str | None = Field(None, description="another preset than the study's")
    solve: str | None = Field(None, description="the whole number that is solved for so that the budget is met")
    lr: list[float] | None = Field(None, description="learning rates to begin the sweep with, where they differ")
    reference: float | None = Field(None, description="the published number, shown beside ours")
    about: str = Field("", description="a few words")

    def then(self, other: Arm) -> Arm:
        """Both: settings one after the other, of single values the later one."""
        later = {key: value for key, value in other.model_dump().items() if value not in (None, "", [])}
        return self.model_copy(update={**later, "set": [*self.set, *other.set]})


class Sweep(Section):
    """Learning rates, tried for each arm on seeds of their own; the best one on validation is the arm's."""

    lr: list[float] = Field(description="at least three, evenly spaced on a log scale; an edge that wins is widened")
    seeds: int = Field(1, ge=1, le=100, description="runs of each rate, on seeds that the claim never sees")
    widen: int = Field(3, ge=0, le=20, description="times that a winning edge may be widened")
    key: str = Field("optim.optimizer.lr", description="what is swept")

    @model_validator(mode="after")
    def _spaced(self) -> Sweep:
        check_rates(self.lr)
        return self


class Claim(Section):
    """One comparison that the study is for: a statistic of the arms on the left minus that of those on the right.

    left, right: names of arms, or patterns of them (`*-none`). of: their mean, or their spread (largest minus
    smallest: how much the choice among them matters). expect: the verdict under which the claim counts as reproduced.
    """

    says: str
    left: Patterns
    right: Patterns
    expect: Expected = "better"
    of: Statistic = "mean"


class Check(Section):
    """A number beside a published one or between bounds: what else has to hold for "reproduced".

    number: `test/ARM`, `val/ARM` (mean over seeds, nats per token), `params/ARM`, or one that `measure` answers.
    """

    number: str
    says: str = ""
    reference: float | None = None
    tolerance: float | None = Field(None, ge=0, description="largest distance from the reference")
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _can_fail(self) -> Check:
        if self.at_least is None and self.at_most is None and (self.reference is None or self.tolerance is None):
            raise ValueError(f"{self.number}: needs reference and tolerance, or at_least or at_most")
        return self


class Plan(Section):
    """A study before it has run. See docs/studies.md; `nanogpt study plan NAME` says what it would cost and tell."""

    name: str = Field(description="of its folder", pattern=r"^[A-Za-z0-9_][\w.-]*$")
    question: str = Field(description="one sentence that ends in a question mark")
    source: str = Field("", description="the paper or lecture")
    preset: str = Field("modern", description="the base of every arm")
    set: list[str] = Field([], description="overrides of every arm")
    arms: dict[str, Arm] = Field({}, description="name -> changes of the base")
    control: str | None = Field(None, description="the arm with which each other one is compared")
    match: Budget = Field("none", description="what every arm may spend as much of as the control")
    tolerance: float = Field(0.01, gt=0, lt=1, description="largest share by which a budget may be missed")
    seeds: list[int] = Field(description="of the claim; a number n stands for 1 ... n")
    metric: Literal["loss", "bpb"] = Field("loss", description="on the test split; bpb where tokenizers differ")
    margin: float = Field(0.02, gt=0, description="the smallest difference that would matter, in units of the metric")
    noise: float | None = Field(None, gt=0, description="assumed standard deviation of a difference between two seeds")
    noise_from: str = Field("", description="where that number comes from")
    pilot: int = Field(0, ge=0, le=100, description="instead of noise: seeds of a pilot that measures it")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="false alarms that are accepted, over all claims (or arms)")
    power: float = Field(0.8, gt=0.5, lt=1, description="chance to find a difference as large as the margin")
    sweep: Sweep | None = Field(None, description="none: each arm's own learning rate is what it is")
    claims: list[Claim] = Field([], description="the criterion of 'reproduced', beside checks")
    checks: list[Check] = []
    reference: str = Field("", description="what the arms' reference numbers are")
    measure: list[str] = Field(
        [], description="functions FILE.py:NAME beside this file, called when all runs are there"
    )
    not_controlled: list[str] = Field([], description="what the author knows to be left open")
    is_quick: bool = Field(False, description="whether it is the quick form")
    folder: str = Field("", description="where this file lies; measure is looked for there")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """`seeds = 5`; an arm that is only a list of overrides; `[grid]`, whose product is the arms."""
        if not isinstance(data, Mapping):
            return data
        found = dict(data)
        if isinstance(found.get("seeds"), int):
            found["seeds"] = list(range(1, found["seeds"] + 1))
        arms = {name: _arm(value) for name, value in dict(found.get("arms") or {}).items()}
        found["arms"] = {**arms, **_product(found.pop("grid", {}))}
        return found

    def named(self, patterns: Iterable[str]) -> list[str]:
        """Arms that one of the patterns fits, in the plan's order."""
        return [arm for arm in self.arms if any(fnmatchcase(arm, pattern) for pattern in patterns)]


SECTIONS: dict[str, type[Section]] = {"arms": Arm, "sweep": Sweep, "claims": Claim, "checks": Check}


def _arm(value: Any) -> Any:
    return {"set": list(value)} if isinstance(value, (list, tuple)) else value


def _product(grid: Mapping[str, Mapping[str, Any]]) -> dict[str, Arm]:
    """Every combination of one word from each axis, named `xavier-residual`."""
    if not grid:
        return {}
    arms = {}
    for choice in product(*(axis.items() for axis in grid.values())):
        made = Arm.model_validate({})
        for _, value in choice:
            made = made.then(Arm.model_validate(_arm(value)))
        arms["-".join(word for word, _ in choice)] = made
    return arms


def check_rates(rates: list[float]) -> None:
    """Refuse what cannot be swept: a peak needs a rate on each side of it."""
    if len(rates) < 3 or any(rate <= 0 for rate in rates) or sorted(set(rates)) != rates:
        raise ValueError("lr: at least three rates, each above the one before; as in [1e-3, 3e-3, 1e-2]")


# ---- reading


def builtin() -> dict[str, Path]:
    """Name -> TOML file of every study that comes with nanogpt."""
    folder = Path(str(resources.files("nanogpt.study") / "builtin"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read(what: str | Path | Mapping[str, Any] | Plan, *, quick: bool = False) -> Plan:
    """A plan: one of ours by name, a TOML file, a table of the same form, or a Plan as it is.

    quick: as `[quick]` in the file changes it. Raises UserError, one line, for whatever cannot work.
    """
    if isinstance(what, Plan):
        return check(what)
    table = _read_file(what) if isinstance(what, (str, Path)) else dict(what)
    changes = table.pop("quick", {})
    if quick:
        table = _quick(table, changes)
    try:
        return check(Plan.model_validate(table))
    except ValidationError as error:
        raise UserError(f"{table.get('name', 'the study')}: {explain(error)}") from None


def _read_file(what: str | Path) -> dict[str, Any]:
    known = builtin()
    path = known.get(str(what), Path(what))
    if path.suffix != ".toml":
        raise UserError(f"no study '{what}'{nearest(str(what), known)}; your own is a .toml file (docs/studies.md)")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the study {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from None
    return {"name": path.stem, "folder": str(path.parent.resolve()), **table}


def _quick(table: dict[str, Any], changes: Any) -> dict[str, Any]:
    """The plan as `[quick]` changes it: values are replaced, `set` is added to, `arms` are patterns of those kept."""
    if not isinstance(changes, Mapping):
        raise UserError("quick: a table of what is different")
    kept = changes.get("arms")
    table = {**table, **{k: v for k, v in changes.items() if k not in ("set", "arms")}}
    table |= {"is_quick": True, "name": f"{table.get('name')}-quick"}
    table["set"] = [*table.get("set", []), *changes.get("set", [])]
    if kept is None:
        return table
    whole = Plan.model_validate(table)
    arms = {name: whole.arms[name] for name in whole.named(kept)}
    table.pop("grid", None)
    claims = [_among(arms, claim) for claim in whole.claims if _some(arms, claim.left) and _some(arms, claim.right)]
    checks = [c for c in whole.checks if c.number.partition("/")[2] not in set(whole.arms) - set(arms)]
    return {**table, "arms": arms, "claims": claims, "checks": checks}


def _among(arms: Iterable[str], claim: Claim) -> Claim:
    """The claim, of those of its arms that are kept."""
    sides = {side: [p for p in getattr(claim, side) if _some(arms, [p])] for side in ("left", "right")}
    return claim.model_copy(update=sides)


def _some(arms: Iterable[str], patterns: Patterns) -> bool:
    return any(fnmatchcase(arm, pattern) for arm in arms for pattern in patterns)


def explain(error: ValidationError) -> str:
    """Pydantic's first complaint as one line with what would do."""
    first = error.errors()[0]
    place = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        owner = SECTIONS.get(str(first["loc"][0]), Plan)
        return f"no key '{place}'{nearest(str(first['loc'][-1]), owner.model_fields)}"
    if first["type"] == "missing":
        return f"{place}: needs a value"
    if first["type"] == "literal_error":
        return f"{place}={first['input']}: {first['msg'][0].lower()}{first['msg'][1:]}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


# ---- what no run is needed to refuse


def check(plan: Plan) -> Plan:
    """Refuse what cannot work and can be seen without building a model."""
    at = f"study {plan.name}"
    for name, arm in plan.arms.items():
        if not NAME.fullmatch(name):
            raise UserError(f"{at}: arm '{name}': a name is letters, digits, _ . + -, as it becomes a folder's")
        known = presets()
        preset = arm.preset or plan.preset
        if preset not in known and not preset.endswith((".toml", ".json")):
            raise UserError(f"{at}: arm {name}: no preset '{preset}'{nearest(preset, known)}")
        if arm.lr is not None:
            try:
                check_rates(arm.lr)
            except ValueError as error:
                raise UserError(f"{at}: arm {name}: {error}") from None
    if plan.control is not None and plan.control not in plan.arms:
        raise UserError(f"{at}: control: no arm '{plan.control}'{nearest(plan.control, plan.arms)}")
    for claim in plan.claims:
        _check_claim(at, plan, claim)
    _check_numbers(at, plan)
    _check_seeds(at, plan)
    if plan.match != "none" and plan.control is None:
        raise UserError(f"{at}: match={plan.match}: needs a control, whose {plan.match} the others get")
    if not plan.arms and not plan.measure:
        raise UserError(f"{at}: nothing to do: no arms and no measure")
    return plan


def _check_claim(at: str, plan: Plan, claim: Claim) -> None:
    for side, patterns in (("left", claim.left), ("right", claim.right)):
        for pattern in patterns:
            if not plan.named([pattern]):
                raise UserError(f"{at}: claim '{claim.says}': {side}: no arm '{pattern}'{nearest(pattern, plan.arms)}")
        if claim.of == "spread" and len(plan.named(patterns)) < 2:
            raise UserError(f"{at}: claim '{claim.says}': {side}: a spread needs at least two arms")
    if both := set(plan.named(claim.left)) & set(plan.named(claim.right)):
        raise UserError(f"{at}: claim '{claim.says}': {min(both)} stands on both sides")


def _check_numbers(at: str, plan: Plan) -> None:
    for one in plan.checks:
        kind, slash, arm = one.number.partition("/")
        if slash and kind in ("test", "val", "params") and arm not in plan.arms:
            raise UserError(f"{at}: check of {one.number}: no arm '{arm}'{nearest(arm, plan.arms)}")


def _check_seeds(at: str, plan: Plan) -> None:
    if len(set(plan.seeds)) != len(plan.seeds):
        raise UserError(f"{at}: seeds: the same seed twice is one run, not two")
    if any(not 0 <= seed <= SWEEP_SEEDS for seed in plan.seeds):
        raise UserError(f"{at}: seeds: from 0 to {SWEEP_SEEDS}; those above choose learning rates")
    if plan.arms and not plan.seeds:
        raise UserError(f"{at}: seeds: needs at least one")
    compared = plan.claims or (plan.control is not None and len(plan.arms) > 1)
    if compared and len(plan.seeds) < 2:
        raise UserError(f"{at}: seeds=1: one pair has no spread, so nothing can be told from it; at least: seeds=2")
    if compared and plan.noise is None and plan.pilot < 2:
        raise UserError(
            f"{at}: what can be told depends on the noise between seeds: give noise=0.01 (assumed) or pilot=3"
        )


__all__ = ["Arm", "Budget", "Check", "Claim", "Plan", "Sweep", "builtin", "check", "read"]
