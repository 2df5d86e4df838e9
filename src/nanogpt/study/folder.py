"""The folder of a study: its plan as it was fixed, its runs, their scores, what it measured, its report.

    studies/NAME/
      plan.json              fixed before the first run; never changed
      runs/ARM-lr0.003-seed1/     ordinary runs
      scores/ARM-lr0.003-seed1.json     one for each run that is finished, written whole
      measured/NAME.json     what `measure` answered
      report.html, report.md, report.json

Killed at any moment, it goes on where it was: what has a score is finished, what has a folder goes on from its last
checkpoint, and all the rest follows from the plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from nanogpt.errors import RunError, UserError
from nanogpt.files import one_line, write_whole
from nanogpt.runs import Run, as_json
from nanogpt.study.conduct import Outcome, conduct, pilot
from nanogpt.study.execution import Executor, Job, Said, Score
from nanogpt.study.fixed import Fixed, check_reach
from nanogpt.study.measurement import Measurement, function
from nanogpt.study.plan import Plan
from nanogpt.study.reading import explain
from nanogpt.study.verdict import Reach, Verdict, arms_against_control, claims, decide

Thing = TypeVar("Thing")
PLAN, RUNS, SCORES, MEASURED = "plan.json", "runs", "scores", "measured"


class Unfinished(UserError):
    """Asked for what only a study that has ended can say."""


@dataclass(frozen=True)
class Kept:
    """An executor that remembers: what is finished is read, what is new is written down as soon as it ends."""

    folder: Path
    executor: Executor | None = None

    def run(self, jobs: Sequence[Job], said: Said) -> Iterator[tuple[Job, Score]]:
        known = {job: score for job in jobs if (score := self.read(job)) is not None}
        for job, score in known.items():
            said(job, {"ended": score, "known": True})
            yield job, score
        missing = [job for job in jobs if job not in known]
        if missing and self.executor is None:
            raise Unfinished(f"{missing[0].name} has not run yet")
        for job in missing:
            said(job, {"queued": True})
        for job, score in self.executor.run(missing, said) if self.executor and missing else ():
            write_whole(self.place(job), as_json(asdict(score)))
            said(job, {"ended": score})
            yield job, score

    def place(self, job: Job) -> Path:
        return self.folder / f"{job.name}.json"

    def read(self, job: Job) -> Score | None:
        place = self.place(job)
        return _whole(place, TypeAdapter(Score).validate_python) if place.exists() else None


class Study:
    """A study that has a plan, and as much of an answer as has been run."""

    def __init__(self, path: Path, fixed: Fixed) -> None:
        self.path, self.fixed = path, fixed

    @staticmethod
    def open(path: Path | str) -> Study:
        path = Path(path)
        if not (path / PLAN).is_file():
            raise UserError(f"{path} is not a study (no {PLAN} in it); nanogpt study list shows those that there are")
        return Study(path, _whole(path / PLAN, lambda table: Fixed.of(table, str(path / RUNS))))

    @staticmethod
    def begin(plan: Plan, out: Path | str, processes: int, threads: int) -> Study:
        """Fix the plan and make its folder; or open the one that is there, if it is of this very plan."""
        path = Path(out) / plan.name
        if (path / PLAN).is_file():
            study = Study.open(path)
            study.check_same(plan)
            return study
        from nanogpt.study.fixing import fix  # torch, which one that goes on has no need of

        fixed = fix(plan, processes, threads)
        with one_line(f"make the study {path}"):
            for folder in (RUNS, SCORES, MEASURED):
                (path / folder).mkdir(parents=True, exist_ok=True)
            write_whole(path / PLAN, as_json(fixed.as_dict()))
        return Study.open(path)

    def check_same(self, plan: Plan) -> None:
        """Refuse to go on under another plan: it was fixed before anything was known."""
        mine, theirs = (one.model_dump(exclude={"folder"}) for one in (self.plan, plan))
        differ = [key for key in mine if mine[key] != theirs[key]]
        if differ:
            raise UserError(
                f"{self.path}: its plan was fixed with another {', '.join(differ)}; a changed plan is a new study: "
                "give it another --name"
            )

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r})"

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def plan(self) -> Plan:
        return self.fixed.plan

    @property
    def quick(self) -> bool:
        return self.plan.is_quick

    def run(self, arm: str, seed: int) -> Run:
        """A finished run of the claim."""
        rate = self.outcome.rates[arm].rate if self.outcome.rates else None
        return Run(self.path / RUNS / self.fixed.job(arm, seed, rate).name)

    def scores(self, arm: str) -> dict[int, Score]:
        """By seed, of the claim's runs."""
        return {seed: self.outcome.scores[arm][seed] for seed in self.plan.seeds}

    # ---- doing

    def conduct(self, executor: Executor, said: Said) -> None:
        """Run and measure whatever is missing."""
        with Run(self.path).held():
            missing = {name: place for name, place in self._measured().items() if not place.exists()}
            measures = {name: function(self.plan.folder, name) for name in missing}
            kept = Kept(self.path / SCORES, executor)
            if self.plan.pilot:
                check_reach(self.plan, self.fixed.reach(pilot(self.fixed, kept, said)))
            conduct(self.fixed, kept, said)
            for name, measure in measures.items():
                write_whole(missing[name], as_json(measured(self, name, measure).as_dict()))

    # ---- what it says

    @cached_property
    def outcome(self) -> Outcome:
        """Unfinished where a run is missing."""
        return conduct(self.fixed, Kept(self.path / SCORES), lambda job, facts: None)

    @property
    def reach(self) -> Reach | None:
        if self.plan.pilot:
            return self.fixed.reach(pilot(self.fixed, Kept(self.path / SCORES), lambda job, facts: None))
        return self.fixed.reach()

    def measured(self) -> dict[str, Measurement]:
        """By the name of the function."""
        places = self._measured()
        missing = [name for name, place in places.items() if not place.exists()]
        if missing:
            raise Unfinished(f"{missing[0]} has not been measured yet")
        return {place.stem: _whole(place, TypeAdapter(Measurement).validate_python) for place in places.values()}

    def _measured(self) -> dict[str, Path]:
        """Where the answer of each of the plan's measurements is kept."""
        return {name: self.path / MEASURED / f"{name.partition(':')[2]}.json" for name in self.plan.measure}

    @cached_property
    def claims(self) -> list[Verdict]:
        return self._decide(claims(self.plan))

    @cached_property
    def against_control(self) -> list[Verdict]:
        return self._decide(arms_against_control(self.plan))

    def _decide(self, family: Sequence[Any]) -> list[Verdict]:
        enough = family and len(self.plan.seeds) > 1
        return decide(self.plan, family, self.outcome.losses(self.plan.metric)) if enough else []


def _whole(path: Path, made: Callable[[Any], Thing]) -> Thing:
    """What a file holds. RunError where that is not what was written: `made` raises ValueError or KeyError then."""
    try:
        with one_line(f"read {path}"):
            return made(json.loads(path.read_text(encoding="utf-8")))
    except RunError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        why = explain(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise RunError(f"{path} is damaged ({why}); remove it, and it is made again") from None


def measured(study: Study, name: str, measure: Callable[[Study], Measurement]) -> Measurement:
    """What one of the plan's functions answers."""
    try:
        answer = measure(study)
    except UserError:
        raise
    except Exception as error:  # whatever a plan's file raises, it is that file that is to be mended
        raise RunError(f"measure={name}: {type(error).__name__}: {error}") from error
    if not isinstance(answer, Measurement):
        raise RunError(f"measure={name}: should answer a Measurement, not {type(answer).__name__}")
    return answer
