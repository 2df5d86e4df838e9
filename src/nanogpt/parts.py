"""Text -> part: how every axis (mixers, norms, optimizers, tokenizers, ...) builds what a spec describes.

A part is a class with keyword arguments only. The parent supplies some of them (`dim`, `layer`,
`n_layers`, `context`, `vocab_size`, ...); all others are knobs, and the signature is their schema.
A part keeps each knob under the knob's own name: that is how defaults get written into the saved
configuration.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from nanogpt.errors import UserError, nearest
from nanogpt.spec import Spec, Value, parse, to_text

LARGEST = 2**31 - 1
"""No whole-number knob needs more, and the sizes made of two of them are still numbers to PyTorch."""
LARGEST_FLOAT = 1e38
"""Beyond it a knob is not a float32, and torch raises whatever it does then."""
PARTS_FOLDER: ContextVar[Path] = ContextVar("PARTS_FOLDER", default=Path())


class Placed(UserError):
    """An error that already names its field: nobody puts another name before it."""


@contextmanager
def field(name: str) -> Iterator[None]:
    """Put the field's name before an error of one of its parts."""
    try:
        yield
    except Placed:
        raise
    except UserError as error:
        raise Placed(f"{name}: {error}") from None


@contextmanager
def parts_from(folder: Path | str) -> Iterator[None]:
    """Look for `my_parts.py:Mine` in this folder: a run keeps a copy of the parts it was trained with."""
    token = PARTS_FOLDER.set(Path(folder))
    try:
        yield
    finally:
        PARTS_FOLDER.reset(token)


def user_class(name: str) -> Callable[..., Any]:
    """`my_parts.py:Mine` -> the class Mine. Raises UserError where the file or the class is not there."""
    file, _, attribute = name.rpartition(":")
    path = (PARTS_FOLDER.get() / Path(file).expanduser()).resolve()
    if not path.is_file():
        raise UserError(f"{name}: no file {path}")
    module = user_module(path)
    found = getattr(module, attribute, None)
    if not callable(found):
        classes = [k for k, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]
        raise UserError(f"{path} has no class '{attribute}'{nearest(attribute, classes)}")
    return found


def is_users(part: Any) -> bool:
    """Whether this part was built from a file of the user's."""
    return ".py:" in getattr(getattr(part, "spec", None), "name", "")


def user_module(path: Path) -> ModuleType:
    """Run a user's file once for each of its contents, so that all layers share one class. UserError for whatever it
    raises."""
    try:
        digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    name = f"nanogpt_user_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        # whatever the user's file raises, it is the user's file that is to be mended
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def lookup(table: Mapping[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    """The class behind a part's name: from the axis's table, or from a file of the user's."""
    if ".py:" in name:
        return user_class(name)
    if name not in table:
        raise UserError(f"no part '{name}'{nearest(name, table)}")
    return table[name]


@cache
def signature(part: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a part. Asked for at every build of every layer, so it is worked out once."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {k: p for k, p in inspect.signature(part).parameters.items() if p.kind not in kinds}


def knobs_of(part: Callable[..., Any], supplied: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    """The arguments that a user may set: all that the parent does not supply."""
    return {k: p for k, p in signature(part).items() if k not in supplied}


def build(table: Mapping[str, Callable[..., Any]], text: str | Spec, **supplied: Any) -> Any:
    """Build the part that `text` describes. `supplied` goes to those constructors that name it.

    The result carries `.spec`: the same part with every knob written out. Raises UserError for
    a name that is not in the table, a knob that the constructor does not have or of the wrong kind.
    """
    spec = parse(text)
    part = lookup(table, spec.name)
    knobs = knobs_of(part, supplied)
    given = _bind(spec, knobs)
    wanted = {k: v for k, v in supplied.items() if k in signature(part)}
    try:
        built = part(**wanted, **given)
        built.spec = spec
    except Placed:
        raise
    except UserError as error:
        raise UserError(f"{spec.name}: {error}") from None
    except Exception as error:
        if ".py:" not in spec.name:
            raise
        raise UserError(f"{spec.name}: {type(error).__name__}: {error}") from error
    built.spec = Spec(spec.name, (), {k: _written(built, k, given.get(k, p.default)) for k, p in knobs.items()})
    return built


def _bind(spec: Spec, knobs: Mapping[str, inspect.Parameter]) -> dict[str, Value]:
    if len(spec.args) > len(knobs):
        raise UserError(
            f"{spec.name}: {len(spec.args)} values for {len(knobs)} knobs ({', '.join(knobs) or 'it has none'})"
        )
    given = dict(zip(knobs, spec.args, strict=False))
    for knob, value in spec.knobs.items():
        if knob not in knobs:
            tail = nearest(knob, knobs) if knobs else " (it has no knobs)"
            raise UserError(f"{spec.name}: no knob '{knob}'{tail}")
        if knob in given:
            raise UserError(f"{spec.name}: '{knob}' is given twice, by place and by name")
        given[knob] = value
    for knob, parameter in knobs.items():
        if knob not in given and parameter.default is parameter.empty:
            raise UserError(f"{spec.name}: '{knob}' needs a value")
        if knob in given:
            given[knob] = _typed(spec.name, knob, given[knob], parameter.annotation)
    return given


def _typed(part: str, knob: str, value: Value, annotation: Any) -> Value:
    """Refuse a knob of the wrong kind. Annotations are text here (`from __future__ import annotations`)."""
    kind = str(annotation)
    words = [w.strip(" '\"") for w in kind[8:-1].split(",")] if kind.startswith("Literal[") else None
    if words is None and get_args(annotation) and all(isinstance(a, str) for a in get_args(annotation)):
        words = list(get_args(annotation))
    if words is not None:
        if str(value) not in words:
            raise UserError(f"{part}: {knob}={to_text(value)} is not one of its words{nearest(str(value), words)}")
        return value
    kinds = {k.strip() for k in kind.replace("<class '", "").replace("'>", "").split("|")}
    if kinds & {"int", "float"} and not (kinds & {"str", "Value"}):
        if not isinstance(value, (int, float)):
            raise UserError(f"{part}: {knob}={to_text(value)} must be a number")
        if "float" not in kinds and abs(value) > LARGEST:
            raise UserError(f"{part}: {knob}={value} is too large; nearest: {LARGEST if value > 0 else -LARGEST}")
        if "float" not in kinds and int(value) != value:
            raise UserError(f"{part}: {knob}={value} must be a whole number; nearest: {round(value)}")
        if abs(value) > LARGEST_FLOAT:
            raise UserError(f"{part}: {knob}={value} is too large; nearest: {math.copysign(LARGEST_FLOAT, value)}")
        return float(value) if "float" in kinds else int(value)
    if kinds == {"str"} and isinstance(value, (int, float, list)):
        raise UserError(f"{part}: {knob}={to_text(value)} must be a word or a part")
    return value


def _written(built: Any, knob: str, value: Value | None) -> Value:
    """A knob's value for the saved configuration: what the part made of it, where it kept that."""
    kept = getattr(built, knob, value)
    inner = kept if isinstance(kept, Spec) else getattr(kept, "spec", None)
    if isinstance(inner, Spec):
        return inner if inner.knobs else inner.name
    return kept if type(kept) in (int, float, str, list) else value  # type: ignore[return-value]


def number(part: Any, name: str, default: float) -> Any:
    """A number that a part may keep under this name: a user's part may call anything `heads` or `gain`."""
    found = getattr(part, name, default)
    return found if isinstance(found, (int, float)) else default


def must_be(kind: type, part: Any) -> Any:
    """Refuse a user's part that cannot answer all that its axis is asked."""
    if not isinstance(part, kind):
        methods = [k for k, v in vars(kind).items() if callable(v) and not k.startswith("_")]
        raise UserError(
            f"{part.spec.name} is asked more than it has ({', '.join(methods)}); "
            f"make it a subclass of {kind.__module__}.{kind.__name__}"
        )
    return part


def at_least(least: float, **values: float) -> None:
    """Refuse knobs below a bound, naming the nearest value that would do: `at_least(1, heads=heads)`."""
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"{name}={value} must be at least {least}; nearest: {least}")


def between(low: float, high: float, **values: float) -> None:
    """Refuse knobs outside [low, high)."""
    for name, value in values.items():
        if not low <= value < high:
            top = high - 1 if isinstance(value, int) else high - (high - low) / 100
            best = f"{top:g}" if value >= high else low
            raise UserError(f"{name}={value} must be at least {low} and below {high}; nearest: {best}")


def divides(name: str, value: int, of: str, total: int) -> None:
    """Refuse a knob that does not divide another, naming the nearest one that does."""
    at_least(1, **{name: value})
    if total % value:
        small = [d for d in range(1, math.isqrt(total) + 1) if total % d == 0]
        best = min([*small, *(total // d for d in small)], key=lambda d: (abs(d - value), d))
        raise UserError(f"{name}={value} does not divide {of}={total}; nearest: {name}={best}")
