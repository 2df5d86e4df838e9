"""torch's optimizers without torch's compiler.

Their methods are marked as not to be compiled, and the mark imports torch._dynamo when such a method is first called:
a second of a start of four, for nothing, since no optimizer is compiled here. torch.compile of a model imports its
compiler by itself and never meets an optimizer.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim import Optimizer

_MARK = "__dynamo_disable"
"""Where torch._compile._disable_dynamo keeps what it calls. A torch that keeps it elsewhere would only start later."""


def lean(torch_class: type[Optimizer]) -> Any:
    """The same optimizer, whose step is torch's own as it was before its decorators; torch adds its hooks again."""
    step = torch.no_grad()(inspect.unwrap(torch_class.step))
    return type(torch_class.__name__, (torch_class,), {"step": step, "__module__": __name__})


def spare_the_compiler() -> None:
    """What all optimizers inherit and is marked, as zero_grad and state_dict, is called as it is."""
    for method in vars(Optimizer).values():
        marked = getattr(method, "__wrapped__", None)
        if marked is not None and not hasattr(marked, _MARK):
            setattr(marked, _MARK, marked)
