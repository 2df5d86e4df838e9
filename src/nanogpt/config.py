"""The configuration of a run: five sections, presets, overrides, errors that say what would be right.

    preset (a TOML file of parts) + overrides (`model.ffn=swiglu train.steps=500`) -> RunConfig

Parts are kept as text here (see spec.py). Their knobs are checked against their constructors
later, by model/ and optim/, which know the classes.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nanogpt.errors import UserError, nearest
from nanogpt.spec import Term, parse, parse_depth, parse_value


def _part(text: str) -> str:
    parse(text)
    return text


def _depth(value: str | list[str]) -> str | list[str]:
    parse_depth(value)
    return value


Part = Annotated[str, AfterValidator(_part)]
"""One part: `swiglu(hidden=256)`."""
PerLayer = Annotated[str | list[str], AfterValidator(_depth)]
"""One part, or a cycle of parts over depth: `5*attention(window=512) + attention`."""
LARGEST = 2**31 - 1
Natural = Annotated[int, Field(ge=1, le=LARGEST)]
"""A whole number from 1."""
Count = Annotated[int, Field(ge=0, le=LARGEST)]
"""A whole number from 0."""
Width = Annotated[int, Field(ge=1, le=2**20)]
Depth = Annotated[int, Field(ge=0, le=4096)]
"""Beyond these no model has been built, and counting what it would cost takes minutes."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which text, and how it is cut into batches."""

    corpus: str | list[str] = Field("python", description="a named corpus, a file, a folder or a glob; or a list")
    batching: Literal["auto", "stream", "pad", "pack"] = Field(
        "auto",
        description="stream: windows of one long text; pad: a document a row; pack: documents share a row, "
        "attention stays inside each; auto: what suits the corpus",
    )
    val: float = Field(
        0.05, gt=0, le=0.5, description="share of the text for validation, where the corpus has no split"
    )
    test: float = Field(0.05, gt=0, le=0.4, description="share of the text for the test split, likewise")
    carve: Literal["none", "test"] = Field(
        "none", description="test: a text whose literature has no test split gets one, from the end of train"
    )


class ModelConfig(Section):
    """The parts of the model. Fields that say `per layer` take one part or a cycle over depth."""

    dim: Width | Literal["vocab"] = Field(description="width of the residual stream; 'vocab' is the vocabulary's size")
    n_layers: Depth = Field(description="number of blocks")
    context: Natural = Field(description="tokens in a training window")
    vocab_size: Count = Field(0, description="0: as large as the tokenizer's")
    embed: Part = Field("token", description="token ids -> vectors")
    position: PerLayer = Field("none", description="per layer: how a model knows the order of tokens")
    mixer: PerLayer = Field("none", description="per layer: moves information between positions")
    ffn: PerLayer = Field("none", description="per layer: works on each position alone")
    norm: PerLayer = Field("none", description="per layer: normalisation")
    layout: PerLayer = Field("pre", description="per layer: how mixer and ffn join the residual stream")
    head: Part = Field("linear", description="vectors -> logits")
    init: Part = Field("normal", description="initial weights")
    objective: Part = Field("next_token", description="what is minimised")


class OptimConfig(Section):
    """How weights are changed."""

    optimizer: Part = Field("adamw", description="the update rule")
    schedule: Part = Field("cosine", description="learning rate over the run, as a share of the optimizer's lr")
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0: not clipped")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the running mean of weights that is evaluated, 0.999 for one; 0: none"
    )


class TrainConfig(Section):
    """How long, how often, on what."""

    steps: Natural = Field(1000, description="optimizer steps")
    batch: Natural = Field(32, description="rows in one step, over all micro-batches")
    accumulate: Natural = Field(1, description="micro-batches that one step is cut into, to save memory")
    eval_every: Count = Field(0, description="steps between evaluations on the whole validation split; 0: ten a run")
    checkpoint_every: Count = Field(0, description="steps between checkpoints; 0: at each evaluation")
    sample_every: Count = Field(0, description="steps between samples; 0: at each evaluation")
    patience: Count = Field(0, description="evaluations without a better loss before stopping early; 0: never")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="of matrix products; weights stay fp32")
    compile: Literal["auto", "on", "off"] = Field("auto", description="torch.compile; auto: where it pays")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: one for each core")
    observe: Literal["on", "off"] = Field("on", description="look inside at every 2% of the run (nanogpt inspect)")


class RunConfig(Section):
    """Everything that a run depends on."""

    preset: str = Field("modern", description="where the parts came from")
    seed: Count = Field(1, description="of initial weights, batches and dropout")
    tokenizer: Part = Field(
        "bpe(vocab_size=2048)", description="char, byte, bpe(...), gpt2, cl100k_base, o200k_base, or a tokenizer.json"
    )
    data: DataConfig = Field(default_factory=lambda: DataConfig.model_validate({}))
    model: ModelConfig
    optim: OptimConfig = Field(default_factory=lambda: OptimConfig.model_validate({}))
    train: TrainConfig = Field(default_factory=lambda: TrainConfig.model_validate({}))


SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
}
DEFAULT_PRESET = "modern"


def keys() -> list[str]:
    """Every key that can be overridden, as `section.key`."""
    top = [k for k in RunConfig.model_fields if k not in SECTIONS and k != "preset"]
    return top + [f"{s}.{k}" for s, cls in SECTIONS.items() for k in cls.model_fields]


def settings() -> list[dict[str, Any]]:
    """Every setting with its default and meaning: `nanogpt show --settings`."""
    rows = []
    for key in keys():
        section, _, name = key.rpartition(".")
        field = (SECTIONS[section] if section else RunConfig).model_fields[name]
        rows.append(
            {"key": key, "default": None if field.is_required() else field.default, "meaning": field.description}
        )
    return rows


def _unknown(key: str) -> UserError:
    """The error for a key that is not there: the nearest one, and all of its section."""
    section = key.partition(".")[0]
    near = [k for k in keys() if k.startswith(section + ".")] if section in SECTIONS else keys()
    return UserError(f"no key '{key}'{nearest(key, near)}")


def presets() -> dict[str, Path]:
    """Name -> TOML file of every preset that comes with nanogpt."""
    folder = Path(str(resources.files("nanogpt") / "presets"))
    return {p.stem: p for p in sorted(folder.rglob("*.toml"), key=lambda path: path.stem)}


def read_preset(name: str) -> dict[str, Any]:
    """The sections of a preset: one of ours by name, or a .toml or .json file of your own."""
    known = presets()
    path = known.get(name, Path(name))
    if name not in known and path.suffix not in (".toml", ".json"):
        raise UserError(
            f"no preset '{name}'{nearest(name, known)}; nanogpt show --presets lists them, "
            "and your own is a .toml file of the same form"
        )
    try:
        text = path.read_text(encoding="utf-8")
        sections = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise UserError(f"cannot read preset {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(sections, dict):
        raise UserError(f"{path}: a preset is a table of sections ({', '.join(SECTIONS)})")
    return {"preset": name, **sections}


def _set_knob(value: Any, knob: str, text: str) -> Any:
    """`model.mixer.heads=4`: one knob of a part, in each layer that the field names."""
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        raise UserError(f"there is no part to set it in, but {value!r}")
    values = parse_depth(value)
    terms = [Term(t.spec.with_knob(knob, parse_value(text)), t.count, t.fill) for t in values]
    joined = " + ".join(map(str, terms))
    if isinstance(value, list) and len(value) == len(terms):
        return [str(t) for t in terms]
    return joined


def _apply(sections: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"'{override}' is not an override; write section.key=value, as in train.steps=500")
    path = key.split(".")
    top = path[0]
    depth = 2 if top in SECTIONS else 1
    field = ".".join(path[:depth])
    if field not in keys():
        raise _unknown(key)
    fields = (SECTIONS[top] if depth == 2 else RunConfig).model_fields
    section = sections.setdefault(top, {}) if depth == 2 else sections
    if not isinstance(section, dict):
        raise UserError(f"'{top}' is a section of keys, not a value")
    name = path[depth - 1]
    if len(path) == depth:
        section[name] = _listed(text, key)
        return
    if len(path) > depth + 1 or fields[name].annotation not in (str, str | list[str]) or key.startswith("data."):
        raise _unknown(key)
    default = fields[name].default
    try:
        section[name] = _set_knob(section.get(name, default), path[depth], text)
    except UserError as error:
        raise UserError(f"{key}={text}: {error}") from None


def _listed(text: str, key: str) -> Any:
    """A value as typed; `[...]` is a list of parts."""
    if not text.startswith("["):
        return text
    try:
        return [str(v) for v in json.loads(text)]
    except (ValueError, RecursionError):  # not JSON: our own list, whose reader says what is wrong with it
        pass
    try:
        value = parse_value(text)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    return [str(v) for v in value] if isinstance(value, list) else text


def compose(preset: str = DEFAULT_PRESET, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a preset and change what the overrides say. Raises UserError, one line, for whatever does not fit."""
    sections = read_preset(preset)
    for override in overrides:
        _apply(sections, override)
    return validate(sections)


def change(config: RunConfig, overrides: Iterable[str]) -> RunConfig:
    """A copy of a configuration with some keys changed."""
    sections = config.model_dump()
    for override in overrides:
        _apply(sections, override)
    return validate(sections)


def validate(sections: Mapping[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(sections)
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    """Pydantic's first complaint as one line with the nearest value that would do; a key that is not there
    comes before what is missing, which may well be what was meant by it."""
    first = min(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    place = [
        str(p)
        for p in first["loc"]
        if not str(p).startswith(("int", "str", "list[", "literal", "constrained", "function-"))
    ]
    key, kind, context, got = ".".join(place), first["type"], first.get("ctx", {}), first["input"]
    if kind == "extra_forbidden":
        return str(_unknown(key))
    if kind == "missing":
        return f"{key}: needs a value"
    if kind == "literal_error" and len(place) > 1 and key != "model.dim":
        choices = get_args(SECTIONS[place[0]].model_fields[place[1]].annotation)
        return f"{key}={got}: not one of its words{nearest(str(got), choices)}"
    if "ge" in context:
        return f"{key}={got}: must be at least {context['ge']}; nearest: {context['ge']}"
    if "le" in context:
        return f"{key}={got}: must be at most {context['le']}; nearest: {context['le']}"
    if "lt" in context:
        return f"{key}={got}: must be below {context['lt']}"
    if "gt" in context:
        return f"{key}={got}: must be more than {context['gt']}"
    if kind == "string_pattern_mismatch":
        return f"{key}={got}: not a device{nearest(str(got), ['auto', 'cpu', 'cuda', 'cuda:0', 'mps'])}"
    if kind.startswith("int"):
        return f"{key}={got}: must be a whole number{_rounded(got)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if kind == "value_error" else f"{key}={got}: {message[0].lower() + message[1:]}"


def _rounded(got: Any) -> str:
    try:
        return f"; nearest: {max(1, round(float(got)))}"
    except (TypeError, ValueError, OverflowError):
        return ""
