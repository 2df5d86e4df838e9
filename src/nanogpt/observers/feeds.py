"""Which matrix feeds an activation, and what the layer is therefore called.

One activation in several places is several layers: `act` for the first, `act@fc2` for what the matrix fc2 feeds. One
that is called as a function (functions.py) is always named after its matrix: `layers.0.relu@linear1`.
"""

from __future__ import annotations

from torch import Tensor, nn

HOPS = 4
"""Modules without a matrix, such as norms, that may stand between a matrix and its activation."""


class Feeds:
    """What ran in one pass. names: of the modules, by their id."""

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self.begin()

    def begin(self) -> None:
        """Another pass."""
        self._last: nn.Module | None = None
        """The last module with a matrix that ran."""
        self._fed_by: dict[str, list[int]] = {}
        """Activation -> the matrices that have fed it, by their id, in the order in which they did."""
        self._made: dict[int, tuple[nn.Module, int]] = {}
        """Memory of an output -> the module that has made it, and the memory of what it read."""
        self._kept: list[Tensor] = []
        """Every output, so that its memory is not used again within the pass."""

    def ran(self, module: nn.Module, x: Tensor | None, y: Tensor) -> None:
        """A module has made y of x. Of composite ones nothing is noted: their parts were told before."""
        if x is not None and next(module.children(), None) is None:
            self._made[y.data_ptr()] = (module, x.data_ptr())
            self._kept.append(y)
            self._last = module if matrix(module) is not None else self._last

    def name(self, name: str, made: nn.Module | None, function: bool = False) -> str:
        """Of the layer in which the activation `name` works on what `made` has made."""
        users = self._fed_by.setdefault(name, [])
        if id(made) not in users:
            users.append(id(made))
        place, fed_by = users.index(id(made)), self._names.get(id(made), "")
        if place == 0 and not (function and fed_by):
            return name
        parent = name.rpartition(".")[0]
        inside = fed_by and (not parent or fed_by.startswith(f"{parent}."))
        return f"{name}@{fed_by[len(parent) :].lstrip('.')}" if inside else f"{name}#{place + 1}"

    def producer(self, x: Tensor | None) -> nn.Module | None:
        """The module with a matrix that feeds an activation; where sums stand between, the last that ran."""
        if x is None:
            return None
        path = self.path(x)
        return path[-1] if path and matrix(path[-1]) is not None else self._last

    def path(self, x: Tensor) -> list[nn.Module]:
        """Modules that have made this tensor, the last first, back to one with a matrix."""
        path: list[nn.Module] = []
        memory = x.data_ptr()
        while memory in self._made and len(path) < HOPS:
            made, memory = self._made[memory]
            path.append(made)
            if matrix(made) is not None:
                break
        return path

    def modules(self) -> set[int]:
        """By their id, those whose outputs are there."""
        return {id(made) for made, _ in self._made.values()}


def matrix(module: nn.Module) -> Tensor | None:
    """(outputs, inputs, ...) of a module that has a weight matrix."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2 or isinstance(module, nn.Embedding):
        return None
    turned = isinstance(module, nn.modules.conv._ConvTransposeNd) or type(module).__name__ == "Conv1D"  # transformers'
    return weight.transpose(0, 1) if turned else weight
