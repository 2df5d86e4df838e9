"""The runs of a folder as rows of a table, those of someone's own loop and damaged ones too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanogpt.errors import UserError
from nanogpt.runs import LOOK, OBSERVED, Run, best_row


def list_runs(out: Path | str) -> list[dict[str, Any]]:
    """One row for each run in a folder, oldest first: what a table of runs shows."""
    folders = [p.parent for p in Path(out).glob("*/config.json") if not p.parent.name.startswith(".")]
    rows: list[dict[str, Any]] = []
    for folder in sorted(folders, key=lambda p: (p.stat().st_mtime, p.name)):
        run = Run(folder)
        try:
            facts, metrics = _facts(run), run.metrics()
        except UserError as error:
            rows.append({"name": folder.name, "path": str(folder), "error": str(error)})
            continue
        best = best_row(metrics)
        rows.append(
            {
                "name": folder.name,
                "path": str(folder),
                **facts,
                "step": metrics[-1]["step"] if metrics else _last_look(run),
                "train/loss": metrics[-1].get("train/loss") if metrics else None,
                "val/loss": best.get("val/loss"),
                "val/bpb": best.get("val/bpb"),
                "seconds": metrics[-1].get("seconds") if metrics else None,
            }
        )
    return rows


def _facts(run: Run) -> dict[str, Any]:
    """What was trained, on what, for how long; of a module in someone's own loop, what is known of it."""
    observed = run.settings()
    if f"{OBSERVED}.model" in observed:
        steps = observed.get(f"{OBSERVED}.steps")
        return {"preset": observed[f"{OBSERVED}.model"], "corpus": "(own loop)", "steps": steps or "?"}
    config = run.config()
    return {"preset": config.preset, "corpus": config.data.corpus, "steps": config.train.steps}


def _last_look(run: Run) -> int:
    found = run.layers.glob("step-*.npz") if run.layers.is_dir() else ()
    return max((int(match[1]) for path in found if (match := LOOK.fullmatch(path.name))), default=0)
