"""Device names, and the options that a backend is opened with."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from zsm.errors import ArgumentError, ArgumentTypeError, BackendError
from zsm.runtime.arguments import whole_number

MOST_THREADS = 1024

CLOSED = "this Runtime is closed; make a new one"


@dataclass(frozen=True, kw_only=True, repr=False)
class Device:
    """The CPU, or one GPU."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse `cpu`, `cuda` or `cuda:1`; raises BackendError, or ArgumentTypeError unless it is a string."""
        if not isinstance(name, str):
            raise ArgumentTypeError(f"device is {name!r}; give 'cpu' or 'cuda:N'")
        match = re.fullmatch(r"(cpu)|cuda(?::(\d+))?", name)
        if not match:
            raise BackendError(f"unknown device {name!r}; choose cpu, cuda or cuda:N")
        return cls(kind="cpu") if match[1] else cls(kind="cuda", index=int(match[2] or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    def __repr__(self) -> str:
        return f"Device({str(self)!r})"


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """Where and how a bundle is opened. Raises ArgumentError or ArgumentTypeError for invalid options."""

    device: Device
    threads: int | None = None
    """CPU threads; None for all cores."""
    build: bool = False
    """Whether missing TensorRT engines are built."""
    cuda_stream: int | None = None
    """The handle of the caller's stream to compute on, instead of one of the backend's own."""
    cuda_graphs: bool = False
    """Whether stages are launched as CUDA graphs."""

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= whole_number("threads", self.threads) <= MOST_THREADS:
            raise ArgumentError(f"threads is {self.threads}; give 1 to {MOST_THREADS}, or leave it out for all cores")
        if self.cuda_stream is not None and whole_number("cuda_stream", self.cuda_stream) == 0:
            raise ArgumentError("cuda_stream is 0, the default stream; create a stream and give its handle")
        for name, given in (("cuda_stream", self.cuda_stream is not None), ("cuda_graphs", self.cuda_graphs)):
            if given and self.device.kind == "cpu":
                raise ArgumentError(f"{name} is given, but the device is the CPU; give device='cuda:N' as well")
