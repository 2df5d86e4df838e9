"""Plans from names, files and tables: `read("glu", quick=True)`, and one line for whatever cannot work."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nanogpt.errors import UserError, nearest
from nanogpt.study.checking import check
from nanogpt.study.plan import Arm, Check, Claim, Patterns, Plan, Section, Sweep

SECTIONS: dict[str, type[Section]] = {"arms": Arm, "sweep": Sweep, "claims": Claim, "checks": Check}


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
    try:
        changes = _changes(table.pop("quick", {}))
        return check(Plan.model_validate(_quick(table, changes) if quick else table))
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


def _changes(quick: Any) -> Mapping[str, Any]:
    if not isinstance(quick, Mapping):
        raise UserError(f"quick={str(quick)[:40]}: should be a table of what is different, as in [quick]")
    for key, value in quick.items():
        if key not in Plan.model_fields:
            raise UserError(f"no key 'quick.{key}'{nearest(key, Plan.model_fields)}")
        if key in ("set", "arms") and not (isinstance(value, list) and all(isinstance(word, str) for word in value)):
            raise UserError(f'quick.{key}: should be a list of words in quotes, as in ["..."]')
    return quick


def _quick(table: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as `[quick]` changes it: values are replaced, `set` is added to, `arms` are patterns of those kept."""
    kept = changes.get("arms")
    table = {**table, **{k: v for k, v in changes.items() if k not in ("set", "arms")}}
    table |= {"is_quick": True, "name": f"{table.get('name')}-quick"}
    whole = Plan.model_validate(table)
    table["set"] = [*whole.set, *changes.get("set", [])]
    if kept is None:
        return table
    for pattern in kept:
        if not whole.named([pattern]):
            raise UserError(f"quick.arms: no arm '{pattern}'{nearest(pattern, whole.arms)}")
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
