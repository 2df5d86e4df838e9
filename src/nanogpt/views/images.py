"""Figures as files, PNG and SVG, for a paper or a slide."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanogpt.errors import UserError
from nanogpt.files import one_line
from nanogpt.views import FIGURES
from nanogpt.views.encode import jsonable
from nanogpt.views.source import Runs, Source, sources
from nanogpt.views.theme import template
from nanogpt.views.view import Picture

WIDTH, SCALE = 1000, 2
NEEDS = "needs kaleido (pip install kaleido) and a Chrome or Chromium on this machine; the page itself saves them too"


def images(runs: Runs, folder: Path | str) -> list[Path]:
    """Each figure as it is shown unasked, one for each run where it is of one run. UserError where nothing can draw."""
    return save(list(_figures(sources(runs))), folder)


def save(pictures: Sequence[tuple[str, Picture]], folder: Path | str) -> list[Path]:
    """(name of its files, picture) of each, as PNG and SVG."""
    try:
        import kaleido
    except ImportError:
        raise UserError(f"--figures {NEEDS}") from None
    folder = Path(folder)
    with one_line(f"write {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    layouts = [{**picture["layout"], "template": template("light")} for _, picture in pictures]
    figures = [
        (stem, jsonable({"data": picture["data"], "layout": layout}))
        for (stem, picture), layout in zip(pictures, layouts, strict=True)
    ]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as beside:  # a browser that dies leaves nothing half-done
        jobs: list[dict[str, Any]] = [
            {"fig": figure, "path": Path(beside) / f"{stem}.{kind}",
             "opts": {"format": kind, "width": WIDTH, "height": figure["layout"]["height"] + 40, "scale": SCALE}}
            for stem, figure in figures
            for kind in ("png", "svg")
        ]  # fmt: skip
        try:
            page = kaleido.PageGenerator(mathjax=False)  # it would be fetched from the network
            kaleido.write_fig_from_object_sync(jobs, cancel_on_error=True, kopts={"page_generator": page})
        except Exception as error:  # the browser's own failures have no common kind
            raise UserError(f"--figures {NEEDS} ({type(error).__name__}: {error})") from None
        return [job["path"].replace(folder / job["path"].name) for job in jobs]


def _figures(found: list[Source]) -> Iterator[tuple[str, Picture]]:
    for name, view in FIGURES.items():
        first = {choice.get("run", ""): choice for choice in reversed(view.choices(found))}
        for run, choice in reversed(first.items()):
            picture = view.draw(found, **choice)
            if picture is not None:
                yield re.sub(r"[^\w.-]+", "-", f"{name}-{run}" if run and len(found) > 1 else name), dated(picture)


def dated(picture: Picture) -> Picture:
    """With the step in its title, where it is drawn as it was at its last one."""
    frames = picture.get("frames")
    if not frames:
        return picture
    title = {"text": f"{picture['layout']['title']['text']}, step {frames[-1]['name']}"}
    return {**picture, "layout": {**picture["layout"], "title": title}}
