"""A scalar's graph as a picture: DOT text for graphviz, or SVG that needs no other program."""

from __future__ import annotations

from html import escape
from itertools import accumulate, pairwise

from nanogpt.autograd.layout import layered
from nanogpt.autograd.order import topological
from nanogpt.autograd.scalar import Value


def style(light: str, dark: str) -> str:
    """Colours, and the head of an arrow. Dark where the reader's screen is; paper is light, and one sheet takes all."""
    return f"""<style>
svg{{font-family:Helvetica,Arial,sans-serif;background:#fff}}text{{fill:#1b1f24}}.line{{fill:none;stroke:#57606a;stroke-width:1.3}}
.box{{fill:#f4f6f8;stroke:#8a949e}}.grad{{fill:#a33f00}}.head{{fill:#57606a}}
{light}
@media screen and (prefers-color-scheme:dark){{svg{{background:#15181c}}text{{fill:#e6e8ea}}.line{{stroke:#a9b2bb}}
.box{{fill:#242a31;stroke:#6b7682}}.grad{{fill:#ff9d5c}}.head{{fill:#a9b2bb}}
{dark}}}
@media print{{svg{{max-width:100%;max-height:100vh}}}}
</style><defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">
<path class="head" d="M0 0.5L8 4L0 7.5z"/></marker></defs>"""


STYLE = style(
    "text{font-size:12.5px;text-anchor:middle}.label{font-weight:600}.rule{stroke:#8a949e}.op{fill:#dcebf5;stroke:#0072b2}",
    ".rule{stroke:#6b7682}.op{fill:#12354a;stroke:#56b4e9}",
)
TALL, STEP, OP, ROOM = 28, 18, 15, 34
"""Height of a value's box, room between boxes, radius of an operation, room between columns."""


def draw_dot(root: Value) -> str:
    """Everything that made this value, left to right, in graphviz's language: records of label, data and grad as in
    micrograd's `draw_dot`."""
    lines = ["digraph {", "  rankdir=LR"]
    values = topological([root], lambda value: value.parents)
    names = {value: f"v{n}" for n, value in enumerate(values)}
    for value, name in names.items():
        said = " | ".join(_cells(value)).replace('"', "'")
        lines.append(f'  {name} [shape=record, label="{{ {said} }}"]')
        if value.op:
            lines += [f'  {name}op [label="{value.op}"]', f"  {name}op -> {name}"]
            lines += [f"  {names[parent]} -> {name}op" for parent in value.parents]
    return "\n".join([*lines, "}"]) + "\n"


def draw_svg(root: Value) -> str:
    """The same as SVG: values as boxes, operations as circles; light and dark as the reader's page is."""
    values = topological([root], lambda value: value.parents)
    nodes: list[object] = []
    edges: list[tuple[object, object]] = []
    for value in values:
        if value.op:
            nodes.append((value, "op"))
            edges += [(parent, (value, "op")) for parent in value.parents] + [((value, "op"), value)]
        nodes.append(value)
    wide: dict[object, float] = {value: float(sum(map(_width, _cells(value)))) for value in values}
    laid = layered(nodes, edges, dict.fromkeys(nodes, float(TALL)), STEP)
    columns = [0.0] * (max(laid.ranks.values()) + 1)
    for node in nodes:
        columns[laid.ranks[node]] = max(columns[laid.ranks[node]], wide.get(node, 2.0 * OP))
    *lefts, end = accumulate((column + ROOM for column in columns), initial=30.0)
    top = min(laid.places.values()) - TALL
    shapes = []
    for (a, b), route in laid.routes.items():
        points = [(lefts[r] + columns[r] / 2, y - top) for r, y in route]
        points[0] = (points[0][0] + wide.get(a, 2 * OP) / 2, points[0][1])
        points[-1] = (points[-1][0] - wide.get(b, 2 * OP) / 2 - 1, points[-1][1])
        shapes.append(f'<path class="line" marker-end="url(#head)" d="{curve(points)}"/>')
    for node in nodes:
        x, y = lefts[laid.ranks[node]] + columns[laid.ranks[node]] / 2, laid.places[node] - top
        shapes += _value(node, x, y, wide[node]) if isinstance(node, Value) else _operation(node, x, y)
    right, low = end - ROOM + 30, max(laid.places.values()) - top + TALL
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right:.0f} {low:.0f}" width="{right:.0f}" '
        f'height="{low:.0f}" role="img"><title>{escape(root.label or "graph")}</title>{STYLE}\n'
        + "\n".join(shapes) + "\n</svg>\n"
    )  # fmt: skip


def curve(points: list[tuple[float, float]]) -> str:
    """A smooth line from left to right through the points."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x, y), (right, low) in pairwise(points):
        middle = (x + right) / 2
        path += f"C{middle:.1f} {y:.1f} {middle:.1f} {low:.1f} {right:.1f} {low:.1f}"
    return path


def _cells(value: Value) -> list[str]:
    label = [value.label] if value.label else []
    return [*label, f"data {value.data:.4f}", f"grad {value.grad:.4f}"]


def _width(said: str) -> int:
    return 7 * len(said) + 12


def _value(value: Value, x: float, y: float, wide: float) -> list[str]:
    left = x - wide / 2
    shapes = [f'<rect class="box" x="{left:.1f}" y="{y - TALL / 2:.1f}" width="{wide}" height="{TALL}" rx="4"/>']
    for n, said in enumerate(_cells(value)):
        if n:
            shapes.append(f'<path class="rule" d="M{left:.1f} {y - TALL / 2:.1f}v{TALL}"/>')
        kind = "grad" if said.startswith("grad ") else "" if said.startswith("data ") else "label"
        shapes.append(f'<text class="{kind}" x="{left + _width(said) / 2:.1f}" y="{y + 4.5:.1f}">{escape(said)}</text>')
        left += _width(said)
    return shapes


def _operation(node: object, x: float, y: float) -> list[str]:
    assert isinstance(node, tuple)
    said = escape(node[0].op)
    size = f' style="font-size:{min(12.5, 46 / max(1, len(said))):.1f}px"'
    return [
        f'<circle class="op" cx="{x:.1f}" cy="{y:.1f}" r="{OP}"/>',
        f'<text x="{x:.1f}" y="{y + 4:.1f}"{size}>{said}</text>',
    ]
