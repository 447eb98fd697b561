"""Device names, and the options that a backend is opened with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, cast, get_args

from zsm.errors import ArgumentError, ArgumentTypeError, BackendError
from zsm.runtime.arguments import whole_number

MOST_THREADS = 1024

Kind = Literal["cpu", "cuda", "gpu", "npu"]

DEVICES = "cpu, cuda:N, gpu:N or npu"

ChosenPrecision = Literal["bundle", "bfloat16"]
"""What a backend computes in: the bundle's own precision, or bfloat16."""

CLOSED = "this Runtime is closed; make a new one"

Engine = tuple[Mapping[str, Any], bytes]
"""A TensorRT engine, after everything that it depends on (`EngineKey`) in plain values."""


class Exchange(Protocol):
    """Settles which build of an engine is used by all who share it: two builds of one may differ in pixels."""

    def settle(self, asked: Mapping[str, Any], found: Engine | None) -> Engine | None:
        """Offer the engine that was found here for a key, if any; returns the one to use, None if nobody has any."""
        ...


@dataclass(frozen=True, kw_only=True, repr=False)
class Device:
    """The CPU, an NVIDIA GPU (`cuda`), or one of Intel's GPUs (`gpu`) or its NPU."""

    kind: Kind
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse `cpu`, `cuda`, `cuda:1`, `gpu`, `gpu:1` or `npu`.

        Raises BackendError, or ArgumentTypeError unless it is a string.
        """
        if not isinstance(name, str):
            raise ArgumentTypeError(f"device is {name!r}; give {DEVICES}")
        match = re.fullmatch(r"(cpu|npu)|(cuda|gpu)(?::(\d+))?", name)
        if not match:
            raise BackendError(f"unknown device {name!r}; choose {DEVICES}")
        return cls(kind=cast("Kind", match[1] or match[2]), index=int(match[3] or 0))

    @property
    def on_host(self) -> bool:
        """Whether tensors lie in the host's memory."""
        return self.kind != "cuda"

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.kind in ("cuda", "gpu") else self.kind

    def __repr__(self) -> str:
        return f"Device({str(self)!r})"


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """Where and how a bundle is opened. Raises ArgumentError or ArgumentTypeError for invalid options."""

    device: Device
    threads: int | None = None
    """CPU threads; None for all cores."""
    precision: ChosenPrecision = "bundle"
    build: bool = False
    """Whether missing TensorRT engines are built."""
    cuda_stream: int | None = None
    """The handle of the caller's stream to compute on, instead of one of the backend's own."""
    cuda_graphs: bool = False
    """Whether stages are launched as CUDA graphs."""
    exchange: Exchange | None = None
    """Where TensorRT engines are settled; None for those of this machine's cache."""

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= whole_number("threads", self.threads) <= MOST_THREADS:
            raise ArgumentError(f"threads is {self.threads}; give 1 to {MOST_THREADS}, or leave it out for all cores")
        if self.precision not in get_args(ChosenPrecision):
            raise ArgumentError(f"precision is {self.precision!r}; choose {' or '.join(get_args(ChosenPrecision))}")
        if self.cuda_stream is not None and whole_number("cuda_stream", self.cuda_stream) == 0:
            raise ArgumentError("cuda_stream is 0, the default stream; create a stream and give its handle")
        for name, given in (("cuda_stream", self.cuda_stream is not None), ("cuda_graphs", self.cuda_graphs)):
            if given and self.device.kind != "cuda":
                raise ArgumentError(f"{name} is given, but the device is {self.device}; give device='cuda:N' as well")
