"""How a block joins its parts to the stream, found by running its own `forward` with recorders in the parts' places: so
a layout is drawn as it computes, and one that is written tomorrow needs no drawing of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nanogpt.config import ModelConfig
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.part import Nothing


@dataclass(eq=False)
class Signal:
    """What one part gives: its name in the block and the signals that it read. The stream itself has no name."""

    name: str = ""
    read: tuple[Signal, ...] = ()

    def __add__(self, other: Any) -> Signal:
        if isinstance(other, Signal) and "nothing" not in (self.name, other.name):
            return Signal("+", (self, other))
        return other if self.name == "nothing" else self

    __radd__ = __add__


class Recorder(nn.Module):
    """Stands where a part stood, and answers with a signal."""

    def __init__(self, name: str, part: nn.Module) -> None:
        super().__init__()
        self.name = "nothing" if isinstance(part, Nothing) else name
        self.silent = getattr(getattr(part, "spec", None), "name", "") == "none" and not isinstance(part, Nothing)
        self.joins = name.endswith("_residual")

    def forward(self, *inputs: Any) -> Signal:
        signals = tuple(s for s in inputs if isinstance(s, Signal))
        if self.joins and signals[-1].name == "nothing":
            return signals[0]
        if self.joins and self.silent:  # the branch replaces the stream
            return signals[-1]
        if signals[0].name == "nothing" or (self.silent and not self.joins):
            return signals[0]
        return Signal(self.name, signals)


@dataclass
class Step:
    """One thing that happens to the stream, bottom to top.

    branches: what reads the stream here, each the names of its parts in order; `shared` come before all of them. They
    meet the stream again in `join` (a part's name, or "+"); with no branches, the parts of `shared` lie on the stream.
    """

    shared: list[str]
    branches: list[list[str]] = field(default_factory=list)
    join: str = ""


def steps(block: nn.Module) -> list[Step]:
    """The steps of a block (which is spent by this). A forward that cannot be followed is one step."""
    names = [name for name, part in block.named_children() if not isinstance(part, Nothing)]
    for name, part in list(block.named_children()):
        setattr(block, name, Recorder(name, part))
    block.__dict__["drop"] = lambda signal: signal
    stream = Signal()
    try:
        return list(reversed(list(_back(block(stream, None), stream))))
    except Exception:  # a user's block may do what it likes with the stream
        return [Step([n for n in names if not n.endswith("_residual")])]


def _back(signal: Signal, stream: Signal) -> Iterator[Step]:
    """The steps from the top down to the stream's start."""
    while signal is not stream:
        if len(signal.read) < 2:
            yield Step([signal.name])
            signal = signal.read[0]
            continue
        before, branch = signal.read
        parts = [_chain(part, before) for part in _summands(branch)]
        shared = _common(parts)
        branches = [[s.name for s in part[len(shared) :]] for part in parts]
        yield Step([s.name for s in shared], branches, signal.name)
        signal = before


def _summands(signal: Signal) -> list[Signal]:
    return [s for part in signal.read for s in _summands(part)] if signal.name == "+" else [signal]


def _chain(signal: Signal, start: Signal) -> list[Signal]:
    """The parts from the stream to here, in order."""
    chain: list[Signal] = []
    while signal is not start:
        chain.insert(0, signal)
        if len(signal.read) != 1:
            raise ValueError("not a chain")
        signal = signal.read[0]
    return chain


def _common(chains: list[list[Signal]]) -> list[Signal]:
    """What several branches have before they part."""
    if len(chains) < 2:
        return []
    return [column[0] for column in zip(*chains, strict=False) if all(s is column[0] for s in column)]


def wiring(config: ModelConfig, layers: list[int]) -> list[list[Step]]:
    """The steps of these layers."""
    with torch.device("meta"):
        model = LanguageModel(config, only=layers)
    return [steps(block) for block in model.blocks]
