"""The order in which a chain rule may run: shared by both engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from nanogpt.errors import UserError

N = TypeVar("N")


def topological(roots: Iterable[N], parents: Callable[[N], Iterable[N]]) -> list[N]:
    """Everything that the roots were made from, and the roots, each after its parents.

    A depth-first walk with a stack of its own, since Python's would end at a thousand operations in a row.
    Raises UserError where a node is among its own ancestors.
    """
    found: list[N] = []
    finished: dict[N, bool] = {}  # absent: not seen yet; False: on the way up from it; True: done
    stack = list(roots)
    while stack:
        node = stack[-1]
        if node in finished:
            stack.pop()
            if not finished[node]:
                finished[node] = True
                found.append(node)
            continue
        finished[node] = False
        for parent in parents(node):
            if parent not in finished:
                stack.append(parent)
            elif not finished[parent]:
                raise UserError(f"the graph has a cycle: {parent} was made from itself, so no order is right")
    return found
