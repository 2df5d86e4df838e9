"""nanogpt study plan, run, report, list."""

from __future__ import annotations

import json as json_text
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt.cli.base import Json, print_json, show_table, table

if TYPE_CHECKING:
    from nanogpt.study.fixed import Fixed
    from nanogpt.study.plan import Plan

study = typer.Typer(
    help="Fair comparisons, planned before they run, that end in a verdict.\n\n"
    "\b\nnanogpt study list                    those that come with nanogpt, and yours\n"
    "nanogpt study plan glu --quick        what it would run, cost, and could tell\n"
    "nanogpt study run glu --quick         run it; killed, the same command goes on\n"
    "nanogpt study report studies/glu-quick",
    no_args_is_help=True,
    rich_markup_mode=None,
)
What = Annotated[
    str, typer.Argument(metavar="STUDY", show_default=False, help="One that comes with nanogpt, or FILE.toml.")
]
Out = Annotated[Path, typer.Option(help="Folder of the studies.")]
Quick = Annotated[bool, typer.Option("--quick", help="The small form: minutes, a coarser answer.")]
Name = Annotated[str | None, typer.Option(help="Another name for its folder.")]
Processes = Annotated[int, typer.Option(min=0, help="Runs side by side; 0: one for each core, or one on a GPU.")]


@study.command()
def plan(what: What, quick: Quick = False, processes: Processes = 0, json: Json = False) -> None:
    """Say what a study would run, at which cost, and what it could tell. Trains nothing.

    \b
    nanogpt study plan glu
    nanogpt study plan my_study.toml --quick --json
    """
    from nanogpt.study.fixing import fix
    from nanogpt.study.pool import shares

    fixed = fix(_read(what, quick, None), *shares(processes))
    if json:
        return print_json(_planned(fixed))
    return _show_plan(fixed)


@study.command()
def run(
    what: What, quick: Quick = False, out: Out = Path("studies"), name: Name = None, processes: Processes = 0,
    json: Json = False,
) -> int:  # fmt: skip
    """Run a study, or go on with it: what is finished is not run again. Ends in a verdict and a report.

    \b
    nanogpt study run glu --quick
    nanogpt study run my_study.toml --out experiments --processes 4
    nanogpt study run my_study.toml --name my_study-more-seeds
    """
    from nanogpt.study.folder import Study
    from nanogpt.study.pool import Pool, shares
    from nanogpt.study.progress import view

    begun = Study.begin(_read(what, quick, name), out, *shares(processes))
    if not json:
        _show_plan(begun.fixed)
    shown = view(begun.fixed, quiet=json)
    try:
        begun.conduct(Pool(*shares(processes)), shown)
    except KeyboardInterrupt:
        shown.close()
        words = ["nanogpt", "study", "run", what, *(["--quick"] if quick else [])]
        print(f"\nstopped; the same command goes on: {shlex.join(words)} ...")
        return 130
    finally:
        shown.close()
    return _finish(begun.path, json)


@study.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False, help="As studies/glu.")],
    figures: Annotated[Path | None, typer.Option(help="Also write every figure here, as PNG and SVG.")] = None,
    json: Json = False,
) -> int:
    """Write the report of a finished study again: one offline page, and Markdown.

    \b
    nanogpt study report studies/glu
    nanogpt study report studies/glu --figures figures
    nanogpt study report studies/glu --json
    """
    status = _finish(folder, json)
    if figures is not None:
        from nanogpt.study.folder import Study
        from nanogpt.views.studies.page import images

        written = images(Study.open(folder), figures)
        if not json:
            print(f"{figures}: {len(written)} files")
    return status


@study.command(name="list")
def list_(out: Out = Path("studies"), json: Json = False) -> None:
    """List the studies that come with nanogpt, and those in a folder.

    \b
    nanogpt study list
    nanogpt study list --out experiments --json
    """
    from nanogpt.study.reading import builtin, read

    known = {name: read(name).question for name in builtin()}
    rows = [_status(path.parent) for path in sorted(Path(out).glob("*/plan.json"))]
    if json:
        return print_json({"builtin": known, "studies": rows})
    made = table("study", "question", title="with nanogpt")
    for name, question in known.items():
        made.add_row(name, question)
    show_table(made)
    if not rows:
        return print(f"no studies in {out}; nanogpt study run NAME makes one")
    made = table("study", "#runs done", "ended in", title=str(out))
    for row in rows:
        made.add_row(row["name"], str(row["runs"]), row["ending"])
    return show_table(made)


def _read(what: str, quick: bool, name: str | None) -> Plan:
    from nanogpt.study.reading import read

    found = read(what, quick=quick)
    return found if name is None else read({**found.model_dump(), "name": name})


def _status(path: Path) -> dict[str, Any]:
    try:
        ending = json_text.loads((path / "report.json").read_text(encoding="utf-8"))["ending"]
    except FileNotFoundError:
        ending = "not finished"
    except (OSError, ValueError, KeyError, TypeError):
        ending = f"report is damaged; nanogpt study report {path}"
    return {"name": path.name, "path": str(path), "runs": len(list(path.glob("scores/*.json"))), "ending": ending}


def _planned(fixed: Fixed) -> dict[str, Any]:
    from nanogpt.study.conduct import planned

    jobs = list(planned(fixed))
    reach = fixed.reach()
    return {
        **fixed.as_dict(),
        "runs": [job.name for job in jobs],
        "seconds": fixed.seconds(jobs),
        "reach": None if reach is None else {**vars(reach), "enough": reach.enough},
    }


def _show_plan(fixed: Fixed) -> None:
    from nanogpt.proportions import counted
    from nanogpt.study.conduct import pilot_arms
    from nanogpt.study.report import reach_lines
    from nanogpt.training.progress import duration

    plan, facts = fixed.plan, _planned(fixed)
    print(f"{plan.name}: {plan.question}")
    if plan.arms:
        made = table("arm", "#parameters", "#training FLOPs", "#steps", "solved", "#mismatch", "#a run")
        for name, arm in fixed.arms.items():
            made.add_row(name, f"{arm.parameters:,}", f"{arm.training_flops:.3g}", f"{arm.steps:,}", arm.solved or "-",
                         f"{arm.mismatch:+.2%}" if plan.match != "none" else "-", duration(arm.seconds))  # fmt: skip
        show_table(made)
        claims = len(plan.arms) * len(plan.seeds)
        others = f" ({claims} for the claim, the others to choose learning rates)" if plan.sweep else ""
        print(f"{counted(len(facts['runs']), 'run')}{others}: about {duration(facts['seconds'])} on this machine, "
              f"{fixed.processes} side by side with {counted(fixed.threads, 'thread')} each")  # fmt: skip
    for line in reach_lines(plan, fixed.reach()):
        print(line)
    if plan.pilot:
        print(f"what it can tell is known after its pilot of {plan.pilot} seeds of {' and '.join(pilot_arms(plan))}")
    for claim in plan.claims:
        print(f"claim: {claim.says} (expected: {claim.expect})")
    for check in plan.checks:
        print(f"check: {check.says or check.number}")


def _finish(path: Path, json: bool) -> int:
    """Write the reports and say how it ended."""
    from nanogpt.study.folder import Study
    from nanogpt.views.studies.page import write

    done = Study.open(path)
    found = write(done)
    if json:
        print_json(found)
        return 0
    if found["arms"]:
        _show_losses(done.plan, found["arms"])
    for verdict in found["claims"]:
        print(f"{verdict['comparison']}: {verdict['sentence']}")
    if found["claims"] and found["against_control"]:
        print(f"each arm against {done.plan.control}, {found['against_control_is']}")
    for verdict in found["against_control"]:
        print(f"{verdict['comparison']}: {verdict['sentence']}")
    for line in [*(check["sentence"] for check in found["checks"]), *found["findings"]]:
        print(line)
    if found["ending"] != "answered":
        print("\n" + found["answer"] + "".join(f"\n  {miss}" for miss in found["misses"]))
    print(f"\n{done.path / 'report.html'}; open it in a browser")
    return 0


def _show_losses(plan: Plan, arms: list[dict[str, Any]]) -> None:
    """Every arm's, beside the published ones."""
    from nanogpt.study.tables import losses

    head, rows = losses(plan, arms)
    made = table(head[0], *(f"#{column}" for column in head[1:]))
    for row in rows:
        made.add_row(*row)
    show_table(made)
    if plan.reference:
        print(f"published: {plan.reference}")
