"""Families as data: config.json <-> the parts of a model. One file each in families/; no code knows a family's name.

    model_types, architecture   what config.json calls it
    like                        a family whose tables this one starts from
    [keys]      a key of config.json: where it stands (`at`, first the place that an export writes), what it is where it
                is left out (`or`) or null (`null`), what an export writes where no part of ours says it (`write`)
    [fixed]     keys that may have one of these values only: we have no part for another
    [choices]   a value that depends on another one: `by` an expression, then a template for each of its values
    [checks]    what holds of every config.json that can be read, as expressions, each with what to say where one fails
    [model]     our parts, as templates; `layer` in them makes a list, one for each layer
    [tensors]   see tensors.py; [also] another name that a tensor may have; [tied] a copy that a checkpoint may hold of
                another tensor; `dropped` what it may hold that is no weight; `prefix` what its names may lack
    [needs]     what `transformers` asks of a config.json beyond that, as expressions, each with what to say of a model
                that fails; not taken over by a family that is like this one
    [tokenizer] what an export's tokenizer_config.json says besides, likewise

Every other key of a config.json is refused by name, unless IRRELEVANT or the family's `ignored` has it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from importlib import resources
from typing import Any

from nanogpt.config import ModelConfig, validate
from nanogpt.errors import UserError, nearest
from nanogpt.hub.expressions import HOLE, Template, evaluate, read
from nanogpt.spec import compress, parse, to_text

FOLDER = resources.files("nanogpt.hub") / "families"
IRRELEVANT = (
    "*token_id", "*_token_ids", "use_cache", "*dropout*", "*pdrop", "initializer_range", "torch_dtype", "dtype",
    "transformers_version", "architectures", "model_type", "_name_or_path", "name_or_path", "auto_map*",
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "output_attentions",
    "output_hidden_states", "return_dict", "return_dict_in_generate", "torchscript", "gradient_checkpointing",
    "pretraining_tp", "id2label.*", "label2id.*", "task_specific_params.*", "problem_type", "chunk_size_feed_forward",
    "cache_implementation", "is_encoder_decoder", "is_decoder", "tokenizer_class", "_num_labels", "num_labels",
    "finetuning_task", "use_flash_attention*", "_flash_attn*", "output_past", "transformers.js_config.*",
)  # fmt: skip
"""Keys that change no logit at inference: ids, dropout, how it is computed, how it was trained."""
WORDS = ("or", "null", "write")
OWN = ("needs", "tokenizer")
"""Tables that a family does not take over from the one that it is like."""
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
PER_LAYER = ("position", "mixer", "ffn", "norm", "layout")


@dataclass(frozen=True)
class Key:
    """One key of config.json."""

    at: tuple[str, ...]
    default: Template | None
    """What it is where config.json leaves it out."""
    null: Template | None
    """What null means; where nothing is said here, what leaving it out means."""
    written: Template | None
    """What an export writes where no part of ours says it."""

    @property
    def usual(self) -> Any:
        """What it is where config.json leaves it out, where that is always the same."""
        return None if self.default is None else self.default.constant

    def suits(self, value: Any) -> bool:
        """Whether it can have this value: null, or one of the kind that it usually has."""
        usual = self.usual
        if value is None or usual is None:
            return True
        if isinstance(usual, float):
            return type(value) in (int, float)
        if type(usual) is int:
            return type(value) is int or (isinstance(value, float) and value.is_integer())
        return type(value) is type(usual)


@dataclass(frozen=True)
class Choice:
    """A value that goes by another one."""

    by: str
    options: Mapping[str, Template]


@dataclass(frozen=True)
class Family:
    name: str
    model_types: tuple[str, ...]
    architecture: str
    depth: int
    keys: Mapping[str, Key]
    fixed: Mapping[str, list[Any]]
    ignored: tuple[str, ...]
    choices: Mapping[str, Choice]
    checks: Mapping[str, str]
    model: Mapping[str, Template]
    tensors: Mapping[str, str]
    also: Mapping[str, str]
    tied: Mapping[str, str]
    dropped: tuple[str, ...]
    prefix: str
    needs: Mapping[str, str]
    tokenizer: Mapping[str, Any]


@cache
def _tables(name: str) -> dict[str, Any]:
    """The tables of a family over those of the one that it is like: rows are replaced whole, `""` takes one away."""
    tables = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    base: dict[str, Any] = _tables(tables["like"]) if "like" in tables else {"depth": -1}
    merged = {k: {**base.get(k, {}), **v} if isinstance(v, dict) else v for k, v in tables.items()}
    return {**base, **merged, "depth": base["depth"] + 1, **{k: tables.get(k, {}) for k in OWN}}


@cache
def family(name: str) -> Family:
    """A family by the name of its file."""
    tables = _tables(name)
    keys = {
        key: Key(tuple(_listed(row.get("at", key))), *(Template(row[k]) if k in row else None for k in WORDS))
        for key, row in tables["keys"].items()
    }
    choices = {
        key: Choice(row["by"], {k: Template(v) for k, v in row.items() if k != "by"})
        for key, row in tables.get("choices", {}).items()
    }
    return Family(
        name=name,
        model_types=tuple(tables["model_types"]),
        architecture=tables["architecture"],
        depth=tables["depth"],
        keys=keys,
        fixed=tables.get("fixed", {}),
        ignored=tuple(tables.get("ignored", ())),
        choices=choices,
        checks=tables.get("checks", {}),
        model={key: Template(value) for key, value in tables["model"].items()},
        tensors={key: value for key, value in tables["tensors"].items() if value},
        also=tables.get("also", {}),
        tied=tables.get("tied", {}),
        dropped=tuple(tables.get("dropped", ())),
        prefix=tables.get("prefix", ""),
        needs=tables.get("needs", {}),
        tokenizer=tables.get("tokenizer", {}),
    )


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


@cache
def families() -> dict[str, Family]:
    """Every family by name; those that others are like come first."""
    names = [entry.name.removesuffix(".toml") for entry in FOLDER.iterdir() if entry.name.endswith(".toml")]
    return {f.name: f for f in sorted(map(family, names), key=lambda f: (f.depth, f.name))}


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family whose config.json this is, by its `model_type`."""
    by_type = {model_type: f for f in families().values() for model_type in f.model_types}
    found = config.get("model_type")
    if not isinstance(found, str):
        raise UserError(f"{where}: no model_type in it{nearest('', by_type)}")
    if found not in by_type:
        raise UserError(f"{where}: model_type={found} is not a family known here{nearest(found, by_type)}")
    return by_type[found]


class Values(Mapping[str, Any]):
    """What a template's names mean: keys of config.json, as given or as left out, and the family's choices."""

    def __init__(self, family: Family, given: Mapping[str, Any], where: str = "", layer: int | None = None) -> None:
        self.family, self.given, self.where, self.layer = family, given, where, layer

    def __getitem__(self, name: str) -> Any:
        if name == "layer":
            return self.layer
        if name in self.family.choices:
            return self._chosen(self.family.choices[name])
        if self.given.get(name) is not None:
            return self.given[name]
        if name not in self.family.keys:
            raise KeyError(name)
        key = self.family.keys[name]
        left_out = key.null if name in self.given and key.null else key.default
        if left_out is None:
            raise UserError(f"{self.where} has no '{key.at[0]}', which {self.family.name} needs")
        return left_out.fill(self)

    def _chosen(self, choice: Choice) -> Any:
        value = evaluate(read(choice.by), self)
        text = as_text(value)
        if text not in choice.options:
            key = choice.by.removesuffix("[layer]")
            at = self.family.keys[key].at[0] if key in self.family.keys else key
            raise UserError(f"{self.where}: {at}={text} has no part here{nearest(text, choice.options)}")
        return choice.options[text].fill(self)

    def __iter__(self) -> Iterator[str]:
        return iter([*self.family.keys, *self.family.choices])

    def __len__(self) -> int:
        return len(list(iter(self)))


def as_text(value: Any) -> str:
    """A value as the options of a choice write it: `true`, `none`, `full_attention`, `1`."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables with dotted names."""
    rows: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows |= flat(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = value
    return rows


def read_keys(family: Family, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The family's keys as config.json gives them. UserError for one that nothing here can do."""
    rows = flat(config)
    places = {at: name for name, key in family.keys.items() for at in key.at}
    for at, value in rows.items():
        if value is None and at != "is_causal":  # not there, whatever it is; but is_causal, which counts as false then
            continue
        shown = as_text(value)[:60]
        if at in places or any(fnmatch(at, pattern) for pattern in (*IRRELEVANT, *family.ignored)):
            continue
        if at not in family.fixed:
            raise UserError(f"{where}: {at}={shown} is a key that {family.name} has not{nearest(at, places)}")
        if value not in family.fixed[at]:
            allowed = " or ".join(map(as_text, family.fixed[at])) or "null"
            raise UserError(f"{where}: {at}={shown} has no part here; nearest: {allowed}")
    said = {name: {at: rows[at] for at in key.at if at in rows} for name, key in family.keys.items()}
    return {name: _said_once(family.keys[name], places, where) for name, places in said.items() if places}


def _said_once(key: Key, places: Mapping[str, Any], where: str) -> Any:
    """The value of a key that may stand in several places of a config.json; null counts where nothing else does."""
    said = [(at, value) for at, value in places.items() if value is not None]
    for at, value in said:
        if not key.suits(value):
            raise UserError(f"{where}: {at}={value!r:.60} should be {KINDS[type(key.usual)]}")
    for at, value in said[1:]:
        if value != said[0][1]:
            raise UserError(f"{where}: {at}={value} and {said[0][0]}={said[0][1]} contradict each other")
    return said[0][1] if said else None


def to_model(family: Family, given: Mapping[str, Any], where: str) -> ModelConfig:
    """The parts that a config.json describes."""
    values = Values(family, given, where)
    try:
        whole = {name: template.fill(values) for name, template in family.model.items() if name not in PER_LAYER}
        fields: dict[str, Any] = {k: v if isinstance(v, int) else to_text(v) for k, v in whole.items()}
        n_layers = validate({"model": fields}).model.n_layers  # before as many layers are written out
        for test, said in family.checks.items():
            if not evaluate(read(test), values):
                filled = HOLE.sub(lambda hole: as_text(evaluate(read(hole[1]), values)), said)
                raise UserError(f"{where}: {filled}")
        for name in PER_LAYER:
            if name in family.model:
                layers = [family.model[name].fill(Values(family, given, where, n)) for n in range(n_layers)]
                fields[name] = _cycle([to_text(part) for part in layers])
    except (TypeError, IndexError, ValueError, ZeroDivisionError, AttributeError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: a value of the wrong kind: {error}") from None
    try:
        return validate({"model": fields}).model
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _cycle(texts: list[str]) -> list[str]:
    return compress([parse(text) for text in texts]) if texts else ["none"]
