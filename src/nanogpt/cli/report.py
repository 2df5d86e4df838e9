"""nanogpt report: everything about one run or several, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanogpt.cli.base import few
from nanogpt.errors import UserError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", show_default=False, help="Run folders.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page.")] = Path("report.html"),
    figures: Annotated[Path | None, typer.Option(help="Write each figure as PNG and SVG into this folder too.")] = None,
) -> None:
    """Write a page about one run or several that opens in a browser, offline: curves, layers, neurons, samples.

    \b
    nanogpt report runs/modern-python -o modern.html
    nanogpt report runs/modern-python runs/mine -o both.html
    nanogpt report runs/modern-python --figures figures
    """
    import sys

    from nanogpt.runs import Run
    from nanogpt.views.report import report as write
    from nanogpt.views.source import sources

    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the page a name: {out / 'report.html'}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it, or write elsewhere")
    found = sources([Run.open(path) for path in runs])
    for problem in few(write(found, out)):
        print(f"note: {problem}", file=sys.stderr)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB; open it in a browser")
    if figures is not None:
        from nanogpt.views.images import images

        written = images(found, figures)
        print(f"{figures}: {len(written)} files")
