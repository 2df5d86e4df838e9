"""When to look: at every 2% of a run, and at the powers of two before that, where a young model changes fastest."""

from __future__ import annotations

TIMES = 50
"""Looks in a run, at least."""


def every(steps: int) -> int:
    """Steps between two looks at a run of `steps` steps."""
    return max(1, steps // TIMES)


def due(step: int, steps: int) -> bool:
    """Whether to look after this step: 0 is before the first."""
    between = every(steps)
    young = 0 < step < between and step & (step - 1) == 0
    return young or step % between == 0 or step == steps


def so_far(step: int) -> int:
    """For a run whose length nobody knows: the length to go by at this step, doubled whenever the run has doubled, so
    that once the old ones are thinned there are TIMES to 2 TIMES looks at any moment."""
    length = TIMES
    while 2 * length <= step:
        length *= 2
    return length
