"""Device names and the options a backend is opened with."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from zsm.errors import BackendError

MOST_THREADS = 1024

CLOSED = "this Runtime is closed; make a new one"


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where stages are executed."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> Self:
        """`cpu`, `cuda` or `cuda:1`."""
        match = re.fullmatch(r"(cpu)|cuda(?::(\d+))?", name)
        if not match:
            raise BackendError(f"unknown device {name!r}; choose cpu, cuda or cuda:N")
        return cls(kind="cpu") if match[1] else cls(kind="cuda", index=int(match[2] or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how a bundle is opened.

    device: `cpu` or a GPU. threads: CPU threads, all cores by default. build: build what is missing.
    cuda_stream: the handle of the caller's stream to compute on, instead of one of the backend's own.
    """

    device: Device
    threads: int | None = None
    build: bool = False
    cuda_stream: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise BackendError(f"{self.threads} threads can't compute anything; give at least 1, or none for all cores")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise BackendError(f"{self.threads} threads are more than the {MOST_THREADS} that can help; give fewer")
        if self.cuda_stream is not None and self.device.kind == "cpu":
            raise BackendError("a CUDA stream is given, but the device is the cpu; give device='cuda:N' as well")
        if self.cuda_stream == 0:
            raise BackendError("the CUDA stream is 0, the default one; give a stream that was made, or none")
