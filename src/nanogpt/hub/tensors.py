"""Names of tensors: a checkpoint's <-> ours, by the table of a family. One table, read in both directions.

    "model.layers.{}.self_attn.q_proj" = "blocks.{}.mixer.q"
    "transformer.h.{}.attn.c_attn" = "blocks.{}.mixer.q, blocks.{}.mixer.k, blocks.{}.mixer.v | transposed"

A row stands for the weight and the bias, in each layer (`{}`) that has them; a second `{}` is the head. Several of ours
lie one below the other in one of theirs. After the bar: how theirs lies in memory (LAYOUTS); `{name}` there is a key of
config.json.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.hub.expressions import Template
from nanogpt.hub.families import Family, Values
from nanogpt.spec import Spec, to_text

SUFFIX = r"(|\.weight|\.bias)"
NUMBERS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights are stored as; whole numbers and fp8 mean little without the scales of a quantisation."""
Layout = Callable[..., Tensor]


def _transposed(x: Tensor, back: bool) -> Tensor:
    """Theirs is (n_in, n_out), as in GPT-2's Conv1D. A vector stays."""
    return x.T if x.ndim == 2 else x


def _by_head(x: Tensor, back: bool, *, heads: int, parts: int = 3) -> Tensor:
    """Theirs has q, k, v of the first head, then of the second, ... (GPT-NeoX); ours all of q, then all of k, of v."""
    first, second = (parts, heads) if back else (heads, parts)
    return x.unflatten(0, (first, second, -1)).transpose(0, 1).flatten(0, 2)


def _paired(x: Tensor, back: bool, *, heads: int) -> Tensor:
    """Rotary pairs in theirs are neighbours (llama2.c, GGUF); in ours i and i + E/2."""
    shape = (heads, 2, -1) if back else (heads, -1, 2)
    return x.unflatten(0, shape).transpose(1, 2).flatten(0, 2)


def _swapped(x: Tensor, back: bool, *, heads: int) -> Tensor:
    """Theirs turns against our direction (nanochat), which is ours with the halves of each head swapped."""
    return x.unflatten(0, (heads, 2, -1)).flip(1).flatten(0, 2)


LAYOUTS: dict[str, Layout] = {
    "transposed": _transposed,
    "by_head": _by_head,
    "paired": _paired,
    "swapped": _swapped,
}


@dataclass(frozen=True)
class Row:
    """One tensor of theirs and those of ours that lie in it."""

    theirs: str
    ours: tuple[str, ...]
    how: Spec | None

    def _laid(self, x: Tensor, back: bool) -> Tensor:
        return x if self.how is None else LAYOUTS[self.how.name](x, back, **self.how.knobs)

    def split(self, tensor: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Theirs -> ours. ValueError where its shape is not that of ours put together."""
        wanted = list(self.join({name: torch.empty(shapes[name], device="meta") for name in self.ours}).shape)
        if list(tensor.shape) != wanted:
            raise ValueError(f"is {list(tensor.shape)}; the configuration makes it {wanted}")
        parts = self._laid(tensor, back=False).split([shapes[name][0] for name in self.ours])
        return dict(zip(self.ours, parts, strict=True))

    def join(self, ours: Mapping[str, Tensor]) -> Tensor:
        """Ours -> theirs."""
        return self._laid(torch.cat([ours[name] for name in self.ours]), back=True)


def rows(family: Family, values: Values, ours: Sequence[str]) -> list[Row]:
    """The rows that a model with these tensors has. UserError, naming it, for a tensor that the family has not."""
    own, found = set(ours), list[Row]()
    seen: set[str] = set()
    for theirs, text in family.tensors.items():
        names, _, how = (part.strip() for part in text.partition("|"))
        targets = [name.strip() for name in names.split(",")]
        laid = _layout(how, values)
        pattern = re.compile(re.escape(targets[0]).replace(r"\{\}", r"(\d+)") + SUFFIX)
        for match in filter(None, map(pattern.fullmatch, ours)):
            *numbers, suffix = match.groups()
            full = tuple(_numbered(target, numbers) + suffix for target in targets)
            if own.issuperset(full):
                found.append(Row(_numbered(theirs, numbers) + suffix, full, laid))
                seen.update(full)
    if left := own - seen:
        raise UserError(f"{family.name} has no tensor for our {min(left)}")
    return found


def _numbered(name: str, numbers: Sequence[str]) -> str:
    for number in numbers:
        name = name.replace("{}", number, 1)
    return name


def _layout(text: str, values: Values) -> Spec | None:
    if not text:
        return None
    filled = Template(text).fill(values)
    return filled if isinstance(filled, Spec) else Spec(to_text(filled))


def from_theirs(
    table: Sequence[Row], theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], family: Family, where: str
) -> Iterator[tuple[str, Tensor]]:
    """Our tensors. UserError for the first that is missing, misshapen or nobody's.

    `theirs` may read a tensor only when it is asked for one.
    """
    left = set(theirs)
    for row in table:
        name = tensor_named(row.theirs, left, family)
        if name not in left:
            raise UserError(f"{where} has no tensor '{row.theirs}', which {', '.join(row.ours)} would come from")
        left.remove(name)
        tensor = theirs[name]
        if tensor.dtype not in NUMBERS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{where}: tensor '{name}' holds {kind}, not numbers of 16, 32 or 64 bits with a point")
        if not tensor.float().isfinite().all():
            raise UserError(f"{where}: tensor '{name}' has numbers that are not finite")
        try:
            yield from row.split(tensor, shapes).items()
        except ValueError as error:
            raise UserError(f"{where}: tensor '{name}' {error}") from None
    left = {name for name in left if not any(fnmatch(name, pattern) for pattern in family.dropped)}
    copies = [(name, ours) for name in sorted(left) if (ours := _copied(name, family, table))]
    for name, original in copies:  # a tied head that was saved all the same
        if not torch.equal(theirs[name], theirs[tensor_named(original, theirs, family)]):
            raise UserError(f"{where}: tensor '{name}' should be the same as '{original}', to which it is tied")
        left.remove(name)
    if left:
        raise UserError(f"{where}: tensor '{min(left)}' is one that {family.name} of this configuration has not")


def _copied(name: str, family: Family, table: Sequence[Row]) -> str | None:
    """The tensor that this one is a copy of, where a family ties one to another."""
    tied = family.tied.get(name)
    return tied if any(row.theirs == tied for row in table) else None


def tensor_named(name: str, theirs: Collection[str], family: Family) -> str:
    """What a checkpoint calls a tensor: as the table does, without the family's prefix, or by its other name."""
    stem, dot, suffix = name.rpartition(".")
    names = (name, name.removeprefix(family.prefix), f"{family.also.get(stem, stem)}{dot}{suffix}")
    return next((said for said in names if said in theirs), name)
