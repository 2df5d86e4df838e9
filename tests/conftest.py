"""What every test shares: where real data lies, a cache of its own, a core of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if worker := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw"):
    # Each worker, and every process that it starts, keeps to one core: more threads than cores wait for each other.
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def find_data() -> Path | None:
    """The first folder of NANOGPT_DATA that exists, else the folder `shared/data` beside the checkout."""
    named = [Path(p) for p in os.environ.get("NANOGPT_DATA", "").split(os.pathsep) if p]
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return next((p for p in [*named, beside] if p.is_dir()), None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real texts, vocabularies and trained models. Tests that need them are skipped where they are not."""
    found = find_data()
    if found is None:
        pytest.skip("no real data: set NANOGPT_DATA to a folder that holds it, or put it in ../shared/data")
    return found


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The person's own cache is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOGPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        if (data := find_data()) is not None:
            patch.setenv("NANOGPT_DATA", str(data))
        yield
