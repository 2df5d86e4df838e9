"""The graph that PyTorch records of a model: its nodes, what each saved and for how many bytes, the gradients in it.

Nothing is patched. A node (`grad_fn`) is found by walking `next_functions` back from the loss; hooks on the modules say
in which of them it was made; `saved_tensors_hooks` see every tensor that is put by for the backward pass; a hook on
each node sees the gradient that arrives there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node as GradFn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from nanogpt.errors import UserError
from nanogpt.model.part import flops

LOSS = "loss"
"""Where nodes are counted that are in no module: the means and sums after the last one."""
ROUNDS, SECONDS = 3, 1.0
"""At least, for the time that checkpointing costs."""
VIEWS = ("View", "UnsafeView", "Transpose", "T", "Permute", "Expand", "Unsqueeze", "Squeeze", "Slice", "Select",
         "Split", "Unbind", "ReshapeAlias", "AsStrided", "Alias")  # fmt: skip
"""Operations that move no number: another shape and other strides over the same memory."""


@dataclass
class Saved:
    """A tensor that a node keeps. bytes: of the memory under it that nothing kept before; 0 for a weight, which is
    there anyway, and for what an earlier node keeps already. kind: kept, again, or weight."""

    name: str
    shape: list[int]
    dtype: str
    bytes: int
    kind: str


@dataclass
class Node:
    """One operation of the graph. shape: of its result. inputs: ids of the nodes whose results it took. module: where
    it was made. parameter: of a leaf, its name. gradient: RMS of the gradient that arrived here."""

    id: int
    op: str
    module: str
    shape: list[int]
    inputs: list[int] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    parameter: str = ""
    gradient: float | None = None

    @property
    def bytes(self) -> int:
        return sum(s.bytes for s in self.saved)

    @property
    def is_view(self) -> bool:
        return self.op in VIEWS


@dataclass
class Trace:
    """A pass over `tokens` tokens. kept: bytes that wait for the backward pass, of which every node's are the parts;
    checkpointed: the same with only the input of each block kept, and the most that recomputing one block adds."""

    nodes: list[Node]
    loss: float
    tokens: int
    kept: int
    checkpointed: int
    recomputed: int

    def by(self, key: Callable[[Node], str]) -> dict[str, int]:
        """Bytes by module or operation, the most first; what kept none is left out."""
        found: dict[str, int] = {}
        for node in self.nodes:
            if node.bytes:
                found[key(node)] = found.get(key(node), 0) + node.bytes
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def as_dict(self) -> dict[str, Any]:
        return {
            "loss": self.loss, "tokens": self.tokens,
            "nodes": [asdict(node) | {"bytes": node.bytes} for node in self.nodes],
            "bytes": {
                "kept": self.kept, "per_token": self.kept / self.tokens if self.tokens else 0,
                "by_module": self.by(lambda n: n.module), "by_operation": self.by(lambda n: n.op),
                "checkpointed": self.checkpointed, "recomputed_at_once": self.recomputed,
            },
        }  # fmt: skip


def trace(model: nn.Module, loss: Callable[[], Tensor], tokens: int = 0) -> Trace:
    """Run `loss` once, forward and backward, and look. Gradients of the model are gone afterwards.

    blocks: a model's `blocks`, where it has them, are what checkpointing would recompute. Raises UserError for a loss
    without a graph."""
    store, owners = Store(model), Owners(model)
    with store.keeping(), owners.watching():
        value = loss()
        if value.grad_fn is None:
            raise UserError(
                "the loss depends on no weight: there is no graph to trace; nearest: a preset such as bigram"
            )
        owners.claim(value, LOSS)
    made = sorted(owners.of, key=lambda fn: fn._sequence_nr() if not _is_leaf(fn) else -1)
    numbers = {fn: n for n, fn in enumerate(made)}
    names = {id(p): name for name, p in model.named_parameters()}
    nodes = [_node(n, fn, owners.of[fn], numbers, names, store) for fn, n in numbers.items()]
    _flow(value, dict(zip(made, nodes, strict=True)))
    model.zero_grad(set_to_none=True)
    for node in nodes:  # a leaf belongs where it is used
        for before in node.inputs:
            if nodes[before].parameter:
                nodes[before].module = node.module
    outside, largest = kept_with_checkpoints(model, loss)
    return Trace(nodes, float(value.detach()), tokens, store.bytes, outside, largest)


def _is_leaf(fn: GradFn) -> bool:
    return hasattr(fn, "variable")


def _node(
    number: int, fn: GradFn, module: str, numbers: Mapping[GradFn, int], names: Mapping[int, str], store: Store
) -> Node:
    metas = cast(Any, fn)._input_metadata
    shape = list(metas[0].shape) if metas else []
    inputs = [numbers[before] for before, _ in fn.next_functions if before is not None]
    if _is_leaf(fn):
        return Node(number, "weight", module, shape, parameter=names.get(id(cast(Any, fn).variable), "?"))
    return Node(number, operation(fn.name()), module, shape, inputs, store.of(fn))


def operation(name: str) -> str:
    """ "AddmmBackward0" -> "Addmm"."""
    return name.rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def _flow(loss: Tensor, nodes: dict[GradFn, Node]) -> None:
    """Go backward, and note the gradient that arrives at each node."""

    def hook(node: Node, grads: tuple[Tensor | None, ...]) -> None:
        there = [g for g in grads if g is not None]
        count = sum(g.numel() for g in there)
        square = sum(float(g.detach().double().square().sum()) for g in there)
        node.gradient = (square / count) ** 0.5 if count else None

    with ExitStack() as hooks:
        for fn, node in nodes.items():
            hooks.callback(fn.register_prehook(partial(hook, node)).remove)
        loss.backward()


class Store:
    """What is saved for the backward pass: all of it by memory, and by the node that keeps it."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.bytes = 0
        self._held: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice
        self._new: dict[int, int] = {}
        self._unpacked: list[tuple[Tensor, int]] = []

    @contextmanager
    def keeping(self) -> Iterator[None]:
        with saved_tensors_hooks(self._pack, self._unpack):
            yield

    def _pack(self, tensor: Tensor) -> tuple[Tensor, int]:
        memory, new = tensor.untyped_storage(), 0
        if memory.data_ptr() not in self._held and memory.data_ptr() not in self.weights:
            self._held[memory.data_ptr()] = memory
            new = memory.nbytes()
            self.bytes += new
        return tensor.detach(), new

    def _unpack(self, kept: tuple[Tensor, int]) -> Tensor:
        self._unpacked.append(kept)
        return kept[0]

    def of(self, fn: GradFn) -> list[Saved]:
        """What a node saved, by the names that PyTorch's formulas have for it."""
        found = []
        names = [name for name in dir(fn) if name.startswith("_saved_")] or ["saved_tensors"]
        for name in names:
            before = len(self._unpacked)
            getattr(fn, name, None)  # reading it unpacks it
            for tensor, new in self._unpacked[before:]:
                weight = tensor.untyped_storage().data_ptr() in self.weights
                kind = "weight" if weight else "kept" if new else "again"
                dtype = str(tensor.dtype).removeprefix("torch.")
                found.append(Saved(name.removeprefix("_saved_"), list(tensor.shape), dtype, new, kind))
        return found


class Owners:
    """In which module each node was made: what is new when a module begins belongs to the one around it, what is new
    when it ends is its own."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.of: dict[GradFn, str] = {}
        self._inside: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for name, module in self.model.named_modules():
                hooks.callback(module.register_forward_pre_hook(partial(self._begin, name), with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(partial(self._end, name)).remove)
            yield

    def _begin(self, name: str, module: nn.Module, inputs: Any, keywords: Any) -> None:
        self.claim((inputs, keywords), self._inside[-1] if self._inside else LOSS)
        self._inside.append(name or LOSS)

    def _end(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.claim(output, name or LOSS)
        self._inside.pop()

    def claim(self, value: Any, name: str) -> None:
        stack = [tensor.grad_fn for tensor in _tensors(value)]
        while stack:
            fn = stack.pop()
            if fn is not None and fn not in self.of:
                self.of[fn] = name
                stack += [before for before, _ in fn.next_functions]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def blocks_of(model: nn.Module) -> list[Any]:
    return list(cast("Iterable[Any]", getattr(model, "blocks", ())))


@contextmanager
def checkpointed(model: nn.Module, around: Callable[[Any], Any] = lambda forward: forward) -> Iterator[None]:
    """Each block keeps only its input, and is run again when the backward pass comes to it (Chen et al. 2016,
    arXiv:1604.06174). around: what to put around each block's forward pass."""
    with ExitStack() as undo:
        for block in blocks_of(model):
            block.forward = partial(checkpoint, around(block.forward), use_reentrant=False)
            undo.callback(delattr, block, "forward")
        yield


def kept_with_checkpoints(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[int, int]:
    """Bytes kept when every block is checkpointed, measured; and the bytes that the largest block has when it was run
    again, one at a time. Where a model has no `blocks` nothing is recomputed."""
    most = 0

    def measured(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **keywords: Any) -> Any:
            nonlocal most
            store = Store(model)
            with store.keeping():
                out = forward(*args, **keywords)
            most = max(most, store.bytes)
            return out

        return run

    outer = Store(model)
    with checkpointed(model, measured):
        with outer.keeping():
            value = loss()
        outside = outer.bytes
        value.backward()
    model.zero_grad(set_to_none=True)
    return outside, most


def more_operations(model: nn.Module, context: int) -> float:
    """By what share running the blocks again raises a step's operations: the forward pass, and twice that for the
    gradients. PyTorch stops each block when its last saved tensor is back, which is a little less."""
    return sum(flops(block, 1, context) for block in blocks_of(model)) / (3 * flops(model, 1, context))


def more_time(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    """The same in seconds, measured: medians of steps in turn, plain and checkpointed."""
    found: dict[str, list[float]] = {"plain": [], "checkpointed": []}
    while len(found["plain"]) < ROUNDS or sum(map(sum, found.values())) < SECONDS:
        for name, seconds in found.items():
            with checkpointed(model) if name == "checkpointed" else nullcontext():
                started = time.perf_counter()
                loss().backward()
                seconds.append(time.perf_counter() - started)
            model.zero_grad(set_to_none=True)
    return median(found["checkpointed"]) / median(found["plain"]) - 1
