"""How long a report takes to open: from the request to the first figure, in a browser, nothing cached.

    python benchmarks/report_opening.py --json

A run of 10,000 steps and 12 layers, observed as such a run is, made by hand (tests/observations.py).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import Busy, emit, machine
from nanogpt.views.report import report
from tests.observations import make_run

CHROMIUM = "/usr/bin/chromium"


def opening(page: Path, width: int = 1400, height: int = 1000) -> dict[str, float]:
    """Milliseconds after the start of the navigation, in a fresh browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": height})
        tab.goto(page.as_uri(), wait_until="commit")
        tab.wait_for_selector("figure[data-drawn]")
        found: dict[str, float] = tab.evaluate(
            "() => ({ready: performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,"
            " drawn: Math.min(...performance.getEntriesByType('mark').map((m) => m.startTime))})"
        )
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(folder, steps=wanted.steps, layers=wanted.layers, heads=12, units=1536)
        page = Path(folder) / "report.html"
        started = time.perf_counter()
        report(run, page)
        result: dict[str, Any] = {"steps": wanted.steps, "layers": wanted.layers}
        result |= {"seconds_to_write": time.perf_counter() - started, "megabytes": page.stat().st_size / 1e6}
        with Busy() as busy:
            times = [opening(page) for _ in range(wanted.rounds)]
    result |= {f"seconds_to_{key}": statistics.median(t[key] for t in times) / 1000 for key in ("ready", "drawn")}
    emit({**result, "rounds": wanted.rounds, "others_busy": busy.share, **machine()}, wanted.json)


if __name__ == "__main__":
    main()
