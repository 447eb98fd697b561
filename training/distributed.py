"""The processes of a run: one, or one for each GPU as torchrun starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from zsm.errors import BackendError


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among all of the run's."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that logs, validates and writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over all processes."""
        if self.count == 1:
            return module
        # The only buffers are constants.
        return DistributedDataParallel(module, broadcast_buffers=False)

    def mean(self, value: Tensor) -> float:
        """A scalar's mean over all processes; each of them has to ask."""
        value = value.detach().clone()
        if self.count > 1:
            distributed.all_reduce(value)
        return value.item() / self.count

    def agree(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(tensor, 0)
        return tensor.item()

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def join(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone.

    device: `cpu`, `cuda` or `cuda:N`; with torchrun, `cuda` is the GPU of the process's local rank.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cuda" and count > 1:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    chosen = _device(device)
    if count == 1:
        yield Processes(device=chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(device=chosen, rank=distributed.get_rank(), count=count)
    finally:
        distributed.destroy_process_group()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"{name!r} is no device; give cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"training runs on cpu or cuda, not on {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"there is no {name}: torch sees {torch.cuda.device_count()} GPUs")
    return device
