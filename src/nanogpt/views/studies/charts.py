"""What a study measured itself: charts that are plain data (study/measurement.py), in the house's style."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Series
from nanogpt.views.studies.source import studies
from nanogpt.views.theme import GREY, SEQUENTIAL, color, dash, faint, plain, symbol
from nanogpt.views.view import Picture, View, axis, figure


def views_of_charts(study: Study) -> dict[str, View]:
    """A view for each chart, named after its title."""
    found = [chart for one in study.measured().values() for chart in one.charts]
    names = [f"chart-{n}-{re.sub(r'[^a-z0-9]+', '-', chart.title.lower()).strip('-')[:40]}" for n, chart in
             enumerate(found, 1)]  # fmt: skip
    return {
        name: View("Measured", chart.title, chart.text, partial(_draw, chart), read=studies)
        for name, chart in zip(names, found, strict=True)
    }


def _draw(chart: Chart, found: Sequence[Study]) -> Picture:
    return draw(chart)


def draw(chart: Chart) -> Picture:
    """One chart as a plotly figure."""
    along, up = axis(plain(chart.x)), axis(plain(chart.y))
    along |= {"type": "log"} if chart.log_x else {}
    up |= {"type": "log"} if chart.log_y else {}
    if chart.kind == "heatmap":
        return figure(plain(chart.title), [_heatmap(chart)], along, up | {"autorange": "reversed", "type": "category"},
                      150 + 34 * len(chart.series))  # fmt: skip
    looks = zip(_numbers(chart.series), chart.series, strict=True)
    data = [trace for n, series in looks for trace in _traces(chart, n, series)]
    more = {"barmode": "group"} if chart.kind == "bars" else {}
    return figure(plain(chart.title), data, along, up, 420, **more)


def _numbers(series: Sequence[Series]) -> list[int]:
    """For colour and marker: each has its own, but `NAME: what is predicted`, dotted, has those of NAME."""
    own: dict[str, int] = {}
    for one in series:
        of = one.name.partition(":")[0]
        own.setdefault(one.name, own[of] if one.dash == "dot" and of in own else len(set(own.values())))
    return [own[one.name] for one in series]


def _heatmap(chart: Chart) -> dict[str, Any]:
    first = chart.series[0]
    return {
        "type": "heatmap", "x": [_place(x) for x in first.x], "y": [plain(one.name) for one in chart.series],
        "z": [list(one.y) for one in chart.series], "colorscale": SEQUENTIAL,
        "colorbar": {"title": {"text": plain(chart.z)}}, "xgap": 1, "ygap": 1,
        "texttemplate": "%{z:.3~g}" if len(first.x) <= 12 else "",
        "hovertemplate": "%{y}, %{x}: %{z:.4~g}<extra></extra>",
    }  # fmt: skip


def _place(x: Any) -> Any:
    return plain(x) if isinstance(x, str) else x


def _traces(chart: Chart, n: int, one: Series) -> list[dict[str, Any]]:
    rgb, x = color(n), [_place(value) for value in one.x]
    name, hover = plain(one.name), "%{x}: %{y:.4~g}"
    if chart.kind == "bars":
        return [{"type": "bar", "x": x, "y": list(one.y), "name": name, "hovertemplate": hover,
                 "marker": {"color": rgb, "pattern": {"shape": ("", "/", "x", ".", "-", "+")[n % 6]}},
                 **_errors("error_y", one, GREY)}]  # fmt: skip
    mark = {"symbol": symbol(n), "size": 8 if chart.kind == "points" else 6, "color": rgb}
    if chart.kind == "points":
        return [{"type": "scatter", "mode": "markers", "x": x, "y": list(one.y), "name": name, "marker": mark,
                 "hovertemplate": hover, **_errors("error_y", one, rgb)}]  # fmt: skip
    style = one.dash if one.dash != "solid" else dash(n)
    mode = "lines" if one.dash == "dot" or len(x) > 40 else "lines+markers"
    line = {"type": "scatter", "mode": mode, "x": x, "y": list(one.y), "name": name, "marker": mark,
            "line": {"color": rgb, "width": 2, "dash": style}, "hovertemplate": hover}  # fmt: skip
    if one.low is None or one.high is None:
        return [line]
    band = {"type": "scatter", "mode": "lines", "x": [*x, *x[::-1]], "y": [*one.low, *one.high[::-1]], "fill": "toself",
            "fillcolor": faint(rgb, 0.18), "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}  # fmt: skip
    return [band, line]


def _errors(key: str, one: Series, rgb: str) -> dict[str, Any]:
    if one.low is None or one.high is None:
        return {}
    known = [(y, low, high) for y, low, high in zip(one.y, one.low, one.high, strict=True)]
    return {key: {"type": "data", "symmetric": False, "color": rgb, "thickness": 2,
                  "array": [high - (y or 0) for y, _, high in known],
                  "arrayminus": [(y or 0) - low for y, low, _ in known]}}  # fmt: skip
