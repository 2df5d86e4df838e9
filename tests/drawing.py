"""Random models for property tests: every part of every table, with random knobs, put together at random.

Words are drawn from a knob's own annotation; for numbers and inner parts VALUES says what to try. A combination that
the house refuses is drawn again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hypothesis import assume, note
from hypothesis import strategies as st

from nanogpt.activations import ACTIVATIONS
from nanogpt.classic.smoothing import SMOOTHINGS
from nanogpt.config import ModelConfig
from nanogpt.errors import UserError
from nanogpt.model.ends import EMBEDS, HEADS
from nanogpt.model.language_model import resolve_model
from nanogpt.model.norms import NORMS
from nanogpt.model.positions import SCALINGS
from nanogpt.model.residuals import RESIDUALS
from nanogpt.parts import knobs_of
from nanogpt.show import AXES

VOCAB, CONTEXT = 11, 10
one = st.sampled_from

VALUES: dict[str, Any] = {
    "act": lambda: parts(ACTIVATIONS, ("dim",)),
    "norm": lambda: parts(NORMS, ("dim",)),
    "qk_norm": lambda: parts(NORMS, ("dim",)),
    "residual": lambda: parts(RESIDUALS, ("dim", "layer", "n_layers")),
    "scaling": lambda: parts(SCALINGS, ("dim", "context", "heads", "head_dim")),
    "smoothing": lambda: parts(SMOOTHINGS, ("order", "vocab_size")),
    "heads": lambda: one([1, 2, 3, 4, 6]),
    "kv_heads": lambda: one([1, 2, 3]),
    "head_dim": lambda: one([1, 2, 3, 4, 6]),
    "window": lambda: one([0, 1, 2, 3, CONTEXT - 1, CONTEXT, 100]),
    "hidden": lambda: one([1, 5, 12]),
    "multiple_of": lambda: one([1, 5]),
    "eps": lambda: one([1e-5, 0.01, 1]),
    "dropout": lambda: one([0.3]),
    "forget": lambda: one([0.3]),
    "drop_path": lambda: one([0.3]),
    "softcap": lambda: one([0, 5]),
    "scale": lambda: one([0.5, 2]),
    "base": lambda: one([100, 10000]),
    "share": lambda: one([0.5, 1]),
    "std": lambda: one([0.1]),
    "embedding": lambda: one([0.5]),
    "rest": lambda: one(["normal(std=0.1)", "xavier(distribution=uniform)"]),
    "kernel": lambda: one([1, 2, 3]),
    "dilation": lambda: one([1, 2, 3]),
    "groups": lambda: one([1, 2]),
    "tokens": lambda: one([1, 2, 4]),
    "order": lambda: one([1, 2, 3]),
    "label_smoothing": lambda: one([0.1]),
    "z_loss": lambda: one([0.01]),
    "by": lambda: one([0.3]),
    "factor": lambda: one([2.0, 4.0]),
    "original": lambda: one([4, 20]),
    "short": lambda: one(["[1]", "[1, 2]", "[1, 2, 3]"]),
    "long": lambda: one(["[2]", "[2, 3]", "[2, 3, 4]"]),
}


def words_of(annotation: Any) -> list[str]:
    """The words of a Literal, as text or as an object."""
    found = re.search(r"Literal\[(.*?)\]", str(annotation))
    return [word.strip(" '\"") for word in found.group(1).split(",")] if found else []


@st.composite
def parts(draw: st.DrawFn, table: Mapping[str, Any], supplied: tuple[str, ...], name: str | None = None) -> str:
    """A part of a table, with about half of its knobs drawn and the others left out."""
    name = name or draw(one(sorted(table)))
    knobs = {}
    for knob, parameter in knobs_of(table[name], dict.fromkeys(supplied)).items():
        needed = parameter.default is parameter.empty
        if not needed and draw(st.booleans()):
            continue
        if words := words_of(parameter.annotation):
            knobs[knob] = draw(one(words))
        elif knob in VALUES:
            knobs[knob] = draw(VALUES[knob]())
        elif needed:
            raise LookupError(f"{name}: say in VALUES what to try for '{knob}'")
    return f"{name}({', '.join(f'{k}={v}' for k, v in knobs.items())})" if knobs else name


def axis(field: str, name: str | None = None) -> st.SearchStrategy[str]:
    return parts(*AXES[f"model.{field}"], name=name)


def depths(part: st.SearchStrategy[str], n_layers: int) -> st.SearchStrategy[str | list[str]]:
    """One part; a list; a cycle with counts; counts and a fill."""

    @st.composite
    def cycles(draw: st.DrawFn) -> str:
        return " + ".join(f"{draw(one(['', '2*', '3*']))}{draw(part)}" for _ in range(draw(st.integers(1, 3))))

    @st.composite
    def fills(draw: st.DrawFn) -> str:
        few = draw(st.integers(1, n_layers))
        terms = [f"{few}*{draw(part)}", f"*{draw(part)}"]
        return " + ".join(draw(st.permutations(terms)))

    return part | st.lists(part, min_size=1, max_size=3) | cycles() | (fills() if n_layers else part)


def base(**fields: Any) -> dict[str, Any]:
    return {"dim": 12, "n_layers": 2, "context": CONTEXT, "vocab_size": VOCAB} | fields


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """A model that the house builds."""
    head, embed = draw(one(sorted(HEADS))), draw(one(["token", "token", *sorted(EMBEDS)]))
    counts = embed == "ngram"
    head = "none" if counts else head
    n_layers = 0 if counts else draw(one([0, 1, 1, 2, 3, 4]))
    config = base(
        dim=draw(one([4, 6, 8, 12])),
        n_layers=n_layers,
        embed=draw(axis("embed", embed)),
        head=draw(axis("head", head)),
        init=draw(axis("init")),
        objective=draw(axis("objective")),
    )
    if head == "none":
        config |= {"dim": draw(one(["vocab", VOCAB + 1])), "vocab_size": VOCAB + 1}  # an even width that heads divide
    for field in ("position", "mixer", "ffn", "norm", "layout"):
        config[field] = "none" if counts else draw(depths(axis(field), n_layers))
    assume("by=length" not in str(config["position"]))  # there what a text gets depends on its company, as it says
    note(str(config))
    made = ModelConfig.model_validate(config)
    try:
        resolve_model(made)
    except UserError as error:
        note(f"refused: {error}")
        assume(False)
    return made


def alone() -> list[tuple[str, str, dict[str, Any]]]:
    """(axis, part, model fields): every part of every table once, without its optional knobs, where it can stand."""
    found = []
    attention = "attention(heads=2)"
    around: dict[str, dict[str, Any]] = {
        "position": {"mixer": attention},
        "mixer": {"ffn": "mlp"},
        "ffn": {"mixer": attention},
        "norm": {"mixer": attention, "ffn": "mlp"},
        "layout": {"mixer": attention, "ffn": "mlp", "norm": "rmsnorm"},
        "head": {"mixer": attention},
        "embed": {"mixer": attention},
        "init": {"mixer": attention, "ffn": "mlp", "norm": "layernorm"},
        "objective": {"mixer": attention},
    }
    needed = {"by": 0.3, "hidden": 5, "tokens": 2, "groups": 2, "factor": 2.0, "original": 4, "order": 2}
    needed |= {"short": "[1, 2, 3]", "long": "[2, 3, 4]"}
    for field, fields in around.items():
        table, supplied = AXES[f"model.{field}"]
        for name in sorted(table):
            knobs = knobs_of(table[name], dict.fromkeys(supplied))
            must = ", ".join(f"{k}={needed[k]}" for k, p in knobs.items() if p.default is p.empty)
            own = dict(fields)
            if name == "ngram":
                own = {"dim": "vocab", "n_layers": 0, "head": "none"}
            if (field, name) == ("head", "none"):
                own |= {"dim": "vocab", "vocab_size": 12}
            if (field, name) == ("head", "tree"):
                own |= {"embed": "window(tokens=4)"}
                must += ", tokens=4"
            found.append((field, name, base(**own) | {field: f"{name}({must})" if must else name}))
    found += [("act", name, base(mixer=attention, ffn=f"mlp(act={name})")) for name in sorted(ACTIVATIONS)]
    for name in sorted(RESIDUALS):
        layout = f"pre(residual={name}{'(by=0.3)' if name == 'scaled' else ''})"
        found.append(("residual", name, base(mixer=attention, ffn="mlp", layout=layout)))
    return found
