"""Memory that is reused, so that a stream of any length allocates only at its beginning."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import DTypeLike

from zsm.engine.backends.gpu.cuda import Event, Gpu, Stream
from zsm.engine.backends.gpu.tensor import Tensor
from zsm.errors import BackendError, OutOfMemoryError


class Pool:
    """Buffers for one stream, idle ones by size: frames of one size need few sizes.

    A buffer is idle as soon as nothing refers to it, and safe to reuse at once: later work on the same stream runs
    after the pending read. For reads on other streams there are events, which the stream waits for before a reuse.
    """

    def __init__(self, stream: Stream, allocate: Callable[[int], int], free: Callable[[int], None]) -> None:
        self._stream = stream
        self._allocate = allocate
        self._free = free
        self._idle: dict[int, deque[tuple[int, Sequence[Event]]]] = defaultdict(deque)
        self._closed = False

    def take(self, size: int) -> "Buffer":
        """Take the buffer of `size` bytes that has been idle longest, or allocate one."""
        idle = self._idle[size]
        if not idle:
            return Buffer(self, self._allocate(size), size)
        address, readers = idle.popleft()
        for event in readers:
            self._stream.wait(event)
        return Buffer(self, address, size)

    def give(self, address: int, size: int, readers: Sequence[Event]) -> None:
        """Take a buffer back. Called by finalizers, in any thread: nothing is put on the stream here."""
        self._idle[size].append((address, readers))
        if self._closed:
            self.trim()

    def close(self) -> None:
        """Free the memory; buffers in use follow when they are dropped."""
        self._closed = True
        self.trim()

    def trim(self) -> None:
        """Free the idle buffers; the device may have to finish first."""
        for idle in list(self._idle.values()):
            while idle:
                address, readers = idle.popleft()
                for event in readers:
                    with suppress(BackendError):
                        event.synchronize()
                self._free(address)


class Buffer:
    """Memory that returns to its pool when nothing refers to it."""

    def __init__(self, pool: Pool, address: int, size: int) -> None:
        self._pool = pool
        self.size = size
        self.address = address
        self.readers: list[Event] = []
        """Reached when other streams have read the buffer for the last time."""

    def __del__(self) -> None:
        self._pool.give(self.address, self.size, self.readers)


class DeviceMemory:
    """Tensors that are read and written on one stream."""

    def __init__(self, gpu: Gpu, stream: Stream) -> None:
        self._gpu = gpu
        self._stream = stream
        self._pool = Pool(stream, self.allocate, gpu.free)
        self.when_short: Callable[[], None] = lambda: None
        """Releases memory that can be done without."""

    def new(self, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        """Make an uninitialized tensor."""
        kind = np.dtype(dtype)
        buffer = self._pool.take(math.prod(shape) * kind.itemsize)
        return Tensor(buffer.address, shape, kind, buffer)

    def copy(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to memory of its own."""
        copied = self.new(tensor.shape, tensor.dtype)
        self._stream.copy(copied.address, tensor.address, copied.nbytes)
        return copied

    @contextmanager
    def taken_from(self, pool: Pool) -> Iterator[None]:
        """Take new tensors from another pool within the context."""
        usual, self._pool = self._pool, pool
        try:
            yield
        finally:
            self._pool = usual

    def trim(self) -> None:
        """Free the idle buffers; the device may have to finish first."""
        self._pool.trim()

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes, releasing cached buffers first if memory is short."""
        try:
            return self._gpu.allocate(size)
        except OutOfMemoryError:
            self.trim()
            self.when_short()
            return self._gpu.allocate(size)

    def close(self) -> None:
        """Free the memory; tensors in use follow when they are dropped."""
        self._pool.close()
