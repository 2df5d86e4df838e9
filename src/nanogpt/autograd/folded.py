"""A traced graph made small enough to read: views and weights go into the operations that use them, small operations of
one module into one box, and of layers that are alike one is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nanogpt.autograd.trace import Node, Trace

LAYER = re.compile(r"^blocks\.(\d+)(?:\.|$)")


SMALL = ("Add", "Addcmul", "Cat", "Clone", "Div", "Exp", "Mean", "Mul", "Neg", "Pow", "Rsqrt", "Sqrt", "Stack", "Sub",
         "Sum", "ToCopy")  # fmt: skip
"""Operations that are drawn together where they follow each other in one module: a norm is one box, not six."""


@dataclass
class Box:
    """What is drawn as one. nodes: in their order. parents: ids of other boxes. weights: shapes of the parameters that
    go in. frame: 0 for what stands alone, else the number of its kind of layer."""

    nodes: list[Node]
    parents: list[int]
    weights: list[list[int]]
    frame: int = 0
    name: str = ""

    @property
    def bytes(self) -> int:
        return sum(node.bytes for node in self.nodes)


@dataclass
class Folded:
    """boxes by the id of their first node, each after its parents. frames: of each kind of layer, those alike."""

    boxes: dict[int, Box] = field(default_factory=dict)
    frames: dict[int, list[int]] = field(default_factory=dict)


def fold(trace: Trace) -> Folded:
    layers: dict[int, list[Node]] = {}
    for node in trace.nodes:
        if (layer := layer_of(node)) is not None:
            layers.setdefault(layer, []).append(node)
    first: dict[object, int] = {}
    stands_for: dict[int, int] = {}  # each node of a layer -> the same node of the first layer like it
    made = Folded()
    for layer, nodes in sorted(layers.items()):
        like = first.setdefault(_signature(nodes), layer)
        made.frames.setdefault(like, []).append(layer)
        stands_for |= {a.id: b.id for a, b in zip(nodes, layers[like], strict=True)}
    kinds = {like: number for number, like in enumerate(made.frames, 1)}
    lies_in: dict[int, int] = {}
    for node in trace.nodes:
        if node.is_view or node.parameter or stands_for.get(node.id, node.id) != node.id:
            continue
        sources = list(_sources(trace.nodes, node))
        parents = {lies_in[stands_for.get(s.id, s.id)]: None for s in sources if not s.parameter}
        joined = _joins(node, list(parents), made.boxes)
        lies_in[node.id] = node.id if joined is None else joined
        box = made.boxes.setdefault(lies_in[node.id], Box([], [], [], name=node.module))
        box.nodes.append(node)
        box.parents += [p for p in parents if p != joined and p not in box.parents]
        box.weights += [s.shape for s in sources if s.parameter]
        if (layer := layer_of(node)) is not None:
            box.frame, box.name = kinds[layer], LAYER.sub("", node.module)
    made.frames = {number: made.frames[like] for like, number in kinds.items()}
    return made


def _joins(node: Node, parents: list[int], boxes: dict[int, Box]) -> int | None:
    """The box before it that a small operation is drawn in. What else it takes must be older than that box, or the box
    would come before something that itself comes before the box."""
    for parent in parents:
        last = boxes[parent].nodes[-1]
        if node.op in SMALL and last.op in SMALL and last.module == node.module:
            return parent if all(other <= parent for other in parents) else None
    return None


def layer_of(node: Node) -> int | None:
    found = LAYER.match(node.module)
    return int(found[1]) if found else None


def any_layer(module: str) -> str:
    """blocks.7.mixer.q -> blocks.*.mixer.q"""
    return re.sub(r"^blocks\.\d+", "blocks.*", module)


def layers_text(layers: list[int]) -> str:
    """[0, 1, 2, 4] -> '0-2, 4'"""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _signature(nodes: list[Node]) -> tuple[object, ...]:
    """What two layers must have in common to be drawn once: operations, places, shapes, and how they are joined."""
    at = {node.id: n for n, node in enumerate(nodes)}
    return tuple(
        (n.op, LAYER.sub("", n.module), tuple(n.shape), LAYER.sub("", n.parameter), tuple(at.get(i) for i in n.inputs))
        for n in nodes
    )


def _sources(nodes: list[Node], node: Node) -> Iterator[Node]:
    """What a node took, seen through views."""
    for number in node.inputs:
        if nodes[number].is_view:
            yield from _sources(nodes, nodes[number])
        else:
            yield nodes[number]
