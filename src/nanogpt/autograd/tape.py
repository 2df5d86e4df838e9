"""The tape: what was done, so that it can be gone through backwards.

Each operation on a tensor that requires a gradient leaves a Node: its formulas, the nodes before it, and the tensors
that the formulas will need. The engine goes from the result to the leaves, each node after all that used it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nanogpt.autograd.dispatch import OPS, Key, Operator, below
from nanogpt.autograd.order import topological
from nanogpt.errors import UserError

if TYPE_CHECKING:
    from nanogpt.autograd.tensor import Tensor

Hook = Callable[["Tensor"], "Tensor | None"]


class _State(threading.local):
    def __init__(self) -> None:
        self.recording = True
        self.packing: list[tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = []


_state = _State()


@contextmanager
def recording(on: bool) -> Iterator[None]:
    """Whether operations inside are put on the tape."""
    before, _state.recording = _state.recording, on
    try:
        yield
    finally:
        _state.recording = before


def no_grad() -> Any:
    """Nothing inside is put on the tape, as in an optimizer's step."""
    return recording(False)


def is_recording() -> bool:
    return _state.recording


@contextmanager
def saved_tensors_hooks(pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> Iterator[None]:
    """Keep something else in a saved tensor's place: pack(tensor) is kept, unpack gives the tensor back. To count what
    is saved, to move it elsewhere, to make it anew."""
    _state.packing.append((pack, unpack))
    try:
        yield
    finally:
        _state.packing.pop()


class Saved:
    """A tensor that a formula needs, and the version it had."""

    def __init__(self, tensor: Tensor, own: bool) -> None:
        """own: it is the result of the node that saves it, so that a reference to it would go in a circle."""
        kept = tensor.detach() if own else tensor
        self.version, self.described = tensor.version, f"{tensor.dtype} {tensor.shape}"
        self.unpacking: Callable[[Any], Tensor] | None = None
        self.own, self.kept = own, kept
        self.history = tensor.node() if tensor.requires_grad and not own else None
        if _state.packing:
            pack, self.unpacking = _state.packing[-1]
            with no_grad():
                self.kept = pack(kept)

    def unpack(self, node: Node) -> Tensor:
        """Raises UserError where the numbers are no longer those that were saved."""
        if self.unpacking is None and self.kept.version != self.version:
            raise UserError(
                f"{node.name} needs a tensor ({self.described}) as it was at version {self.version}, but it was "
                f"changed in place and is at version {self.kept.version}; nearest: change a copy, x.clone()"
            )
        if self.unpacking is None and not self.own:
            return self.kept
        tensor: Tensor = self.kept if self.unpacking is None else self.unpacking(self.kept)
        tensor = tensor.detach()  # with its place in the graph, for gradients of gradients
        tensor.grad_fn = node if self.own else self.history
        tensor.requires_grad = tensor.grad_fn is not None
        return tensor


class Node:
    """One operation on the tape. A node answers the gradients of its inputs from that of its result.

    next_functions: the node that made each input, None where no gradient is wanted.
    hooks: called with the gradient of the result, which they may replace.
    """

    def __init__(self, operator: Differentiable, args: tuple[Any, ...], out: Tensor) -> None:
        self.operator = operator
        self.name = "".join(word.capitalize() for word in operator.name.split("_")) + "Backward"
        self.inputs = [(a.shape, a.dtype) if hasattr(a, "storage") else None for a in args]
        self.next_functions = [
            a.node() if hasattr(a, "storage") and a.requires_grad and name in operator.formulas else None
            for name, a in zip(operator.arguments, args, strict=True)
        ]
        self.knobs: dict[str, Any] = {}
        self.saved: dict[str, Saved] | None = {}
        wanted = operator.wanted(next_node is not None for next_node in self.next_functions)
        for name, a in zip(operator.arguments, args, strict=True):
            if hasattr(a, "storage"):
                self.knobs[f"{name}_shape"], self.knobs[f"{name}_dtype"] = a.shape, a.dtype
                if name in wanted:
                    self.saved[name] = Saved(a, own=False)
            else:
                self.knobs[name] = a
        if "out" in wanted:
            self.saved["out"] = Saved(out, own=True)
        self.hooks: list[Hook] = []
        self.retaining: weakref.ref[Tensor] | None = None

    def gradients(self, grad: Tensor) -> list[Tensor | None]:
        """Of each input. Raises UserError where what it saved is gone or was changed."""
        if self.saved is None:
            raise UserError(
                f"{self.name}: a second backward pass, but the first one freed what was saved; nearest: "
                "backward(retain_graph=True) the first time"
            )
        values = {name: saved.unpack(self) for name, saved in self.saved.items()} | self.knobs
        return [
            None if next_node is None else self.operator.formulas[name](grad, **self.operator.picked(name, values))
            for name, next_node in zip(self.operator.arguments, self.next_functions, strict=True)
        ]

    def checked(self, grads: list[Tensor | None]) -> list[Tensor | None]:
        for name, grad, meta in zip(self.operator.arguments, grads, self.inputs, strict=True):
            if grad is not None and (grad.shape, grad.dtype) != meta:
                assert meta is not None
                raise UserError(
                    f"{self.name}: the gradient of '{name}' is {grad.dtype} {grad.shape}, "
                    f"but '{name}' is {meta[1]} {meta[0]}"
                )
        return grads

    def release(self) -> None:
        if self.saved:
            self.saved = None

    def __repr__(self) -> str:
        return f"<{self.name}>"


class AccumulateGrad(Node):
    """The end of the tape at a leaf: adds what arrives to its `grad`."""

    def __init__(self, variable: Tensor) -> None:
        self.variable, self.name = variable, "AccumulateGrad"
        self.next_functions, self.saved = [], {}
        self.hooks, self.retaining = [], None

    def accumulate(self, grad: Tensor) -> None:
        before = self.variable.grad
        # A copy: several leaves may be handed one and the same tensor, and a person may change one of them in place.
        self.variable.grad = grad.clone() if before is None else before + grad


class Differentiable(Operator):
    """An operation with a formula for the gradient of some of its arguments.

    A formula is a function of the result's gradient `g` and of whatever else it names: an argument; `out`, the result;
    `a_shape` or `a_dtype` of an argument a. What the formulas of the inputs that want a gradient name is saved, and
    nothing else: PyTorch generates the same from its table derivatives.yaml. They are made of operations in their
    turn, so that a gradient has a gradient.
    """

    def __init__(self, schema: str, formulas: dict[str, Callable[..., Tensor]]) -> None:
        super().__init__(schema)
        self.formulas = formulas
        if unknown := set(formulas) - set(self.arguments):
            raise UserError(f"{schema} has a formula for {', '.join(sorted(unknown))}, which it does not take")
        self.needs = {name: f.__code__.co_varnames[1 : f.__code__.co_argcount] for name, f in formulas.items()}
        known = {"out", *(f"{a}{of}" for a in self.arguments for of in ("", "_shape", "_dtype"))}
        for name, needs in self.needs.items():
            if unknown := set(needs) - known:
                raise UserError(f"{schema}: the formula of '{name}' names {', '.join(sorted(unknown))}; it may name "
                                f"g and {', '.join(sorted(known))}")  # fmt: skip
        self.kernels[Key.AUTOGRAD] = self._record
        OPS[self.name] = self

    def wanted(self, flags: Iterator[bool]) -> set[str]:
        """What the formulas of the arguments that are flagged need."""
        return {n for name, on in zip(self.arguments, flags, strict=True) if on for n in self.needs[name]}

    def picked(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        return {need: values[need] for need in self.needs[name]}

    def _record(self, *args: Any) -> Any:
        tensors = [a for a in args if hasattr(a, "storage")]
        if _state.recording:
            for tensor in tensors:
                tensor.check_history()
        with below(Key.AUTOGRAD):
            out = self(*args)
        if _state.recording and self.formulas and any(t.requires_grad for t in tensors):
            out.grad_fn, out.requires_grad = Node(self, args, out), True
        return out


def run(
    roots: Sequence[tuple[Node, Tensor]], *, retain: bool, create: bool, wanted: Sequence[Node] | None = None
) -> dict[Node, Tensor]:
    """Backwards from the roots with their gradients. wanted: collect the gradients that arrive at these nodes, and
    leave the leaves alone; None: give every leaf its own. create: put the backward pass on the tape too."""
    order = topological([node for node, _ in roots], lambda node: [n for n in node.next_functions if n is not None])
    useful = set(order) if wanted is None else _leading_to(set(wanted), order)
    arrived: dict[Node, Tensor] = {}
    found: dict[Node, Tensor] = {}
    with recording(create):
        for node, grad in roots:
            _add(arrived, node, grad)
        for node in reversed(order):
            if node not in arrived or node not in useful:
                continue
            grad = _hooked(node, arrived.pop(node))
            if wanted is not None and node in wanted:
                found[node] = grad
            if isinstance(node, AccumulateGrad):
                if wanted is None:
                    node.accumulate(grad)
                continue
            if not any(n in useful for n in node.next_functions):
                continue
            for before, part in zip(node.next_functions, node.checked(node.gradients(grad)), strict=True):
                if before is not None and part is not None:
                    _add(arrived, before, part)
            if not retain:
                node.release()
    return found


def _leading_to(wanted: set[Node], order: list[Node]) -> set[Node]:
    useful: set[Node] = set()
    for node in order:  # each after those before it
        if node in wanted or any(n in useful for n in node.next_functions):
            useful.add(node)
    return useful


def _add(arrived: dict[Node, Tensor], node: Node, grad: Tensor) -> None:
    arrived[node] = arrived[node] + grad if node in arrived else grad


def _hooked(node: Node, grad: Tensor) -> Tensor:
    for hook in list(node.hooks):
        changed = hook(grad)
        grad = grad if changed is None else changed
    tensor = node.retaining() if node.retaining else None
    if tensor is not None:
        tensor.grad = grad
    return grad


__all__ = ["OPS", "AccumulateGrad", "Differentiable", "Node", "no_grad", "recording", "run", "saved_tensors_hooks"]
