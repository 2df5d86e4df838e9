"""The only place that knows of several processes. Everywhere else a run is one process with a `World`.

Started by torchrun, each process takes its rows of every batch; gradients are added up, so that a step is the same
(to rounding) whatever their number. Only the main one writes. A world of one does nothing at no cost.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nanogpt.errors import UserError

if TYPE_CHECKING:  # `rank` and `is_main` are asked before torch is imported
    from torch import Tensor


def rank() -> int:
    """Number of this process, as torchrun says it."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    return rank() == 0


class World:
    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @classmethod
    def from_environment(cls) -> World:
        values = [
            os.environ.get(key, default) for key, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        ]
        return cls(*(int(value) for value in values))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @contextmanager
    def joined_on(self, device_kind: str) -> Iterator[None]:
        """Meet the other processes; part from them at the end."""
        if self.size == 1:
            yield
            return
        import torch.distributed as dist

        dist.init_process_group("nccl" if device_kind == "cuda" else "gloo", rank=self.rank, world_size=self.size)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def rows(self, n: int) -> slice:
        """This process's rows of a batch of n."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def check_batch(self, batch: int, accumulate: int) -> None:
        """Refuse a batch that cannot be cut evenly, naming the nearest that can."""
        parts = self.size * accumulate
        if batch % parts:
            nearest = max(1, round(batch / parts)) * parts
            over = f" over {self.size} processes" if self.size > 1 else ""
            raise UserError(
                f"train.batch={batch} cannot be cut into train.accumulate={accumulate} equal micro-batches{over}; "
                f"nearest: train.batch={nearest}"
            )

    def sum(self, tensor: Tensor) -> Tensor:
        """Added up over all processes."""
        if self.size == 1:
            return tensor
        import torch.distributed as dist

        on_device = tensor.cuda(self.local_rank) if dist.get_backend() == "nccl" else tensor.clone()
        dist.all_reduce(on_device)
        return on_device.to(tensor.device)

    def add_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Each process's loss is its rows' share of the whole batch's mean: the gradients add up to the whole one's."""
        if self.size > 1:
            import torch

            gradients = list(gradients)
            flat = self.sum(torch.cat([g.flatten() for g in gradients]))
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process: all of them then act alike."""
        if self.size == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(float(flag))).item())

    def share(self, text: str) -> str:
        """The main process's text, in all of them."""
        if self.size == 1:
            return text
        import torch

        raw = torch.zeros(4096, dtype=torch.int32)
        if self.is_main:
            raw[: len(text.encode())] = torch.tensor(list(text.encode()), dtype=torch.int32)
        return bytes(b for b in self.sum(raw).tolist() if b).decode()

    def wait(self) -> None:
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process does the work; the others then find it done."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()
