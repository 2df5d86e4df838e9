"""What a configuration builds, as text: parts, shapes, parameters, operations, memory. And which parts there are."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from dataclasses import asdict
from itertools import groupby
from typing import Any

import torch

from nanogpt.activations import ACTIVATIONS
from nanogpt.classic.smoothing import SMOOTHINGS
from nanogpt.config import ModelConfig, RunConfig
from nanogpt.cost import Cost, cost
from nanogpt.init.schemes import SCHEMES
from nanogpt.model.blocks import LAYOUTS
from nanogpt.model.ends import EMBEDS, HEADS
from nanogpt.model.ffn import FFNS
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.model.mixers import MIXERS
from nanogpt.model.norms import NORMS
from nanogpt.model.objectives import OBJECTIVES
from nanogpt.model.positions import POSITIONS, Position
from nanogpt.model.residuals import RESIDUALS
from nanogpt.model.scalings import SCALINGS
from nanogpt.optim.optimizers import OPTIMIZERS
from nanogpt.optim.schedules import SCHEDULES
from nanogpt.parts import build, knobs_of, signature
from nanogpt.pattern import LAYER_FIELDS, Pattern, letter, pattern
from nanogpt.proportions import RATIOS, in_words, proportions
from nanogpt.spec import Spec, Value, parse, parse_value, to_text
from nanogpt.tokenizers import TOKENIZERS, expected_size
from nanogpt.wiring import steps

AXES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "tokenizer": (TOKENIZERS, ()),
    "model.embed": (EMBEDS, ("dim", "vocab_size")),
    "(smoothing)": (SMOOTHINGS, ("order", "vocab_size")),
    "model.position": (POSITIONS, ("dim", "context", "heads", "head_dim")),
    "(scaling)": (SCALINGS, ("context",)),
    "model.mixer": (MIXERS, ("dim", "layer", "n_layers", "context")),
    "model.ffn": (FFNS, ("dim", "layer", "n_layers", "context")),
    "(act)": (ACTIVATIONS, ("dim",)),
    "model.norm": (NORMS, ("dim",)),
    "model.layout": (LAYOUTS, ("dim", "layer", "n_layers", "context", "mixer", "ffn", "norm")),
    "(residual)": (RESIDUALS, ("dim", "layer", "n_layers")),
    "model.head": (HEADS, ("dim", "vocab_size")),
    "model.init": (SCHEMES, ("dim", "n_layers")),
    "model.objective": (OBJECTIVES, ("dim", "vocab_size", "n_layers")),
    "optim.optimizer": (OPTIMIZERS, ()),
    "optim.schedule": (SCHEDULES, ()),
}
"""Axis -> its table of parts, and what their parent gives them."""


def parts() -> dict[str, dict[str, dict[str, Any]]]:
    """axis -> part -> {"knobs": {name: default}, "what": the first sentence of its documentation}."""
    return {
        axis: {
            name: {
                "knobs": {
                    k: None if p.default is p.empty else p.default
                    for k, p in knobs_of(part, dict.fromkeys(supplied)).items()
                },
                "what": first_sentence(part),
            }
            for name, part in table.items()
        }
        for axis, (table, supplied) in AXES.items()
    }


def first_sentence(part: Any) -> str:
    text = (inspect.getdoc(getattr(part, "func", part)) or "").split("\n\n")[0]
    return " ".join(text.split())


AT = (4096, 131072)
"""Tokens at which the cache is told, besides the model's context."""
WINDOWS = tuple(2**n for n in range(AT[0].bit_length()))
"""In which operations are counted, where the context has room for them: models side by side take the longest that fits
all of them."""


def describe(config: RunConfig) -> dict[str, Any]:
    """Everything `nanogpt show` prints, as plain data."""
    size, certain = (config.model.vocab_size, True) if config.model.vocab_size else expected_size(config.tokenizer)
    given = config.model.model_copy(update={"vocab_size": size})
    model = resolve_model(given)
    total, found = cost(model), pattern(model)
    return {
        "preset": config.preset,
        "vocabulary": "known" if certain else "assumed",
        "model": model.model_dump(),
        "layers": layers(model.model_dump()),
        "pattern": str(found),
        "letters": found.letters(),
        "proportions": {name: in_words(values) for name, values in proportions(model).items()},
        "kinds": kinds(model, found),
        "ends": ends(model),
        "tensors": [{"name": n, "shape": s, "parameters": p} for n, s, p in tensors(model)],
        "parameters": total.parameters,
        "total_parameters": total.total,
        "flops_per_token": total.flops,
        "flops_per_token_at": {str(n): total.flops_at(n) for n in WINDOWS if n <= model.context},
        "training_flops_per_token": total.training_flops,
        **memory(total),
    }


def memory(total: Cost) -> dict[str, Any]:
    """Bytes of the weights, and of the cache in bf16."""
    return {
        "cache_bytes_per_token": total.cache_bytes,
        "cache_bytes_at_context": total.cache_bytes * total.context,
        "cache_bytes_at": {str(n): total.cache_bytes * n for n in AT},
        "cache_bytes_windows_only_at": {str(n): total.cache_at(n) for n in (*AT, total.context)},
        "weight_bytes": {"fp32": 4 * total.total, "bf16": 2 * total.total, "int4": total.total / 2},
    }


def kinds(config: ModelConfig, found: Pattern) -> list[dict[str, Any]]:
    """Each kind of layer: how many there are, its parts in brief, what other kinds have otherwise, how it is wired."""
    first = [found.of.index(kind) for kind in range(len(found.kinds))]
    with torch.device("meta"):
        blocks: list[Any] = list(LanguageModel(config, only=first).blocks)
    boxes = [{name: box(part, config) for name, part in block.named_children()} for block in blocks]
    differences = found.differences()
    rows = []
    for kind, (layer, block) in enumerate(zip(found.kinds, blocks, strict=True)):
        named = zip(LAYER_FIELDS, layer, strict=True)
        parts = {axis: brief(spec, config, AXES[f"model.{axis}"][0]) for axis, spec in named}
        row: dict[str, Any] = {"kind": letter(kind), "layers": found.of.count(kind), **parts}
        # where the parts themselves are others, their knobs cannot be set side by side
        others = {k for k in differences[kind] if "." not in k}
        row["differs"] = {
            key: parts[key] if key in others else _in_brief(value, config)
            for key, value in differences[kind].items()
            if key in others or key.split(".")[0] not in others
        }
        rows.append({**row, "boxes": boxes[kind], "steps": [asdict(step) for step in steps(block)]})
    return rows


def box(part: torch.nn.Module, config: ModelConfig) -> dict[str, Any]:
    """What a drawing says of one part: its name, its knobs, its matrices, its tables."""
    matrices = [
        [name, m.in_features, m.out_features] for name, m in part.named_modules() if isinstance(m, torch.nn.Linear)
    ]
    spec: Spec = part.spec  # type: ignore[assignment]
    knobs = said(spec, config, _table_of(spec))
    knobs = {k: v if isinstance(v, (int, float)) else str(v) for k, v in knobs.items()}
    inside = {f"{name}.weight".lstrip(".") for name, m in part.named_modules() if isinstance(m, torch.nn.Linear)}
    tables = [list(p.shape) for name, p in part.named_parameters() if p.dim() == 2 and name not in inside]
    return {"part": spec.name, "knobs": knobs, "matrices": [[n or "", i, o] for n, i, o in matrices], "tables": tables,
            "parameters": sum(p.numel() for p in part.parameters())}  # fmt: skip


def ends(config: ModelConfig) -> dict[str, Any]:
    """What is below and above the layers: in brief, and whether a position is added below or acts inside."""
    with torch.device("meta"):
        model = LanguageModel(config, only=[])
    distinct: list[Any] = list(model.position)
    added = [str(p.spec.name) for p in distinct if type(p).embed is not Position.embed]
    inside = [p.spec for p in distinct if type(p).embed is Position.embed and p.spec.name != "none"]
    with torch.device("meta"):
        last = LanguageModel(config, only=[config.n_layers - 1] if config.n_layers else [])
    return {
        "embed": box(model.embed, config),
        "norm": box(last.norm, config),
        "head": box(model.head, config),
        "positions_added": added,
        "positions_inside": [brief(spec, config, POSITIONS) for spec in inside],
    }


def brief(spec: Spec, config: ModelConfig, table: Any) -> str:
    """A part with the knobs that say something: sizes, and what is not as it would be unsaid."""
    return str(Spec(spec.name, (), said(spec, config, table)))


def said(spec: Spec, config: ModelConfig, table: Any) -> dict[str, Any]:
    """Those knobs. A number that the part works out for itself, as a scale, is said where it is another one."""
    if table is None or spec.name not in table:
        return dict(spec.knobs)
    found: dict[str, Any] = {}
    for knob, value in spec.knobs.items():
        default = signature(table[spec.name])[knob].default
        if isinstance(value, Spec):
            value = parse(brief(value, config, _table_of(value)))
        usual = to_text(value) == to_text(default if default is not None else "none")
        named = knob in getattr(table[spec.name], "keywords", {})  # swiglu, geglu: of the name itself
        if usual and (named or not _is_activation(value)):
            continue  # but what the nonlinearity is, is always said
        if default is None and isinstance(value, float) and _worked_out(spec, knob, config, table) == value:
            continue
        found[knob] = f"{len(value)} numbers" if isinstance(value, list) else value
    return found


def _is_activation(value: Value) -> bool:
    return isinstance(value, (str, Spec)) and parse(to_text(value)).name in ACTIVATIONS


def _worked_out(spec: Spec, knob: str, config: ModelConfig, table: Any) -> Any:
    """What the part makes of a knob that nobody gave."""
    given = {"dim": config.dim, "layer": 0, "n_layers": config.n_layers, "context": config.context}
    rest = {k: v for k, v in spec.knobs.items() if k != knob}
    with torch.device("meta"):
        return build(table, Spec(spec.name, (), rest), **given).spec.knobs.get(knob)


def _table_of(spec: Spec) -> Any:
    """The axis that has a part of this name with these knobs."""
    tables = [table for table, _ in AXES.values() if spec.name in table]
    return next((t for t in tables if set(spec.knobs) <= set(signature(t[spec.name]))), None)


def layers(model: dict[str, Any]) -> list[dict[str, str]]:
    """The parts of each layer; equal neighbours are one row, `{"layers": "0-5", "mixer": ...}`."""
    texts = [tuple(model[field][n] for field in LAYER_FIELDS) for n in range(model["n_layers"])]
    rows = []
    for parts, group in groupby(enumerate(texts), key=lambda pair: pair[1]):
        numbers = [n for n, _ in group]
        rows.append({"layers": _span(numbers[0], numbers[-1]), **dict(zip(LAYER_FIELDS, parts, strict=True))})
    return rows


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def tensors(config: ModelConfig) -> list[tuple[str, list[int], int]]:
    """Every weight as (name, shape, numbers); layers of the same shapes are one row, `blocks.0-5.mixer.q.weight`."""
    of = pattern(config).of
    first = sorted({0, len(of) - 1, *(of.index(kind) for kind in set(of))}) if of else []
    with torch.device("meta"):
        model = LanguageModel(config, only=first)
    shapes = [[(name, tuple(p.shape)) for name, p in block.named_parameters()] for block in model.blocks]
    alike = {of[layer]: n for n, layer in enumerate(first) if layer < len(of) - 1 or of[layer] not in of[:layer]}
    layers = [shapes[first.index(n) if n in first else alike[kind]] for n, kind in enumerate(of)]
    before: list[tuple[str, tuple[int, ...]]] = []
    after: list[tuple[str, tuple[int, ...]]] = []
    for name, p in model.named_parameters():
        if not name.startswith("blocks."):
            (before if name.split(".")[0] in ("embed", "position") else after).append((name, tuple(p.shape)))
    rows = [(name, list(shape), _numel(shape)) for name, shape in before]
    for _, group in groupby(enumerate(layers), key=lambda item: item[1]):
        same = list(group)
        for name, shape in same[0][1]:
            rows.append((f"blocks.{_span(same[0][0], same[-1][0])}.{name}", list(shape), len(same) * _numel(shape)))
    return rows + [(name, list(shape), _numel(shape)) for name, shape in after]


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


# -- side by side -------------------------------------------------------------------------------------------------

ENDS = ("embed", "head", "init", "objective")


def compare(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Models side by side: rows of {"key", "values", "differs", "what"}. A knob has a row where some model says it."""
    window = max(set[str].intersection(*(set(facts["flops_per_token_at"]) for facts in models)), key=int)
    found = [_facts(facts, window) for facts in models]
    order: dict[str, int] = {}
    for rows, _ in found:
        for key in rows:
            order.setdefault(key.split(".")[0], len(order))
            order.setdefault(key, len(order))
    said = {key: None for _, spoken in found for key in spoken}
    table = []
    for key in sorted(said, key=lambda key: (order[key.split(".")[0]], order[key])):  # the knobs of a part together
        values = [rows.get(key, "") for rows, _ in found]
        differs = len(set(values)) > 1
        what = [line for facts in models if differs for line in meaning(facts["model"], key)]
        table.append({"key": key, "values": values, "differs": differs, "what": list(dict.fromkeys(what))})
    return table


def meaning(model: dict[str, Any], key: str) -> list[str]:
    """What a model's parts are, or what a knob does and the parts given for it, as their documentation says it: "ffn",
    "mixer.window", "position.scaling"."""
    axis, _, knob = key.partition(".")
    if axis == "ratio":
        return [RATIOS[knob]]
    if axis not in (*LAYER_FIELDS, *ENDS):
        return []
    table = AXES[f"model.{axis}"][0]
    specs = {text: parse(text) for text in ([model[axis]] if axis in ENDS else model[axis])}.values()
    if not knob:
        return [_what(table, spec) for spec in specs if spec.name in table]
    values = [spec.knobs[knob] for spec in specs if knob in spec.knobs]
    if not values:
        return []
    texts = (knob_text(table[name], knob) for name in {**dict.fromkeys(spec.name for spec in specs), **table}
             if name in table)  # fmt: skip
    does = [next((text for text in texts if text and not text.startswith("as ")), "")]  # not "as of another part"
    inner = [parse(to_text(value)) for value in values if isinstance(value, Spec) or _is_activation(value)]
    return does + [_what(found, value) for value in inner if (found := _table_of(value))]


def _what(table: Any, spec: Spec) -> str:
    return f"{spec.name}: {first_sentence(table[spec.name])}"


def knob_text(part: Any, knob: str) -> str:
    """What the documentation of a part says after `knob: `, until the next knob or the end of the paragraph."""
    one = f"(?:{'|'.join(map(re.escape, signature(part)))})"
    starts = rf"(?:^|(?<=\n)|(?<=\. )){one}(?:,\s+{one})*: "
    paragraphs = (inspect.getdoc(getattr(part, "func", part)) or "").split("\n\n")
    for text in paragraphs:
        found = list(re.finditer(starts, text))
        for match, after in zip(found, [*(m.start() for m in found[1:]), len(text)], strict=False):
            if knob in re.split(r",\s+|: ", match[0]):
                return " ".join(text[match.end() : after].split())
    return ""


def _facts(facts: dict[str, Any], window: str) -> tuple[dict[str, str], list[str]]:
    """Everything that can be compared, and the keys of what this model says of itself. window: of the operations."""
    model = facts["model"]
    config = ModelConfig.model_validate(model)
    rows = {"parameters": f"{facts['total_parameters']:,}"}
    rows |= {f"parameters.{k}": f"{n:,}" for k, n in facts["parameters"].items()}
    rows |= {k: f"{model[k]:,}" for k in ("n_layers", "dim", "context", "vocab_size")}
    rows["pattern"] = facts["letters"] if len(facts["kinds"]) > 1 else "all alike"
    rows |= {f"ratio.{name}": said for name, said in facts["proportions"].items()}
    spoken = [key for key in rows if key != "pattern" or len(facts["kinds"]) > 1]
    for axis in (*LAYER_FIELDS, *ENDS):
        specs = [parse(text) for text in (model[axis] if axis in LAYER_FIELDS else [model[axis]])]
        specs = [_inner_brief(spec, config) for spec in specs[: model["n_layers"]]] if axis in LAYER_FIELDS else specs
        rows |= _joined(axis, specs)
        table = AXES[f"model.{axis}"][0]
        spoken += [
            axis,
            *(f"{axis}.{k}" for spec in dict.fromkeys(map(str, specs)) for k in said(parse(spec), config, table)),
        ]
    costs = {
        f"flops.{int(window):,}": f"{facts['flops_per_token_at'][window]:,.0f} a token",
        "cache": f"{size(facts['cache_bytes_per_token'])} a token",
    }
    costs |= {f"cache.{int(n):,}": size(b) for n, b in facts["cache_bytes_at"].items()}
    kept = {f"cache.windows_only.{n:,}": facts["cache_bytes_windows_only_at"][str(n)] for n in AT}
    costs |= {key: size(n) for key, n in kept.items()}
    costs |= {f"weights.{k}": size(n) for k, n in facts["weight_bytes"].items()}
    without = [key for key, n in zip(kept, AT, strict=True) if kept[key] == facts["cache_bytes_at"][str(n)]]
    return rows | costs, [*spoken, *(key for key in costs if key not in without)]


def _in_brief(text: str, config: ModelConfig) -> str:
    """A knob's value; where it is a part, that part in brief."""
    value = parse_value(text)
    return brief(value, config, _table_of(value)) if isinstance(value, Spec) else text


def _inner_brief(spec: Spec, config: ModelConfig) -> Spec:
    """A part with every knob, and the parts inside it in brief."""
    inner = {k: parse(brief(v, config, _table_of(v))) if isinstance(v, Spec) else v for k, v in spec.knobs.items()}
    return Spec(spec.name, (), inner)


def _joined(axis: str, specs: list[Spec]) -> dict[str, str]:
    """A part and its knobs as rows; where layers differ, each value with the number of its layers."""
    rows: dict[str, str] = {}
    for knob in dict.fromkeys(["", *(k for spec in specs for k in spec.knobs)]):
        counts = Counter(
            _value(spec.knobs[knob]) if knob in spec.knobs else spec.name if not knob else "-" for spec in specs
        )
        many = " + ".join(f"{n} x {value}" for value, n in counts.items())
        rows[f"{axis}.{knob}" if knob else axis] = many if len(counts) > 1 else next(iter(counts), "")
    return rows


def _value(value: Value) -> str:
    return f"{value:.8g}" if isinstance(value, float) else to_text(value)


def size(n: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
