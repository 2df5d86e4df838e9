"""The tape: what was done, so that it can be gone through backwards.

Each operation on a tensor that requires a gradient leaves a Node: its formulas, the nodes before it, and the tensors
that the formulas will need. The engine goes from the result to the leaves, each node after all that used it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from nanogpt.autograd.dispatch import OPS, STATE, Key, Operator, below, is_tensor
from nanogpt.autograd.order import topological
from nanogpt.errors import UserError

if TYPE_CHECKING:
    from nanogpt.autograd.tensor import Tensor

Hook = Callable[["Tensor"], "Tensor | None"]


def no_grad() -> AbstractContextManager[None]:
    """Nothing inside is put on the tape, as in an optimizer's step."""
    return STATE.having(recording=False)


def saved_tensors_hooks(pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> AbstractContextManager[None]:
    """Keep something else in a saved tensor's place: pack(tensor) is kept, unpack gives the tensor back. To count what
    is saved, to move it elsewhere, to make it anew."""
    return STATE.having(packing=(pack, unpack))


class Saved:
    """What a formula needs: the numbers of a tensor, the version they had, and the tensor's place in the graph."""

    def __init__(self, tensor: Tensor, own: bool) -> None:
        """own: it is the result of the node that saves it, so that a reference to that node would go in a circle."""
        self.own, self.history = own, tensor.node() if tensor.requires_grad and not own else None
        self.like, self.version = (tensor.dtype, tensor.shape), tensor.version
        self.kept: Any = tensor.detach()
        self.unpacking: Callable[[Any], Tensor] | None = None
        if STATE.packing:
            pack, self.unpacking = STATE.packing
            with no_grad():
                self.kept = pack(self.kept)

    def unpack(self, node: Node) -> Tensor:
        """Raises UserError where the numbers are no longer those that were saved."""
        tensor: Tensor = self.unpacking(self.kept) if self.unpacking else self.kept
        must_be_like(tensor, *self.like, f"{node.name}: what was unpacked")
        if self.unpacking is None and tensor.version != self.version:
            raise UserError(
                f"{node.name} needs a tensor ({tensor.dtype} {tensor.shape}) as it was at version {self.version}, but "
                f"it was changed in place and is at version {tensor.version}; nearest: change a copy, x.clone()"
            )
        tensor = tensor.detach()  # with its place in the graph, for gradients of gradients
        tensor.grad_fn = node if self.own else self.history
        tensor.requires_grad = tensor.grad_fn is not None
        return tensor


class Node:
    """One operation on the tape. A node answers the gradients of its inputs from that of its result.

    next_functions: the node that made each input, None where no gradient is wanted.
    saved: the tensors that the formulas will need, by name; None when they were freed.
    known: what else a formula may name: plain arguments, shapes and dtypes.
    hooks: called with the gradient of the result, which they may replace.
    """

    def __init__(self, operator: Differentiable, args: tuple[Any, ...], out: Tensor) -> None:
        named = dict(zip(operator.arguments, args, strict=True))
        tensors = {name: a for name, a in named.items() if is_tensor(a)}
        self.operator = operator
        self.name = "".join(word.capitalize() for word in operator.name.split("_")) + "Backward"
        self.next_functions = [
            tensors[name].node() if name in operator.formulas and name in tensors and tensors[name].requires_grad
            else None for name in named
        ]  # fmt: skip
        wanted = [name for name, before in zip(named, self.next_functions, strict=True) if before is not None]
        needed = {need for name in wanted for need in operator.needs[name]}
        tensors["out"] = out
        self.saved: dict[str, Saved] | None = {
            name: Saved(tensors[name], own=name == "out") for name in tensors if name in needed
        }
        self.known: dict[str, Any] = {name: a for name, a in named.items() if name not in tensors}
        for name, a in tensors.items():
            self.known |= {f"{name}_shape": a.shape, f"{name}_dtype": a.dtype}
        self.hooks: list[Hook] = []
        self.retaining: weakref.ref[Tensor] | None = None

    def gradients(self, grad: Tensor) -> Iterator[tuple[Node, Tensor]]:
        """The nodes before it, each with its gradient. Raises UserError where what it saved is gone or was changed."""
        if self.saved is None:
            raise UserError(
                f"{self.name}: a second backward pass, but the first one freed what was saved; nearest: "
                "backward(retain_graph=True) the first time"
            )
        values = self.known | {name: saved.unpack(self) for name, saved in self.saved.items()}
        for name, before in zip(self.operator.arguments, self.next_functions, strict=True):
            if before is not None:
                needs = {need: values[need] for need in self.operator.needs[name]}
                part = self.operator.formulas[name](grad, **needs)
                what = f"{self.name}: the gradient of '{name}'"
                must_be_like(part, values[f"{name}_dtype"], values[f"{name}_shape"], what)
                yield before, part

    def hooked(self, grad: Tensor) -> Tensor:
        """The gradient of the result, after the hooks."""
        for hook in list(self.hooks):
            changed = hook(grad)
            if changed is not None:
                must_be_like(changed, grad.dtype, grad.shape, f"a hook on {self.name}: the gradient in its place")
                grad = changed
        tensor = self.retaining() if self.retaining else None
        if tensor is not None:
            tensor.grad = grad.clone()
        return grad

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


def must_be_like(found: Any, dtype: Any, shape: Any, what: str) -> None:
    if not is_tensor(found):
        raise UserError(f"{what} is no tensor but {type(found).__name__}; nearest: {dtype} {shape}")
    if (found.dtype, found.shape) != (dtype, shape):
        raise UserError(f"{what} is {found.dtype} {found.shape}; it must be {dtype} {shape}")


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

    def _record(self, *args: Any) -> Any:
        tensors = [a for a in args if is_tensor(a)]
        if STATE.recording:
            for tensor in tensors:
                tensor.check_history()
        with below(Key.AUTOGRAD):
            out = self(*args)
        if STATE.recording and self.formulas and any(t.requires_grad for t in tensors):
            out.grad_fn, out.requires_grad = Node(self, args, out), True
        return out


def run(
    root: Node, grad: Tensor, *, retain: bool, create: bool, wanted: Sequence[Node] | None = None
) -> dict[Node, Tensor]:
    """Backwards from the root with its gradient. wanted: collect the gradients that arrive at these nodes, and leave
    the leaves alone; None: give every leaf its own. create: put the backward pass on the tape too."""
    order = topological([root], lambda node: [n for n in node.next_functions if n is not None])
    useful = set(order if wanted is None else wanted)
    for node in order:  # each after those before it: so those count too that lead to what is wanted
        if any(n in useful for n in node.next_functions):
            useful.add(node)
    arrived, found = {root: grad}, {}
    with STATE.having(recording=create):
        for node in reversed(order):
            if node not in arrived or node not in useful:
                continue
            grad = node.hooked(arrived.pop(node))
            if wanted is not None and node in wanted:
                found[node] = grad
            if isinstance(node, AccumulateGrad):
                if wanted is None:
                    node.accumulate(grad)
            elif any(n in useful for n in node.next_functions):
                for before, part in node.gradients(grad):
                    arrived[before] = arrived[before] + part if before in arrived else part
                if node.saved and not retain:
                    node.saved = None
    return found
