"""Equal budgets: the width (or whatever whole number an arm names) under which it spends what the control spends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nanogpt.config import RunConfig, compose
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.study.plan import Budget

LARGEST = 2**24
NEAR, FAR = 64, 1024
"""Numbers next to one that cannot be built which are tried instead: of widths only multiples of the heads can. Where
none of the first can be built it is doubled, up to the second number."""
UNITS = {
    "params": "parameters",
    "flops": "training FLOPs",
    "tokens": "training tokens",
    "seconds": "seconds of training",
}
Spent = Callable[[RunConfig], float]


@dataclass(frozen=True)
class Match:
    """The overrides of an arm with what was solved for, what it spends, and by which share that misses the budget."""

    overrides: tuple[str, ...]
    solved: str
    spent: float
    mismatch: float


def spender(budget: Budget, vocab_size: int, pace: Callable[[RunConfig], float]) -> Spent:
    """What a run spends of a budget. `pace`: seconds of a training step on this machine."""

    def model(config: RunConfig) -> RunConfig:
        size = config.model.vocab_size or vocab_size
        return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": size})})

    return {
        "params": lambda config: float(cost(model(config).model).total),
        "flops": lambda config: cost(model(config).model).training_flops * tokens(config),
        "tokens": lambda config: float(tokens(config)),
        "seconds": lambda config: pace(config) * config.train.steps,
    }[budget]


def tokens(config: RunConfig) -> int:
    """Of a whole run, padding included."""
    return config.train.steps * config.train.batch * config.model.context


def match(arm: str, preset: str, overrides: Iterable[str], solve: str | None, spent: Spent, wanted: float,
          budget: Budget, tolerance: float) -> Match:  # fmt: skip
    """Solve for an arm's number. UserError, with what would do, where it misses the budget by more than allowed."""
    given = tuple(overrides)
    unit = UNITS[budget]
    if not wanted:
        raise UserError(f'the control spends no {unit}, as it is counted and not trained: match = "none" or "tokens"')
    if solve is None:
        found = _match(given, "", spent(compose(preset, given)), wanted)
        if abs(found.mismatch) > tolerance:
            knob = "train.steps" if budget == "seconds" else "model.ffn.hidden"
            raise UserError(
                f"arm {arm}: {amount(found.spent)} {unit}, {found.mismatch:+.1%} against {amount(wanted)} of the "
                "control; "
                f'name what may change, as in solve = "{knob}", or allow it: tolerance = {_above(found.mismatch)}'
            )
        return found
    if budget == "seconds" and solve != "train.steps":
        raise UserError(f'arm {arm}: solve="{solve}": time is matched by the number of steps: solve = "train.steps"')
    best = _nearest(arm, preset, given, solve, spent, wanted)
    if abs(best.mismatch) > tolerance:
        raise UserError(
            f"arm {arm}: {unit} cannot be matched: {best.solved} comes nearest, {amount(best.spent)}, "
            f"{best.mismatch:+.1%} against {amount(wanted)}; what would do: another solve, or "
            f"tolerance = {_above(best.mismatch)}"
        )
    return best


def _match(overrides: tuple[str, ...], solved: str, spent: float, wanted: float) -> Match:
    return Match((*overrides, solved) if solved else overrides, solved, spent, spent / wanted - 1)


def amount(spent: float) -> str:
    """Whole where it is large; of seconds, which may be few, three digits."""
    return f"{spent:,.0f}" if spent >= 1000 else f"{spent:.3g}"


def _above(mismatch: float) -> str:
    """The least tolerance of three digits that allows it."""
    return f"{abs(mismatch) * 1.005 + 0.0005:.3f}"


def _nearest(arm: str, preset: str, given: tuple[str, ...], solve: str, spent: Spent, wanted: float) -> Match:
    """By halving, then among the neighbours: what is spent grows with the number that is solved for."""
    compose(preset, [*given, f"{solve}=1"])  # a key that is not there is refused here, by its own error
    known: dict[int, float | None] = {}
    refusals: set[str] = set()

    def at(number: int) -> float | None:
        if number not in known:
            try:
                known[number] = spent(compose(preset, [*given, f"{solve}={number}"]))
            except UserError as error:
                refusals.add(str(error))
                known[number] = None
        return known[number]

    near = NEAR
    while near < FAR and all(at(n) is None for n in range(1, near + 1)):
        if len(refusals) == 1:  # whatever the number
            raise UserError(min(refusals))
        near *= 2

    def about(number: int) -> tuple[int, float] | None:
        """The first that can be built from here on."""
        return next(((n, value) for n in range(number, number + near) if (value := at(n)) is not None), None)

    low, high = 1, 2
    while high < LARGEST and (found := about(high)) is not None and found[1] < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        found = about(middle)
        low, high = (middle, high) if found is not None and found[1] < wanted else (low, middle)
    there = {n: value for n in range(max(1, low - near), low + near) if (value := at(n)) is not None}
    if not there:
        raise UserError(f"arm {arm}: no {solve} from 1 to {LARGEST:,} that comes near the budget can be built")
    best = min(there, key=lambda n: abs(there[n] - wanted))
    return _match(given, f"{solve}={best}", there[best], wanted)
