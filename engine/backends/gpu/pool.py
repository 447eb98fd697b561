"""Memory that is used again, so that streams of any length allocate only at their beginning."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import DTypeLike

from zsm.engine.backends.gpu.device import Gpu, Stream, Tensor
from zsm.errors import BackendError


class Pool:
    """Buffers by size: frames of one size need few sizes of them, so each size has its own list of idle ones.

    A buffer is idle as soon as nothing refers to it, even if the device is yet to read it: whoever takes it next
    puts his work after that, on the same stream.
    """

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], None]) -> None:
        self._allocate = allocate
        self._free = free
        self._idle: dict[int, list[int]] = defaultdict(list)
        self._closed = False

    def take(self, size: int) -> "Buffer":
        """A buffer of so many bytes."""
        idle = self._idle[size]
        return Buffer(self, idle.pop() if idle else self._allocate(size), size)

    def give(self, address: int, size: int) -> None:
        """Take a buffer back."""
        if self._closed:
            self._free(address)
        else:
            self._idle[size].append(address)

    def close(self) -> None:
        """Give the memory back; buffers in use follow when they are no longer."""
        self._closed = True
        self.trim()

    def trim(self) -> None:
        """Give up what is idle."""
        for addresses in self._idle.values():
            while addresses:
                self._free(addresses.pop())


class Buffer:
    """Memory that its pool gets back when nothing refers to it."""

    def __init__(self, pool: Pool, address: int, size: int) -> None:
        self._pool = pool
        self.size = size
        self.address = address

    def __del__(self) -> None:
        self._pool.give(self.address, self.size)


class DeviceMemory:
    """Tensors that are read and written on one stream."""

    def __init__(self, gpu: Gpu, stream: Stream) -> None:
        self._gpu = gpu
        self._stream = stream
        self._pool = Pool(self.allocate, gpu.free)
        self.when_short: Callable[[], None] = lambda: None

    def new(self, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        """A tensor full of anything."""
        kind = np.dtype(dtype)
        buffer = self._pool.take(math.prod(shape) * kind.itemsize)
        return Tensor(buffer.address, shape, kind, buffer)

    def copy(self, tensor: Tensor) -> Tensor:
        """A tensor like another, in memory of its own."""
        copied = self.new(tensor.shape, tensor.dtype)
        self._stream.copy(copied.address, tensor.address, copied.nbytes)
        return copied

    @contextmanager
    def taken_from(self, pool: Pool) -> Iterator[None]:
        """Tensors that are made within come from another pool."""
        usual, self._pool = self._pool, pool
        try:
            yield
        finally:
            self._pool = usual

    def trim(self) -> None:
        """Give up what is idle; the device may have to finish first."""
        self._pool.trim()

    def allocate(self, size: int) -> int:
        """The address of so many bytes, if need be after all has been given up that can be done without."""
        try:
            return self._gpu.allocate(size)
        except BackendError:
            self.trim()
            self.when_short()
            return self._gpu.allocate(size)

    def close(self) -> None:
        """Give the device its memory back."""
        self._pool.close()
