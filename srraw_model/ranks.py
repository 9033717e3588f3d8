"""The processes of one run, as torchrun starts them: each has a rank, and together they make one batch.

Gradients are averaged by one reduction of all of them together, after the last part of a batch. That is what
DistributedDataParallel does in the end; done here it leaves the networks as they are, two of them too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from srraw_tools.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among `count`; alone, everything below does nothing."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def average(self, values: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their means over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([value.flatten() for value in values])
        distributed.all_reduce(flat)
        flat /= self.count
        for value, mean in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(mean.view_as(value))

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def any(self, true_here: bool, device: torch.device) -> bool:
        """Whether it is true in one of the processes."""
        return true_here if self.count == 1 else bool(self.total(torch.tensor(int(true_here), device=device)))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def leave(self) -> None:
        """End the company of the processes, once all are done."""
        if self.count > 1:
            distributed.barrier()
            distributed.destroy_process_group()


def join_ranks(device: torch.device) -> Ranks:
    """Join the processes that torchrun started beside this one: nccl between GPUs, gloo between CPUs.

    Raises:
        UserError: they do not find each other.
    """
    if not _under_torchrun():
        return Ranks()
    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"The processes of this run do not find each other: {str(error).splitlines()[0]}",
                "Start them all by 'torchrun --nproc-per-node N -m srraw_model.train ...'.",
            ) from error
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def local_device(name: str | None) -> str | None:
    """The device asked for; under torchrun, where none is, the GPU of this process's own number."""
    if name is None and _under_torchrun() and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
    return name


def _under_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
