"""Our parts -> a family's config.json: its templates are solved for their keys, the file that these make is read again,
and what comes out must be the model that went in, knob for knob. So whatever a family cannot say is found, and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from nanogpt.activations import ACTIVATIONS
from nanogpt.config import ModelConfig
from nanogpt.errors import UserError
from nanogpt.hub.expressions import Template, evaluate, read, solve
from nanogpt.hub.families import PER_LAYER, Family, Values, families, read_keys, to_model
from nanogpt.model.ffn import FFNS
from nanogpt.model.language_model import resolve_model
from nanogpt.model.mixers import MIXERS
from nanogpt.model.norms import NORMS
from nanogpt.spec import Spec, expand, parse_value

NO_EFFECT = ("dropout", "drop_path", "multiple_of")
"""Knobs that do nothing once a model is trained; config.json has dropout in too many forms to be worth a row each."""
SAID = ("vocab_size", "dim", "n_layers", "context", "embed", *PER_LAYER, "head")
WORDS = {"true": True, "false": False, "none": None}


class Solver:
    """What is known of a family's keys so far."""

    def __init__(self, family: Family, n_layers: int) -> None:
        self.family, self.n_layers = family, n_layers
        self.found: dict[str, Any] = {}
        self.layer: int | None = None

    def bind(self, key: str, value: Any, index: int | None) -> bool:
        if key in self.family.choices:
            return self._choose(key, value)
        if key not in self.family.keys:
            return True
        if not self.family.keys[key].suits(value):
            return False
        if index is None:
            return self.found.setdefault(key, value) == value
        values = self.found.setdefault(key, [None] * self.n_layers)
        if values[index] is None:
            values[index] = value
        return bool(values[index] == value)

    def _choose(self, name: str, value: Any) -> bool:
        """The first option that can have this value."""
        choice = self.family.choices[name]
        for text, template in choice.options.items():
            before = {k: list(v) if isinstance(v, list) else v for k, v in self.found.items()}
            if self.match(template, value) and solve(read(choice.by), _from_text(text), self.bind, self.layer):
                return True
            self.found = before
        return False

    def match(self, template: Template, value: Any) -> bool:
        """Solve a template for its keys; False where no keys give it this value."""
        return self._match(template, template.tree, value)

    def _match(self, template: Template, tree: Any, value: Any) -> bool:
        if isinstance(tree, str) and tree in template.holes:
            return solve(template.holes[tree], value, self.bind, self.layer)
        if isinstance(tree, list) and isinstance(value, list) and len(tree) == len(value):
            return all(self._match(template, t, v) for t, v in zip(tree, value, strict=True))
        ours = value if isinstance(value, Spec) else Spec(value) if isinstance(value, str) else None
        if isinstance(tree, Spec) and ours is not None:
            # All of them: where one does not fit, the others still say which keys come nearest.
            fits = [
                self._match(template, t, ours.knobs.get(k)) for k, t in tree.knobs.items() if tree.name == ours.name
            ]
            return tree.name == ours.name and all(fits)
        return bool(tree == (ours.name if ours is not None else value))


def _from_text(text: str) -> Any:
    """An option's name -> the value that it stands for; the reverse of `as_text`."""
    if text in WORDS:
        return WORDS[text]
    return int(text) if text.isdigit() else text


def find_family(config: ModelConfig, first: str = "") -> tuple[Family, dict[str, Any]]:
    """The family that can say this model, and its keys. UserError names what the nearest family has not.

    `first`: the one to try first, by name; then all, plain ones before those that build on them.
    """
    nearest: tuple[list[str], str] | None = None
    wanted = _plain(config)
    for family in sorted(families().values(), key=lambda family: family.name != first):
        if not family.architecture:  # nobody opens its config.json
            continue
        keys = _keys(family, wanted)
        try:
            again = read_keys(family, write_config(family, keys), family.name)  # as whoever opens it will
            differences = list(_differences(wanted, resolve_model(to_model(family, again, family.name)), family.name))
            values = Values(family, keys, family.name)
            differences += [
                f"{said} ({family.name})" for test, said in family.needs.items() if not evaluate(read(test), values)
            ]
        except UserError as error:  # its own templates do not fit together
            differences = [str(error)] * 9
        if not differences:
            return family, keys
        if nearest is None or len(differences) < len(nearest[0]):
            nearest = differences, family.name
    assert nearest is not None
    raise UserError(f"no published family can say this model; {'; '.join(nearest[0][:3])}")


def write_config(family: Family, keys: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of these keys: every key in its place, whatever its default."""
    values = Values(family, keys)
    config: dict[str, Any] = {"model_type": family.model_types[0], "architectures": [family.architecture]}
    for name, key in family.keys.items():
        if not key.at:
            continue
        value = keys[name] if name in keys else values[name]
        *tables, last = key.at[0].split(".")
        if value is None and tables:
            continue
        table = config
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = value
    return config


def _keys(family: Family, config: ModelConfig) -> dict[str, Any]:
    """The family's keys that come nearest to saying this model."""
    solver = Solver(family, config.n_layers)
    for name, template in family.model.items():
        value = getattr(config, name)
        if name in PER_LAYER:
            for solver.layer, spec in enumerate(expand(value, config.n_layers)):
                solver.match(template, spec)
            solver.layer = None
        else:
            solver.match(template, parse_value(value) if isinstance(value, str) else value)
    found = {k: v for k, v in solver.found.items() if not (isinstance(v, list) and None in v)}
    for name, key in family.keys.items():
        if key.written is not None and name not in found:
            found[name] = key.written.fill(Values(family, found, family.name))
    return found


def _plain(config: ModelConfig) -> ModelConfig:
    """The same model in the words of a template: every knob written out, `swiglu` as the `glu(act=silu)` that it is."""

    def plain(value: Any) -> Any:
        if isinstance(value, Spec):
            knobs = {k: plain(v) for k, v in value.knobs.items() if k not in NO_EFFECT}
            return Spec(_base(value.name), (), knobs)
        return [plain(v) for v in value] if isinstance(value, list) else value

    resolved = resolve_model(config)
    fields: dict[str, Any] = {name: str(plain(_value(getattr(resolved, name)))) for name in ("embed", "head")}
    for name in PER_LAYER:
        specs = expand(getattr(resolved, name), resolved.n_layers)
        fields[name] = [str(plain(spec)) for spec in specs] or ["none"]
    return resolve_model(resolved.model_copy(update=fields))


def _base(name: str) -> str:
    """The part that another one is with some knobs set."""
    for table in (FFNS, MIXERS, NORMS, ACTIVATIONS):
        if isinstance(made := table.get(name), partial):
            return next((other for other, part in table.items() if part is made.func), name)
    return name


def _differences(ours: ModelConfig, theirs: ModelConfig, family: str) -> Iterator[str]:
    """What the two say differently, each part once."""
    found: dict[tuple[str, str, str], None] = {}
    for name in SAID:
        a, b = getattr(ours, name), getattr(theirs, name)
        if name in PER_LAYER:
            pairs: Any = zip(expand(a, ours.n_layers), expand(b, theirs.n_layers), strict=False)
        else:
            pairs = [(_value(a), _value(b))]
        found |= {line: None for x, y in pairs for line in _parts(f"model.{name}", x, y)}
    for path, a, b in found:
        yield f"{path}={a} has no equivalent ({family}: {b})"


def _value(value: Any) -> Any:
    return parse_value(value) if isinstance(value, str) else value


def _parts(path: str, a: Any, b: Any) -> Iterator[tuple[str, str, str]]:
    """(path, ours, theirs) of each knob in which two parts differ."""
    a, b = (Spec(v) if isinstance(v, str) else v for v in (a, b))
    if isinstance(a, Spec) and isinstance(b, Spec) and a.name == b.name:
        for knob in a.knobs.keys() | b.knobs.keys():
            if a.knobs.get(knob) != b.knobs.get(knob):
                yield from _parts(f"{path}.{knob}", a.knobs.get(knob), b.knobs.get(knob))
    elif a != b:
        yield path, str(a), str(b)
