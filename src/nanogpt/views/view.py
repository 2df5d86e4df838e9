"""A picture: a pure function of runs that answers a plotly figure, and what a page needs to know to offer it.

    views.heatmap(run, statistic="std").show()

What is drawn is a plain dict first, plotly's own format: the report makes hundreds of them and checks none twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from nanogpt.errors import UserError, nearest
from nanogpt.views.source import Runs, sources
from nanogpt.views.theme import template

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Picture: TypeAlias = dict[str, Any]
"""`data`, `layout` and, where a step can be chosen, `frames`: for each step what is other in some of the traces."""
Choice: TypeAlias = Mapping[str, str]


def no_choice(found: Sequence[Any]) -> list[Choice]:
    return [{}]


@dataclass(frozen=True)
class View:
    """`section` of the page it stands in, its `title`, and in a few words what it shows.

    draw(sources, **choice): None where nothing of it was observed. choices: every choice that can be made, the first
    is what is shown unasked. read: from what is given (runs, or studies) to what is drawn.
    """

    section: str
    title: str
    text: str
    draw: Callable[..., Picture | None]
    choices: Callable[[Sequence[Any]], Sequence[Choice]] = no_choice
    read: Callable[[Any], Sequence[Any]] = sources

    def __call__(self, given: Runs | Any, **choice: str) -> Figure:
        """The figure. UserError for a choice that there is not, and where what is given holds nothing of it."""
        from plotly.graph_objects import Figure

        found = self.read(given)
        picture = self.draw(found, **self._chosen(found, choice))
        if picture is None:
            raise self._nothing(found)
        return Figure(**standalone(picture))

    def _chosen(self, found: Sequence[Any], wanted: Mapping[str, str]) -> Choice:
        """The first choice that has what is wanted."""
        there = self.choices(found)
        if not there:
            raise self._nothing(found)
        for key, value in wanted.items():
            if key not in there[0]:
                raise UserError(f"{self.title}: no choice '{key}'{nearest(key, there[0])}")
            fitting = [choice for choice in there if choice[key] == value]
            if not fitting:
                raise UserError(f"{self.title}: {key}={value}{nearest(str(value), {choice[key] for choice in there})}")
            there = fitting
        return there[0]

    def _nothing(self, found: Sequence[Any]) -> UserError:
        return UserError(f"{self.title}: {', '.join(one.name for one in found)}: nothing of this was observed")


def standalone(picture: Picture, theme: str = "light") -> Picture:
    """A picture with its theme, and with plotly's own slider where a step can be chosen."""
    layout = {**picture["layout"], "template": template(theme)}
    frames = picture.get("frames", [])
    if frames:
        steps = [
            {"label": f["name"], "method": "animate",
             "args": [[f["name"]], {"mode": "immediate", "frame": {"duration": 0}, "transition": {"duration": 0}}]}
            for f in frames
        ]  # fmt: skip
        pad = {"t": 44, "b": 4}
        layout["sliders"] = [
            {"steps": steps, "active": len(frames) - 1, "currentvalue": {"prefix": "step "}, "pad": pad}
        ]
        layout["height"] = layout.get("height", 420) + 90
        frames = [
            {**f, "data": [_typed(picture, n, c) for n, c in zip(f["traces"], f["data"], strict=True)]} for f in frames
        ]
    return {"data": picture["data"], "layout": layout, "frames": frames}


def _typed(picture: Picture, trace: int, change: dict[str, Any]) -> dict[str, Any]:
    """plotly checks what a frame changes by the type of its trace."""
    return {"type": picture["data"][trace]["type"], **change}


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, **more}


def figure(
    title: str, data: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], height: int = 400, **more: Any
) -> Picture:
    """A picture with one pair of axes."""
    return {"data": data, "layout": {"title": {"text": title}, "xaxis": x, "yaxis": y, "height": height, **more}}
