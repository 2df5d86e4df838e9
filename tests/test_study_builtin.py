"""The studies that come with nanogpt: they can be read, and what they measure beside their arms is right."""

from __future__ import annotations

import numpy as np
import pytest

from nanogpt.study.builtin.kaiming import NETWORKS, moments
from nanogpt.study.reading import builtin, read
from nanogpt.study.verdict import primary, reach


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", ["activations", "glu", "kaiming", "ladder", "llama-block", "softmax", "vocab-size"])
def test_it_is_there_has_a_criterion_and_enough_seeds(name: str, quick: bool) -> None:
    assert name in builtin()
    plan = read(name, quick=quick)
    assert plan.claims or plan.checks
    assert plan.is_quick == quick
    if primary(plan):
        assert plan.noise
        assert reach(plan, plan.noise, "as it says").enough


@pytest.mark.parametrize("network", NETWORKS)
def test_a_layer_multiplies_the_second_moment_as_he_et_al_say(network: str) -> None:
    act, init, factor = NETWORKS[network]
    few = 6  # layers: each network is off by a factor of about exp(sqrt(5 few / width)), less over 16 of them
    found = np.mean([moments(act, init, few, seed) for seed in range(100, 116)], 0)
    assert (found[-1] / found[0]) ** (1 / (few - 1)) == pytest.approx(factor, rel=0.1)
