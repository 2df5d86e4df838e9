"""Figures as files, PNG and SVG, for a paper or a slide."""

from __future__ import annotations

import re
from pathlib import Path

from nanogpt.errors import UserError
from nanogpt.files import one_line
from nanogpt.views import FIGURES
from nanogpt.views.encode import jsonable
from nanogpt.views.source import Runs, sources
from nanogpt.views.theme import template

WIDTH, SCALE = 1000, 2
NEEDS = "needs kaleido (pip install kaleido) and a Chrome or Chromium on this machine; the page itself saves them too"


def images(runs: Runs, folder: Path | str) -> list[Path]:
    """Each figure as it is shown unasked, one for each run where it is of one run. UserError where nothing can draw."""
    try:
        import kaleido
    except ImportError:
        raise UserError(f"--figures {NEEDS}") from None
    found, folder = sources(runs), Path(folder)
    with one_line(f"write {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for name, view in FIGURES.items():
        choices = view.choices(found)
        of_runs = list({choice.get("run", ""): choice for choice in reversed(choices)}.items())[::-1]
        for run, choice in of_runs:
            picture = view.draw(found, **choice)
            if picture is None:
                continue
            stem = re.sub(r"[^\w.-]+", "-", f"{name}-{run}" if run and len(found) > 1 else name)
            layout = {**picture["layout"], "template": template("light")}
            size = {"width": WIDTH, "height": layout["height"] + 40, "scale": SCALE}
            for kind in ("png", "svg"):
                jobs.append({"fig": jsonable({"data": picture["data"], "layout": layout}),
                             "path": folder / f"{stem}.{kind}", "opts": {"format": kind, **size}})  # fmt: skip
    try:
        page = kaleido.PageGenerator(mathjax=False)  # it would be fetched from the network
        kaleido.write_fig_from_object_sync(jobs, cancel_on_error=True, kopts={"page_generator": page})
    except Exception as error:  # the browser's own failures have no common kind
        raise UserError(f"--figures {NEEDS} ({type(error).__name__}: {error})") from None
    return [job["path"] for job in jobs]
