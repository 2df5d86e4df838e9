"""Line charts with logarithmic axes, side by side, as SVG: told apart by colour, dash and marker; light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, TOP, GAP, FOOT, KEY = 300, 240, 74, 52, 26, 52, 96
"""Of one panel's frame, and what lies around it, in pixels."""
STYLES = (
    ("#0072b2", "#56b4e9", "", "circle"),
    ("#b45309", "#ff9d4d", "7 3", "square"),
    ("#007a5a", "#2ecc9b", "2 3", "diamond"),
    ("#a8437f", "#f08cc0", "8 3 2 3", "triangle"),
    ("#57606a", "#adb5bd", "12 4", "circle"),
)
"""Colour in light and in dark, dashes and marker of the first line, the second, ...; Okabe and Ito's, darkened."""


@dataclass(frozen=True)
class Panel:
    """lines: name -> points (x, y), all above 0."""

    title: str
    lines: dict[str, list[tuple[float, float]]]


def chart(title: str, rows: Sequence[Sequence[Panel]], x_label: str, y_labels: Sequence[str], key: str) -> str:
    """A grid of panels with one x axis; y is shared along a row, and `key` says what the lines are."""
    high = TOP + HEIGHT + FOOT
    out = []
    for r, (row, label) in enumerate(zip(rows, y_labels, strict=True)):
        y_range = _decades([y for panel in row for line in panel.lines.values() for _, y in line])
        middle = r * high + TOP + HEIGHT / 2
        turn = f'transform="rotate(-90 18 {middle})"'
        out.append(f'<text x="18" y="{middle}" text-anchor="middle" {turn}>{label}</text>')
        for c, panel in enumerate(row):
            out += _panel(panel, LEFT + c * (WIDTH + GAP), r * high + TOP, y_range, x_label, first=c == 0)
    out += _key(key, list(rows[0][0].lines), LEFT + len(rows[0]) * (WIDTH + GAP), TOP)
    wide, tall = LEFT + len(rows[0]) * (WIDTH + GAP) + KEY, len(rows) * high
    size = f'width="{wide}" height="{tall}" viewBox="0 0 {wide} {tall}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><title>{title}</title>\n<style>{_sheet()}\n</style>'
    return "\n".join([head, f'<text class="title" x="{LEFT}" y="20">{title}</text>', *out, "</svg>\n"])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))


def _panel(panel: Panel, x0: float, y0: float, y_range: tuple[int, int], x_label: str, first: bool) -> list[str]:
    xs = sorted({x for line in panel.lines.values() for x, _ in line})
    low, high = y_range

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / xs[0]) / math.log(xs[-1] / xs[0])
        return x0 + 14 + across * (WIDTH - 28), y0 + HEIGHT * (high - math.log10(y)) / (high - low)

    out = [f'<text x="{x0 + WIDTH / 2}" y="{y0 - 10}" text-anchor="middle">{panel.title}</text>']
    for decade in range(low, high + 1):
        y = place(xs[0], 10.0**decade)[1]
        out.append(f'<path class="grid" d="M{x0} {y:.1f}h{WIDTH}"/>')
        if first:
            power = f'10<tspan dy="-5" font-size="10">{str(decade).replace("-", "&#8722;")}</tspan>' if decade else "1"
            out.append(f'<text x="{x0 - 8}" y="{y + 4:.1f}" text-anchor="end">{power}</text>')
    for x in xs:
        out.append(f'<text x="{place(x, 1)[0]:.1f}" y="{y0 + HEIGHT + 18}" text-anchor="middle">{x:g}</text>')
    out.append(f'<text x="{x0 + WIDTH / 2}" y="{y0 + HEIGHT + 38}" text-anchor="middle">{x_label}</text>')
    for n, line in enumerate(panel.lines.values()):
        out.append(_line(n, [place(x, y) for x, y in line]))
    return out


def _line(n: int, points: Sequence[tuple[float, float]], marks: Sequence[tuple[float, float]] | None = None) -> str:
    dashes, shape = STYLES[n % len(STYLES)][2:]
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
    path = f'<polyline class="line"{dash} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
    return f'<g class="c{n}">{path}{"".join(_marker(shape, *p) for p in (points if marks is None else marks))}</g>'


def _marker(shape: str, x: float, y: float) -> str:
    return {
        "circle": f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        "square": f'<rect class="mark" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>',
        "diamond": f'<path class="mark" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>',
        "triangle": f'<path class="mark" d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>',
    }[shape]


def _key(title: str, names: Sequence[str], x: float, y: float) -> list[str]:
    out = [f'<text x="{x}" y="{y + 4}">{title}</text>']
    for n, name in enumerate(names):
        at = y + 26 + 22 * n
        out.append(_line(n, [(x, at), (x + 34, at)], [(x + 17, at)]))
        out.append(f'<text x="{x + 42}" y="{at + 4}">{name}</text>')
    return out


def _sheet() -> str:
    light, dark = (" ".join(f".c{n} {{ --c: {style[which]} }}" for n, style in enumerate(STYLES)) for which in (0, 1))
    return f"""
text {{ font: 13px system-ui, sans-serif; fill: #1f2328 }} .title {{ font-weight: 600 }} .grid {{ stroke: #d0d7de }}
{light}
.line {{ fill: none; stroke: var(--c); stroke-width: 2 }} .mark {{ fill: var(--c) }}
@media screen and (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3 }} .grid {{ stroke: #3d444d }}
{dark}
}}"""
