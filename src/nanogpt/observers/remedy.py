"""A cure for a bad start, found by trying: what other schemes would do to the same model, by theory and measured."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nanogpt.config import RunConfig, change
from nanogpt.errors import UserError
from nanogpt.init.base import Scheme
from nanogpt.init.roles import Role, roles
from nanogpt.init.schemes import SCHEMES
from nanogpt.model.language_model import LanguageModel
from nanogpt.observers.checks.cures import LIVELY
from nanogpt.observers.initial import Start, a_pass, examine
from nanogpt.observers.look import Probe, look, probe_of_config
from nanogpt.observers.theory import Theory, predict
from nanogpt.observers.verdict import BIASES, Fault, Numbers, judge
from nanogpt.parts import build
from nanogpt.spec import Spec, parse

WEIGHT = {"bad": 100.0, "warn": 1.0, "good": 0.0}
BETTER, ENOUGH = 0.5, 0.05
"""Share of the faults that may be left: with more it is no cure; with so little nothing else is tried."""
SMALL_HEAD = "normal(std=0.01)"
"""Of the repaired network in makemore's third lecture."""
NORMED = "model.layout=pre model.norm=rmsnorm"
"""What keeps tokens apart and sizes in bounds at any depth, whatever the weights."""
MEASURED = 2
"""Of the schemes that theory prefers so many are measured."""


@dataclass(frozen=True)
class Cure:
    """Settings to type, and what is left to find fault with."""

    settings: str
    left: list[Fault]
    start: Start | None = None
    """As measured; None by theory."""

    def as_dict(self) -> dict[str, Any]:
        facts = self.start.as_dict() if self.start else {}
        kept = {key: facts.get(key) for key in ("loss", "factor_a_layer")}
        return {"settings": self.settings, **kept, "left": [fault.as_dict() for fault in self.left]}


def by_theory(model: LanguageModel, start: Start) -> Start:
    """The same start, each fault with the cure that theory prefers."""
    found = ranked(model, start)
    return prescribed(start, found[0] if found else None, model)


def measured(config: RunConfig, model: LanguageModel, probe: Probe, start: Start) -> tuple[Start, Cure | None]:
    """The same start, each fault with the cure that was measured to be best. The model is left with other weights."""
    cures = []
    for cure in ranked(model, start)[:MEASURED]:
        drawn = _drawn(config, model, probe, cure)
        cures.append(Cure(cure.settings, drawn.faults, drawn))
    least = min((ill(cure.left) for cure in cures), default=ill(start.faults))
    if least > ENOUGH * ill(start.faults):
        for settings in _other_parts(model, start.faults):
            try:
                other, its_probe, _ = probe_of_config(change(config, settings.split()))
            except UserError:  # this model cannot have it
                continue
            changed = examine(other, look(other, its_probe, weights=False), theory=Theory())
            cures.append(Cure(settings, changed.faults, changed))
    cures = [c for c in cures if ill(c.left) < BETTER * ill(start.faults)]
    best = min(cures, key=lambda c: ill(c.left), default=None)
    return prescribed(start, best, model), best


def prescribed(start: Start, cure: Cure | None, model: LanguageModel) -> Start:
    """Each fault that a cure removes, or makes small, with the cure. What none removes has none, but for dead units,
    which an activation with a slope everywhere cannot have."""
    faults = []
    for fault in start.faults:
        left = [f for f in cure.left if f.kind == fault.kind] if cure else []
        cured = cure is not None and ill(left) < BETTER * ill([fault])
        lively = _lively(model) if fault.kind == "dead" else ""
        faults.append(replace(fault, cure=cure.settings if cure and cured else lively))
    return replace(start, faults=faults)


def ranked(model: LanguageModel, start: Start) -> list[Cure]:
    """Schemes that theory takes for better, the best first, as `model.init=...`. Of two that are as good the one that
    changes less."""
    faults = curable(model, start.faults)
    if not faults:
        return []
    run, targets = a_pass(model)
    found: list[Cure] = []
    for text in candidates(model.scheme.spec, faults):
        try:
            scheme = build(SCHEMES, text, dim=model.dim, n_layers=len(model.blocks))
            theory = predict(model, run, targets, powers(model, scheme))
        except (UserError, ValueError):  # this model cannot have it
            continue
        left = judge(Numbers.predicted(theory), start.chain, start.chance, theory)
        rest = ill(curable(model, left))
        if rest < BETTER * ill(faults):
            found.append(Cure(f"model.init={quoted(text)}", left))
        if not rest:
            break
    return sorted(found, key=lambda cure: ill(cure.left))


def candidates(scheme: Spec, faults: Sequence[Fault]) -> list[str]:
    """Schemes to try, those that change least first. Where only the logits are too large the head alone is one."""
    by_role = scheme.name == "by_role"
    rest = scheme.knobs.get("rest", scheme) if by_role else scheme
    named = {k: v for k, v in scheme.knobs.items() if by_role and str(v) not in ("", "rest")}
    texts = []
    if all(fault.kind == "loss" for fault in faults):
        for role, small in (("head", SMALL_HEAD), ("embedding", "normal(std=0.02)")):
            texts.append(str(Spec("by_role", (), {"rest": rest, **named, role: parse(small)})))
    elif all(fault.kind in ("loss", "saturated") for fault in faults):  # as the lecture repairs makemore's network
        texts.append(f"by_role(rest=kaiming(gain=after), embedding={rest}, head={SMALL_HEAD})")
    texts += ["kaiming", "kaiming(gain=after)", "gpt2"]
    texts += [f"by_role(rest={name}, head={SMALL_HEAD})" for name in ("kaiming", "kaiming(gain=after)")]
    texts.append(f"by_role(rest=kaiming(gain=after, embedding=1.0), head={SMALL_HEAD})")
    texts += ["xavier", "normal(std=0.02)"]
    return [text for text in dict.fromkeys(texts) if text != str(scheme)]


def ill(faults: Sequence[Fault]) -> float:
    """How ill a start is, as one number."""
    return sum(WEIGHT[fault.level] * (1 + math.log1p(min(1e3, max(0.0, fault.score))) / 10) for fault in faults)


def curable(model: LanguageModel, faults: Sequence[Fault]) -> list[Fault]:
    """Those that a scheme can cure: none keeps tokens apart in a deep network without residuals or norms."""
    return [fault for fault in faults if fault.kind != "dead" or BIASES in fault.words or not _bare(model)]


def quoted(text: str) -> str:
    """As a shell wants it."""
    return f'"{text}"' if "(" in text else text


def powers(model: LanguageModel, scheme: Scheme) -> dict[str, float]:
    """E[w^2] of every parameter as this scheme would draw it. What parts fill themselves stays as it is."""
    known = roles(model)
    return {name: _power(model.get_parameter(name), role, scheme) for name, role in known.items() if not role.fill}


def _power(parameter: Tensor, role: Role, scheme: Scheme) -> float:
    if role.name == "scale":
        return 1.0
    values, random = torch.empty(parameter.shape), torch.Generator().manual_seed(0)
    with torch.no_grad():
        (scheme.fill_bias if role.name == "bias" else scheme.fill)(role, values, random)
    return float(values.double().square().mean())


def _drawn(config: RunConfig, model: LanguageModel, probe: Probe, cure: Cure) -> Start:
    """The model, its weights drawn by another scheme, looked at."""
    (setting,) = shlex.split(cure.settings)
    model.scheme = build(SCHEMES, setting.removeprefix("model.init="), dim=model.dim, n_layers=len(model.blocks))
    model.initialise(config.seed)
    return examine(model, look(model, probe, weights=False), theory=Theory())  # what was measured is enough


def _other_parts(model: LanguageModel, faults: Sequence[Fault]) -> list[str]:
    """What may help where no scheme does: norms where there are none, an activation that cannot die."""
    dead = any(fault.kind == "dead" for fault in faults)
    return [text for text in (_lively(model) if dead else "", NORMED if _bare(model) else "") if text]


def _lively(model: LanguageModel) -> str:
    """`model.ffn.act=leaky_relu` where units are rectified."""
    blocks: list[Any] = list(model.blocks)
    spec = getattr(blocks[0].ffn, "spec", None) if blocks else None
    act = LIVELY.get(str(spec.knobs.get("act", "")) if spec else "")
    return f"model.ffn.act={act}" if act == "leaky_relu" else ""


def _bare(model: LanguageModel) -> bool:
    """Whether there are blocks in which no norm stands."""
    blocks: list[Any] = list(model.blocks)
    return any(block.spec.name == "none" for block in blocks)
