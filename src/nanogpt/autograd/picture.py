"""A traced graph as a drawing: SVG for a page or a paper, DOT for graphviz."""

from __future__ import annotations

from html import escape

from nanogpt.autograd.drawing import style
from nanogpt.autograd.folded import Box, Folded, any_layer, fold, layers_text
from nanogpt.autograd.layout import Layout, layered
from nanogpt.autograd.trace import Trace
from nanogpt.show import size

WIDE, TALL, GAP, ROW = 208, 56, 22, 82
"""A box, the room between two of them, from one rank to the next."""
LEFT, TOP = 56, 128
PANEL, NAME, BAR = 370, 150, 140
"""The column of bars on the right."""
MOST = 12
"""Bars in one list; the rest is one more."""
STYLE = style(
    "text{font-size:12px}.title{font-size:22px;font-weight:600}.small{font-size:11px;fill:#57606a}.op{font-weight:600}"
    ".end{text-anchor:end}.grad{font-size:11px}.frame{fill:none;stroke:#8a949e;stroke-dasharray:5 4}"
    ".bytes{fill:#0072b2}.saved{fill:#009e73}",
    ".small{fill:#a9b2bb}.grad{fill:#ff9d5c}.frame{stroke:#6b7682}.bytes{fill:#56b4e9}",
)


def svg(trace: Trace, title: str) -> str:
    """Top to bottom as the numbers flow; the gradient takes every arrow backwards. In each box: the operation and the
    shape of its result; where it was made and the weights it takes; what it keeps, as bytes and as a bar, and the RMS
    of the gradient that arrived."""
    folded = fold(trace)
    edges = [(parent, number) for number, box in folded.boxes.items() for parent in box.parents]
    laid = layered(list(folded.boxes), edges, dict.fromkeys(folded.boxes, float(WIDE)), GAP)
    shift = LEFT + WIDE / 2 - min(laid.places.values())
    shapes = [_text(LEFT - 20, 42, title, "title"), _text(LEFT - 20, 64, _head(trace), "small"),
              _text(LEFT - 20, 81, "Arrows: forward; the gradient goes against them. \u2207: RMS of the gradient that "
                    "arrives.", "small"),
              _text(LEFT - 20, 97, "Bar: bytes kept for the backward pass. Views are left out.", "small")]  # fmt: skip
    for number, layers in folded.frames.items():
        shapes += _frame(folded, laid, number, layers, shift)
    for edge in edges:
        shapes.append(_line([(x + shift, rank * ROW + TOP) for rank, x in laid.routes[edge]]))
    most = max((box.bytes for box in folded.boxes.values()), default=0)
    for number, box in folded.boxes.items():
        shapes += _box(box, laid.places[number] + shift - WIDE / 2, laid.ranks[number] * ROW + TOP, most)
    right = max(laid.places.values()) + shift + WIDE / 2 + 70
    low = TOP + max(laid.ranks.values()) * ROW + TALL
    panel, end = _panel(trace, right)
    wide, tall = right + PANEL, max(low, end) + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall:.0f}" width="{wide:.0f}" '
        f'height="{tall:.0f}" role="img"><title>{escape(title)}: the graph of one training step</title>{STYLE}\n'
        + "\n".join(shapes + panel) + "\n</svg>\n"
    )  # fmt: skip


def _head(trace: Trace) -> str:
    operations = sum(not node.parameter for node in trace.nodes)
    return (
        f"{operations} operations \u00b7 {trace.tokens:,} tokens \u00b7 loss {trace.loss:.3f} \u00b7 "
        f"{size(trace.kept)} kept for the backward pass"
    )


def _frame(folded: Folded, laid: Layout, number: int, layers: list[int], shift: float) -> list[str]:
    inside = [n for n, box in folded.boxes.items() if box.frame == number]
    if not inside:
        return []
    first = min(laid.ranks[n] for n in inside)
    passing = [x for (_, end), route in laid.routes.items() if end in inside for rank, x in route if rank >= first]
    left = min(laid.places[n] for n in inside) + shift - WIDE / 2 - 22
    right = max(*(laid.places[n] + WIDE / 2 for n in inside), *passing) + shift + 22
    top = first * ROW + TOP - 24
    low = max(laid.ranks[n] for n in inside) * ROW + TOP + TALL + 12
    kept = size(sum(folded.boxes[n].bytes for n in inside))
    said = f"blocks.{layers[0]}" if len(layers) == 1 else f"blocks {layers_text(layers)}: {len(layers)} alike"
    return [
        f'<rect class="frame" x="{left:.0f}" y="{top:.0f}" width="{right - left:.0f}" '
        f'height="{low - top:.0f}" rx="8"/>',
        _text(left + 10, top + 16, f"{said} \u00b7 {kept} {'each' if len(layers) > 1 else ''}", "small"),
    ]


def _line(points: list[tuple[float, float]]) -> str:
    """From the lower edge of a box, through the gaps beside others, to the upper edge of the next."""
    (x, y), last = points[0], points[-1]
    path = f"M{x:.1f} {y + TALL:.1f}"
    y += TALL
    for right, low in points[1:]:
        middle = (y + low) / 2
        path += (
            f"C{x:.1f} {middle:.1f} {right:.1f} {middle:.1f} {right:.1f} {low - (2 if (right, low) == last else 0):.1f}"
        )
        if (right, low) != last:
            path += f"V{low + TALL:.1f}"
        x, y = right, low + TALL
    return f'<path class="line" marker-end="url(#head)" d="{path}"/>'


def _box(box: Box, x: float, y: float, most: int) -> list[str]:
    last = box.nodes[-1]
    kept = [s.name for node in box.nodes for s in node.saved if s.kind == "kept"]
    again = [s.name for node in box.nodes for s in node.saved if s.kind == "again"]
    said = f"{size(box.bytes)} {', '.join(kept)}" if kept else f"{', '.join(again)}: kept above" if again else ""
    shape = _by(last.shape)
    weights = " ".join(f"W {_by(shape)}" for shape in box.weights)
    gradient = "" if last.gradient is None else f"\u2207 {last.gradient:.1e}"
    gradient = gradient.replace("e-0", "e-").replace("e+00", "").replace(" 0.0", " 0")
    shapes = [
        f'<rect class="box" x="{x:.1f}" y="{y}" width="{WIDE}" '
        f'height="{TALL}" rx="5"><title>{_tip(box)}</title></rect>',
        _text(x + 8, y + 17, _short(" ".join(n.op for n in box.nodes), 23 - len(shape)), "op"),
        _text(x + WIDE - 8, y + 17, shape, "small end"),
        _text(x + 8, y + 32, _short(box.name or "the block", 16), "small"),
        _text(x + WIDE - 8, y + 32, _short(weights, 17), "small end"),
        _text(x + 8, y + 47, _short(said, 22), "small"), _text(x + WIDE - 8, y + 47, gradient, "grad end"),
    ]  # fmt: skip
    if box.bytes:
        length = max(2.0, (WIDE - 12) * box.bytes / most)
        shapes.append(f'<rect class="bytes" x="{x + 6:.1f}" y="{y + TALL - 5}" width="{length:.1f}" height="3"/>')
    return shapes


def _panel(trace: Trace, x: float) -> tuple[list[str], float]:
    """Where the memory is, as bars; and how far down they reach."""
    lists = [
        ("bytes kept, by module", trace.by(lambda n: any_layer(n.module)), "bytes"),
        ("by operation", trace.by(lambda n: n.op), "bytes"),
    ]
    if trace.recomputed:
        lists.append(("with each block checkpointed", _checkpointing(trace), "saved"))
    shapes, y = [], float(TOP)
    for title, found, kind in lists:
        shapes.append(_text(x, y, title, "op"))
        y += 8
        rows = list(found.items())
        if len(rows) > MOST:
            rows = [*rows[:MOST], (f"{len(rows) - MOST} more", sum(n for _, n in rows[MOST:]))]
        for name, count in rows:
            length = max(1.0, BAR * count / max(1, *(n for _, n in rows)))
            y += 17
            shapes.append(_text(x + NAME - 6, y, _short(name, 25), "small end"))
            shapes.append(f'<rect class="{kind}" x="{x + NAME:.1f}" y="{y - 9}" width="{length:.1f}" height="10"/>')
            shapes.append(_text(x + NAME + 5 + length, y, size(count), "small"))
        y += 38
    return shapes, y


def _checkpointing(trace: Trace) -> dict[str, int]:
    return {
        "all kept": trace.kept,
        "inputs of blocks": trace.checkpointed,
        "+ one block again": trace.checkpointed + trace.recomputed,
    }


def _tip(box: Box) -> str:
    saved = [f"{s.name} {_by(s.shape)} {s.dtype} {s.kind} {s.bytes:,} B" for node in box.nodes for s in node.saved]
    return escape(f"{' '.join(n.op for n in box.nodes)} in {box.nodes[0].module}. {'; '.join(saved)}")


def _by(shape: list[int]) -> str:
    return "\u00d7".join(map(str, shape)) if shape else "one number"


def _short(said: str, most: int) -> str:
    return said if len(said) <= most else said[: most - 1] + "\u2026"


def _text(x: float, y: float, said: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(said)}</text>'


def dot(trace: Trace) -> str:
    """Every node, views and weights too, a cluster for each module, in graphviz's language."""
    lines = ["digraph {", "  node [shape=box]"]
    modules: dict[str, list[str]] = {}
    for node in trace.nodes:
        said = [node.parameter or node.op, "x".join(map(str, node.shape)) or "1"]
        said += [f"{s.name}: {s.kind}, {s.bytes} B" for s in node.saved]
        said += [] if node.gradient is None else [f"grad {node.gradient:.2e}"]
        label = "\\n".join(said)
        modules.setdefault(node.module, []).append(f'    n{node.id} [label="{label}"]')
    for number, (module, members) in enumerate(modules.items()):
        lines += [f"  subgraph cluster_{number} {{", f'    label="{module}"', *members, "  }"]
    lines += [f"  n{before} -> n{node.id}" for node in trace.nodes for before in node.inputs]
    return "\n".join([*lines, "}"]) + "\n"
