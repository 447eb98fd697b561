"""A backend over memory on a device: buffers, copies, and stages that something else executes.

It knows nothing of CUDA or TensorRT: `Gpu`, `Stream`, `Executable` and `Compiler` are all that it needs of them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from zsm.engine.backends.base import BackendError
from zsm.engine.bundle import Manifest
from zsm.engine.network import MULTIPLE, SCALE
from zsm.engine.sizes import Size

Array = NDArray[Any]


ALIGNMENT = 256
"""Bytes; TensorRT takes tensors at multiples of it only, and so does CUDA allocate."""


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

    def synchronize(self) -> None:
        """Wait until all is done."""

    def close(self) -> None:
        """Give the stream back."""


class Gpu(Protocol):
    """A device's memory."""

    def use(self) -> None:
        """Make this the calling thread's device."""

    def named(self, name: str) -> AbstractContextManager[object]:
        """What is enqueued within has this name in a profiler's timeline."""

    def stream(self) -> Stream:
        """A new stream."""

    def allocate(self, size: int) -> int:
        """The address of so many bytes."""

    def free(self, address: int) -> None:
        """Give memory back."""


@dataclass(frozen=True)
class Tensor:
    """An array at an address. Sizes lie on the host, everything else on the device."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object
    """Keeps the memory; when the last tensor in it is gone, it is used again."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


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

    def load(self, size: Size) -> Compiled:
        """The stages for frames of a size; asked once for each."""

    def describe(self) -> dict[str, Any]:
        """What executes, in plain values."""

    def close(self) -> None:
        """Give back what executables share."""


class DeviceBackend:
    """Stages on one device, one after the other on one stream, so that buffers can be used again at once.

    The device has no 16-bit integers: such frames are scaled on the host, by the same arithmetic, and cross the bus
    as float32.
    """

    def __init__(self, manifest: Manifest, gpu: Gpu, compiler: Compiler) -> None:
        self._gpu = gpu
        self._compiler = compiler
        self._stream = gpu.stream()
        self._pool = Pool(gpu)
        self._compiled: dict[Size, Compiled] = {}
        self._inputs = {name: tuple(t.name for t in stage.inputs) for name, stage in manifest.stages.items()}

    def inputs(self, stage: str) -> tuple[str, ...]:
        """The names of a stage's inputs."""
        return self._inputs.get(stage, ())

    def run(self, stage: str, inputs: Mapping[str, Tensor | Array]) -> dict[str, Any]:
        """Execute a stage, at some later time."""
        self._gpu.use()
        if stage == "ingest_uint16":
            scaled = np.asarray(inputs["pixels"], np.float32) / np.float32(65535)
            return self.run("ingest_float32", {"pixels": self.from_host(scaled)})
        if stage == "emit_uint16":
            values = self.to_host(self.run("emit_float32", inputs)["pixels"])
            return {"pixels": np.rint(np.clip(values, 0, 1) * np.float32(65535)).astype(np.uint16)}
        executable = self._executable(stage, inputs)
        with self._gpu.named(stage):
            return self._execute(executable, inputs)

    def _execute(self, executable: Executable, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        wanted = executable.bind(inputs)
        outputs = {name: self._new(shape, dtype) for name, (shape, dtype) in wanted.items()}
        executable.enqueue(outputs, self._stream)
        return outputs

    def _executable(self, stage: str, inputs: Mapping[str, Any]) -> Executable:
        """The stage for frames of this size, or, where pixels don't matter, for any that planes of this size hold."""
        if stage.startswith("ingest"):
            height, width = inputs["pixels"].shape[1:3]
        elif stage.startswith("emit"):
            height, width = (int(extent) // SCALE for extent in inputs["size"].owner)
        else:
            height, width = next(iter(inputs.values())).shape[2:]
            for size, compiled in self._compiled.items():
                if (_padded(size.height), _padded(size.width)) == (height, width):
                    return compiled[stage]
        size = Size(width, height)
        if size not in self._compiled:
            self._compiled[size] = self._compiler.load(size)
        return self._compiled[size][stage]

    def from_host(self, array: Array) -> Tensor | Array:
        """Copy to the device; sizes and 16-bit integers stay on the host."""
        self._gpu.use()
        if array.dtype == np.uint16:
            return array
        if array.dtype == np.int64:
            return Tensor(array.ctypes.data, array.shape, array.dtype, array)
        tensor = self._new(array.shape, array.dtype)
        self._stream.copy_in(tensor.address, array)
        self._stream.synchronize()  # the array is the caller's again
        return tensor

    def to_host(self, tensor: Tensor | Array) -> Array:
        """Wait, and copy back."""
        if isinstance(tensor, np.ndarray):
            return tensor
        self._gpu.use()
        array = np.empty(tensor.shape, tensor.dtype)
        self._stream.copy_out(array, tensor.address)
        self._stream.synchronize()
        return array

    def zeros_like(self, tensor: Tensor) -> Tensor:
        """Zeros."""
        zeros = self._new(tensor.shape, tensor.dtype)
        self._stream.zero(zeros.address, zeros.nbytes)
        return zeros

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        """Along the first axis."""
        count = sum(tensor.shape[0] for tensor in tensors)
        joined = self._new((count, *tensors[0].shape[1:]), tensors[0].dtype)
        address = joined.address
        for tensor in tensors:
            self._stream.copy(address, tensor.address, tensor.nbytes)
            address += tensor.nbytes
        return joined

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Along the first axis; without a copy, if every part lies where tensors may lie."""
        count, *rest = tensor.shape
        step = tensor.nbytes // count
        if step % ALIGNMENT:
            return [self._copy(tensor.address + i * step, (1, *rest), tensor.dtype) for i in range(count)]
        return [Tensor(tensor.address + i * step, (1, *rest), tensor.dtype, tensor.owner) for i in range(count)]

    def synchronize(self) -> None:
        """Wait until all that was enqueued is done."""
        self._gpu.use()
        self._stream.synchronize()

    def describe(self) -> dict[str, Any]:
        """What executes where."""
        return self._compiler.describe()

    def close(self) -> None:
        """Give everything back."""
        self._gpu.use()
        self._stream.synchronize()
        self._compiled.clear()
        self._compiler.close()
        self._pool.close()
        self._stream.close()

    def _copy(self, address: int, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        copy = self._new(shape, dtype)
        self._stream.copy(copy.address, address, copy.nbytes)
        return copy

    def _new(self, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        kind = np.dtype(dtype)
        buffer = self._pool.take(int(np.prod(shape)) * kind.itemsize)
        return Tensor(buffer.address, shape, kind, buffer)


def _padded(extent: int) -> int:
    return -(-extent // MULTIPLE) * MULTIPLE


class Pool:
    """Memory that is used again: by stream order, what is written next follows what was read last.

    Frames of one size need buffers of few sizes, so that each size has its own list of idle ones.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._idle: dict[int, list[int]] = defaultdict(list)
        self._closed = False

    def take(self, size: int) -> "Buffer":
        """A buffer of so many bytes; the idle ones of other sizes are given up if memory is short."""
        idle = self._idle[size]
        if idle:
            return Buffer(self, idle.pop(), size)
        try:
            return Buffer(self, self._gpu.allocate(size), size)
        except BackendError:
            if not any(self._idle.values()):
                raise
            self._release()
            return Buffer(self, self._gpu.allocate(size), size)

    def give(self, address: int, size: int) -> None:
        """Take a buffer back."""
        if self._closed:
            self._gpu.free(address)
        else:
            self._idle[size].append(address)

    def close(self) -> None:
        """Give the device its memory back; buffers in use follow when they are no longer."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        for addresses in self._idle.values():
            while addresses:
                self._gpu.free(addresses.pop())


class Buffer:
    """Memory on the device, given back to its pool when nothing refers to it."""

    def __init__(self, pool: Pool, address: int, size: int) -> None:
        self._pool = pool
        self._size = size
        self.address = address

    def __del__(self) -> None:
        self._pool.give(self.address, self._size)
