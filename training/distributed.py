"""The processes of a run: a single one, or one per GPU, started by torchrun."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from zsm.errors import BackendError, Error, TrainingError

LONGEST_WAIT = timedelta(days=2)
"""For the first process, which may prepare footage for hours. If one dies, torchrun stops the others at once."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process's place among the run's processes."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process logs, validates and writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Make the module average its gradients over all processes."""
        if self.count == 1:
            return module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames the option
            return DistributedDataParallel(module, broadcast_buffers=False)  # all buffers are constants

    def mean(self, value: Tensor) -> float:
        """Average a scalar over all processes, each of which must call this."""
        value = value.detach().clone()
        if self.count > 1:
            distributed.all_reduce(value)
        return value.item() / self.count

    def agree(self, value: float) -> float:
        """Return the first process's value in every process."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(tensor, 0)
        return tensor.item()

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def join(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, or run alone.

    `device` is `cpu`, `cuda` or `cuda:N`; under torchrun, `cuda` is the GPU of the process's local rank. Raises
    BackendError if there is no such device.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cuda" and count > 1:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    chosen = _device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.benchmark = True  # all training batches have the same shape
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    if count == 1:
        yield Processes(device=chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        yield Processes(device=chosen, rank=distributed.get_rank(), count=count)
    except RuntimeError as error:
        if isinstance(error, Error) or "by peer" not in str(error):
            raise
        raise TrainingError("another process of this run has ended; its own message says why") from error
    finally:
        distributed.destroy_process_group()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"unknown device {name!r}: give cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"training doesn't run on {name}: give cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"there is no device {name}: torch finds {torch.cuda.device_count()} GPUs")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device
