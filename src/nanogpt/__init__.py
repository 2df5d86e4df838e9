"""nanogpt: a laboratory for studying modern LLM architectures by building small language models.

import nanogpt as ng
model = ng.build("llama", dim=256)
run = ng.train("llama", "data.corpus=shakespeare")
text = ng.load(run.path).sample("To be")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogpt.api import (
        Comparison,
        Loaded,
        Sampling,
        ablate,
        build,
        compare,
        load,
        observe,
        patch,
        run_study,
        trace,
        train,
    )

__all__ = [
    "Comparison",
    "Loaded",
    "Sampling",
    "ablate",
    "build",
    "compare",
    "load",
    "observe",
    "patch",
    "run_study",
    "trace",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'nanogpt' has no attribute '{name}'")
    from nanogpt import api

    return getattr(api, name)
