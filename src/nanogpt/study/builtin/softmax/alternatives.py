"""Independence of irrelevant alternatives: p_i / p_j does not depend on what else there is to choose (Luce 1959).

Where a new alternative is much like an old one, that is wrong: the red bus and the blue bus (Debreu 1960; McFadden
1974). Nests mend it (Ben-Akiva 1973; Train 2009, chapter 4).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series

TRUTH = (1 / 2, 1 / 4, 1 / 4)
"""Car, red bus, blue bus, where half take the car and nobody cares about a bus's colour."""
PEOPLE = 100_000


def nested(z_car: float, z_bus: float, buses: int, likeness: float) -> tuple[float, ...]:
    """Car and so many equal buses in one nest: P(nest) ~ (sum_bus exp(z / l))^l, inside it a softmax of z / l.

    likeness: l in (0, 1]; 1 is the softmax, towards 0 the buses become one alternative.
    """
    nest = likeness * (np.log(buses) + z_bus / likeness)
    car = 1 / (1 + np.exp(nest - z_car))
    return (float(car), *[float(1 - car) / buses] * buses)


def choices(people: int, random: torch.Generator) -> Tensor:
    """What each of so many people takes of (car, red, blue): the better of car and bus by Gumbel utilities, and then
    whichever bus comes first. (3,) counts."""
    noise = torch.empty(people, 2, dtype=torch.double).exponential_(generator=random).log().neg()
    bus, colour = noise[:, 1] > noise[:, 0], torch.rand(people, generator=random) < 0.5
    return torch.bincount(torch.where(bus, 1 + colour.long(), 0), minlength=3)


def likeliest(counts: Tensor) -> float:
    """The likeness under which these choices are likeliest, car and buses being equally good."""

    def nats(likeness: float) -> float:
        return -float((counts * torch.tensor(nested(0, 0, 2, likeness), dtype=torch.double).log()).sum())

    return float(optimize.minimize_scalar(nats, bounds=(1e-3, 1), method="bounded").x)


def ratios(seed: int) -> float:
    """The largest relative change of any p_i / p_j when a class is added, over random logits."""
    random = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(5000, 21, generator=random, dtype=torch.double)
    before, after = z[:, :20].softmax(1), z.softmax(1)[:, :20]
    ratio = (after[:, :1] / after) / (before[:, :1] / before)
    return float((ratio - 1).abs().max())


def buses(study: Study) -> Measurement:
    """A second bus, as a softmax that knew one bus has it, and as a nested logit fitted to choices has it."""
    change = ratios(1)
    counts = choices(PEOPLE, torch.Generator().manual_seed(1))
    found = likeliest(counts)
    plain, mended = nested(0, 0, 2, 1.0), nested(0, 0, 2, found)
    grid = np.linspace(0.01, 1, 100)
    words = ["car", "red bus", "blue bus"]
    return Measurement(
        numbers={"largest relative change of a ratio on adding a class": change, "softmax, car": plain[0],
                 "softmax, red bus": plain[1], "nested logit, car": mended[0], "nested logit, red bus": mended[1],
                 "nested logit, likeness fitted": found},
        findings=[f"Adding a class moves no ratio of the others by more than {change:.0g} of itself. Half take the "
                  f"car, half the bus; given a second bus softmax gives each {plain[0]:.3f}, where the truth is 0.5, "
                  f"0.25, 0.25. A nested logit fitted to {PEOPLE:,} choices has {mended[0]:.3f}, {mended[1]:.3f}, "
                  f"{mended[2]:.3f}."],
        charts=[
            Chart("Red bus, blue bus", "Shares of three alternatives, two of which are the same to everybody.",
                  "alternative",
                  "share", [Series("truth", words, TRUTH), Series("softmax", words, plain),
                            Series("nested logit, fitted", words, mended)], kind="bars"),
            Chart("What a nest does", "Share of the car by how unlike the buses are: 1 is the softmax, 0 one bus.",
                  "unlikeness of the buses (nest's parameter)", "share of the car",
                  [Series("nested logit", grid.tolist(), [nested(0, 0, 2, g)[0] for g in grid]),
                   Series("truth", [0.0, 1.0], [0.5, 0.5], dash="dot")]),
        ],
    )  # fmt: skip
