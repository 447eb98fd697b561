"""Frames to the device and back while it computes: page-locked memory, a stream for each way, events between them.

The host waits when it is a whole ring of uploads ahead of the device, and for a download whose pixels are wanted.
"""

import ctypes
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsm.engine.backends.gpu.cuda import Gpu, Stream
from zsm.engine.backends.gpu.pool import DeviceMemory
from zsm.engine.backends.gpu.tensor import Array, Tensor

RING = 3
"""Uploads under way: one written by the host, one copied, one read by the device."""

WHITE = np.float32(65535)


def page_locked(address: int, size: int) -> NDArray[np.uint8]:
    """View bytes on the host."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class Slot:
    """Page-locked memory, as large as the largest frame it has held, and the event of the copy it is part of."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._host, self._size = 0, 0
        self.copied = gpu.event()

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """View the memory as an array, once the last copy is done."""
        self.copied.synchronize()
        size = math.prod(shape) * dtype.itemsize
        if self._size < size:
            self._free()
            self._host, self._size = self._gpu.allocate_host(size), size
        return page_locked(self._host, size).view(dtype).reshape(shape)

    def close(self) -> None:
        """Free the memory."""
        self._free()

    def _free(self) -> None:
        size, self._size = self._size, 0
        if size:
            self._gpu.free_host(self._host)


class UploadSlot(Slot):
    """A slot with device memory of its own: the pool's can't be written ahead of the compute stream."""

    def __init__(self, gpu: Gpu, memory: DeviceMemory) -> None:
        super().__init__(gpu)
        self._memory = memory
        self._address, self._room = 0, 0
        self.read = gpu.event()

    def target(self, size: int) -> int:
        """The device memory, for `size` bytes."""
        if self._room < size:
            self._free_target()
            self._address, self._room = self._memory.allocate(size), size
        return self._address

    def close(self) -> None:
        """Free the memory on both sides."""
        super().close()
        self._free_target()

    def _free_target(self) -> None:
        room, self._room = self._room, 0
        if room:
            self._gpu.free(self._address)


class Uploads:
    """A ring of slots through which frames go to the device."""

    def __init__(self, gpu: Gpu, compute: Stream, memory: DeviceMemory) -> None:
        self._gpu = gpu
        self._compute = compute
        self._memory = memory
        self._ring: deque[UploadSlot] = deque()
        self.copies = gpu.stream()

    @contextmanager
    def send(self, array: Array, *, scale: bool = False) -> Iterator[Tensor]:
        """Copy an array to the device; it may be changed at once. The tensor is for work enqueued within the context.

        `scale`: uint16 becomes float32 from 0 to 1, by the arithmetic of the stage that does so elsewhere.
        """
        slot = self._next()
        dtype = np.dtype(np.float32) if scale else array.dtype
        host = slot.array(array.shape, dtype)
        if scale:
            np.divide(array, WHITE, out=host, dtype=np.float32)
        else:
            host[...] = array
        address = slot.target(host.nbytes)
        self.copies.wait(slot.read)
        self.copies.copy_in(address, host)
        with self._arrived(slot):
            yield Tensor(address, array.shape, dtype, slot)

    @contextmanager
    def adopt(self, tensor: Tensor) -> Iterator[Tensor]:
        """Copy a caller's tensor within the device; as with `send`, the caller may change it at once."""
        slot = self._next()
        address = slot.target(tensor.nbytes)
        self.copies.wait(slot.read)
        self.copies.copy(address, tensor.address, tensor.nbytes)
        with self._arrived(slot):
            slot.copied.synchronize()
            yield Tensor(address, tensor.shape, tensor.dtype, slot)

    @contextmanager
    def _arrived(self, slot: UploadSlot) -> Iterator[None]:
        self.copies.record(slot.copied)
        self._compute.wait(slot.copied)
        try:
            yield
        finally:
            self._compute.record(slot.read)

    def _next(self) -> UploadSlot:
        """The slot that was used longest ago."""
        if len(self._ring) < RING:
            self._ring.appendleft(UploadSlot(self._gpu, self._memory))
        self._ring.rotate(-1)
        return self._ring[-1]

    def close(self) -> None:
        """Free everything, even after a failure."""
        try:
            self.copies.synchronize()
        finally:
            while self._ring:
                self._ring.pop().close()
            self.copies.close()


class Downloads:
    """Slots through which frames come back, as many as there are downloads at once."""

    def __init__(self, gpu: Gpu, compute: Stream) -> None:
        self._gpu = gpu
        self._compute = compute
        self._copies = gpu.stream()
        self._computed = gpu.event()
        self._idle: list[tuple[Slot, Tensor | None]] = []
        """Idle slots; with an abandoned download's tensor, which must not be written to before it is copied."""
        self._closed = False

    def begin(self, tensor: Tensor) -> "Download":
        """Start copying a tensor to the host, once it is computed."""
        slot, abandoned = self._idle.pop() if self._idle else (Slot(self._gpu), None)
        host = slot.array(tensor.shape, tensor.dtype)  # has waited for the last copy
        del abandoned
        self._compute.record(self._computed)
        self._copies.wait(self._computed)
        self._copies.copy_out(host, tensor.address)
        self._copies.record(slot.copied)
        return Download(self, slot, host, tensor)

    def give(self, slot: Slot, tensor: Tensor | None) -> None:
        """Take a slot back."""
        if self._closed:
            slot.close()
        else:
            self._idle.append((slot, tensor))

    def close(self) -> None:
        """Free everything, even after a failure; slots in use follow when their downloads are dropped."""
        self._closed = True
        try:
            self._copies.synchronize()
        finally:
            while self._idle:
                self._idle.pop()[0].close()
            self._copies.close()


class Download:
    """A tensor on its way to the host."""

    def __init__(self, downloads: Downloads, slot: Slot, host: Array, tensor: Tensor) -> None:
        self._downloads = downloads
        self._slot: Slot | None = slot
        self._host = host
        self._tensor: Tensor | None = tensor
        self._scaled = tensor.scaled

    def __call__(self) -> Array:
        """Wait for the copy; to be called once. The caller owns the array. Raises BackendError if computing failed."""
        assert self._slot is not None
        self._slot.copied.synchronize()
        self._tensor = None
        if self._scaled:
            array: Array = np.rint(np.clip(self._host, 0, 1) * WHITE).astype(np.uint16)
        else:
            array = self._host.copy()
        self._release()
        return array

    def __del__(self) -> None:
        self._release()

    def _release(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._downloads.give(slot, self._tensor)
            self._tensor = None
