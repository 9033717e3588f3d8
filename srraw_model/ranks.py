"""The processes of one run, as torchrun starts them: each has a rank, and together they make one batch.

Gradients are averaged by one reduction of all of them together, after the last part of a batch. That is what
DistributedDataParallel does in the end; done here it leaves the networks as they are, two of them too.

What mixes the crops of a batch, `BatchNorm` and the mean verdict of ESRGAN's discriminator, mixes those of
all processes. Every loss is a mean over crops. So N processes compute what one does with the same batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

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


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d over the crops of all processes; torch's own SyncBatchNorm is for GPUs alone."""

    def forward(self, values: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); B is the same in all processes."""
        if not self.training or not _with_others():
            return super().forward(values)
        exact = values.float()
        mean = mean_over_ranks(exact.mean(dim=(0, 2, 3)))
        centred = exact - mean[:, None, None]
        variance = mean_over_ranks(centred.square().mean(dim=(0, 2, 3)))
        with torch.no_grad():
            count = distributed.get_world_size() * values.numel() // values.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        normal = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(values.dtype)


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all processes; in its gradient every process's loss counts, as in their sum."""
    if not _with_others():
        return values
    return all_reduce(values) / distributed.get_world_size()


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
    """The device asked for; under torchrun, unless that has a number, the GPU of this process's own."""
    if name in (None, "cuda") and _under_torchrun() and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
    return name


def _with_others() -> bool:
    return distributed.is_initialized() and distributed.get_world_size() > 1


def _under_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
