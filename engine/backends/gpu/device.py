"""What a backend on a device asks: of the device, memory and work in order; of a library, stages to execute."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from zsm.engine.bundle.shapes import Size

Array = NDArray[Any]

ALIGNMENT = 256
"""Bytes; TensorRT takes tensors at multiples of it only, and so does CUDA allocate."""


class Event(Protocol):
    """A place in a stream's work; one that was never recorded has been reached."""

    handle: Any

    def synchronize(self) -> None:
        """Wait until it is reached; raises BackendError if anything before it failed."""

    def close(self) -> None:
        """Give the event back."""


class Graph(Protocol):
    """Work that was recorded, to be done again as one."""

    handle: Any

    def close(self) -> None:
        """Give the graph back."""


class Stream(Protocol):
    """Work that a device does in order, at some later time."""

    handle: int

    def copy_in(self, address: int, array: Array) -> None:
        """From an array to the device."""

    def copy_out(self, array: Array, address: int) -> None:
        """From the device to an array."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Within the device."""

    def zero(self, address: int, size: int) -> None:
        """Fill with zeros."""

    def record(self, event: Event) -> None:
        """Put an event after all work so far."""

    def wait(self, event: Event) -> None:
        """Do further work when another stream has reached an event, as that stands now."""

    def begin_recording(self) -> None:
        """Don't do further work, but record it."""

    def end_recording(self) -> Graph:
        """What was recorded; raises BackendError if some of it can't be."""

    def launch(self, graph: Graph) -> None:
        """Do what was recorded."""

    def synchronize(self) -> None:
        """Wait until all is done."""

    def close(self) -> None:
        """Give the stream back, unless it is somebody else's."""


class Gpu(Protocol):
    """A device's memory."""

    index: int

    def use(self) -> None:
        """Make this the calling thread's device."""

    def current(self) -> AbstractContextManager[None]:
        """Make this the calling thread's device while the context lasts."""

    def named(self, name: str) -> AbstractContextManager[object]:
        """What is enqueued within has this name in a profiler's timeline."""

    def stream(self, handle: int | None = None) -> Stream:
        """A new stream, or somebody else's."""

    def event(self) -> Event:
        """A new event."""

    def allocate(self, size: int) -> int:
        """The address of so many bytes."""

    def free(self, address: int) -> None:
        """Give memory back."""

    def allocate_host(self, size: int) -> int:
        """The address of so many bytes on the host, page-locked: copies from and to them don't hold up the host."""

    def free_host(self, address: int) -> None:
        """Give page-locked memory back."""

    def view(self, array: object, stream: Stream) -> "Tensor":
        """Somebody else's array on this device, for work that is put on the stream from now on."""

    def dlpack(self, tensor: "Tensor", owner: object, **options: Any) -> Any:
        """A tensor as a DLPack capsule, which keeps its owner; `options` as `__dlpack__` has them."""

    def synchronize(self) -> None:
        """Wait until the device has done all that anybody asked of it."""


@dataclass(frozen=True)
class Tensor:
    """An array at an address, without gaps. Sizes lie on the host, everything else on the device."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object
    """Keeps the memory; when the last tensor in it is gone, it is used again."""
    scaled: bool = False
    """Whether it stands for 16-bit integers, as float32 from 0 to 1."""
    adopted: bool = False
    """Whether the memory is somebody else's."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Executable(Protocol):
    """A stage, compiled for a range of sizes."""

    def bind(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Set the inputs; the outputs' shapes and types."""

    def enqueue(self, outputs: Mapping[str, Tensor], stream: Stream) -> None:
        """Execute, at some later time, into the outputs."""


Compiled = Mapping[str, Executable]
"""A network's stages for one size of frames."""


class Compiler(Protocol):
    """Makes a network's stages executable."""

    recordable: bool
    """Whether a stream can record what its stages do."""
    uint16: bool
    """Whether there are stages for pixels that are 16-bit integers."""

    def load(self, size: Size) -> Compiled:
        """The stages for frames of a size, asked once for each; what was recorded before may no longer hold."""

    def describe(self) -> dict[str, Any]:
        """What executes, in plain values."""

    def close(self) -> None:
        """Give back what executables share."""
