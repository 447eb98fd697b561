"""Frames to the device and back while it computes: page-locked memory, a stream for each way, events between them.

A host thread never waits for a copy that it has just begun. It waits when it is a whole ring of uploads ahead of the
device, and for a download whose pixels are wanted.
"""

import ctypes
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsm.engine.backends.base import BackendError
from zsm.engine.backends.device import Array, Gpu, Stream, Tensor

RING = 3
"""Uploads under way: one being written by the host, one being copied, one being read by the device."""

WHITE = np.float32(65535)


def page_locked(address: int, size: int) -> NDArray[np.uint8]:
    """The bytes at an address on the host."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class Slot:
    """Page-locked memory, with room for the largest frame that it has held, and the copy that it is part of."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._bytes: NDArray[np.uint8] | None = None
        self.copied = gpu.event()

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The memory as an array; nothing may be under way in it."""
        size = int(np.prod(shape)) * dtype.itemsize
        if self._bytes is None or len(self._bytes) < size:
            self._free()
            self._bytes = page_locked(self._gpu.allocate_host(size), size)
        return self._bytes[:size].view(dtype).reshape(shape)

    def close(self) -> None:
        """Give the memory back."""
        self._free()
        self.copied.close()

    def _free(self) -> None:
        if self._bytes is not None:
            address, self._bytes = self._bytes.ctypes.data, None
            self._gpu.free_host(address)


class UploadSlot(Slot):
    """A slot with memory on the device beside it: the pool's is the computing stream's, and can't be written ahead."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__(gpu)
        self.read = gpu.event()
        self._target = (0, 0)

    def target(self, size: int) -> int:
        """Where on the device its frame goes."""
        address, room = self._target
        if room < size:
            self._free_target()
            address = self._gpu.allocate(size)
            self._target = (address, size)
        return address

    def close(self) -> None:
        """Give all memory back."""
        super().close()
        self._free_target()
        self.read.close()

    def _free_target(self) -> None:
        address, room = self._target
        self._target = (0, 0)
        if room:
            self.read.synchronize()
            self._gpu.free(address)


class Uploads:
    """A ring of slots, through which frames go to the device."""

    def __init__(self, gpu: Gpu, compute: Stream) -> None:
        self._gpu = gpu
        self._compute = compute
        self._copies = gpu.stream()
        self._idle: deque[UploadSlot] = deque()
        self._slots = 0
        self._closed = False

    def begin(self, array: Array, *, scale: bool = False) -> Tensor:
        """Copy the array aside, and begin to copy that to the device; work enqueued from now on finds it there.

        `scale`: 16-bit integers become float32 from 0 to 1, by the arithmetic of the stage that does so elsewhere.
        """
        slot = self._take()
        lease = UploadLease(self, slot)
        slot.copied.synchronize()
        dtype = np.dtype(np.float32) if scale else array.dtype
        host = slot.array(array.shape, dtype)
        if scale:
            np.divide(array, WHITE, out=host, dtype=np.float32)
        else:
            host[...] = array
        address = slot.target(host.nbytes)
        self._copies.wait(slot.read)
        self._copies.copy_in(address, host)
        self._copies.record(slot.copied)
        self._compute.wait(slot.copied)
        return Tensor(address, array.shape, dtype, lease, scaled=scale)

    def give(self, slot: UploadSlot) -> None:
        """Take a slot back, whose frame all work that reads it has been enqueued for."""
        if self._closed:
            slot.close()
            return
        self._compute.record(slot.read)
        self._idle.append(slot)

    def close(self) -> None:
        """Give everything back; slots in use follow when they are no longer."""
        self._copies.synchronize()
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        self._copies.close()

    def _take(self) -> UploadSlot:
        """The slot that has been idle longest; more than a ring of them only if so many frames are held on to."""
        if self._slots >= RING and self._idle:
            return self._idle.popleft()
        self._slots += 1
        return UploadSlot(self._gpu)


class UploadLease:
    """Keeps a slot from being used again, as a tensor's owner."""

    def __init__(self, uploads: Uploads, slot: UploadSlot) -> None:
        self._uploads = uploads
        self._slot = slot

    def __del__(self) -> None:
        self._uploads.give(self._slot)


class Downloads:
    """Slots through which frames come back, as many as there are downloads at once."""

    def __init__(self, gpu: Gpu, compute: Stream) -> None:
        self._gpu = gpu
        self._compute = compute
        self._copies = gpu.stream()
        self._idle: list[Slot] = []
        self._computed = gpu.event()
        self._closed = False

    def begin(self, tensor: Tensor) -> "Download":
        """Begin to copy a tensor to the host, when it is computed."""
        if self._closed:
            raise BackendError("this Runtime is closed, a stream can't go on; make a new one")
        download = Download(self, self._idle.pop() if self._idle else Slot(self._gpu), tensor)
        self._compute.record(self._computed)
        self._copies.wait(self._computed)
        self._copies.copy_out(download.host, tensor.address)
        self._copies.record(download.slot.copied)
        return download

    def give(self, slot: Slot) -> None:
        """Take a slot back; what is enqueued from now on may write to the tensor that it copied."""
        if self._closed:
            slot.close()
            return
        self._compute.wait(slot.copied)
        self._idle.append(slot)

    def close(self) -> None:
        """Give everything back; slots in use follow when they are no longer."""
        self._copies.synchronize()
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        self._copies.close()
        self._computed.close()


class Download:
    """A tensor on its way to the host."""

    def __init__(self, downloads: Downloads, slot: Slot, tensor: Tensor) -> None:
        self._downloads = downloads
        self._tensor: Tensor | None = tensor
        self._scaled = tensor.scaled
        self.slot = slot
        slot.copied.synchronize()  # a download that nobody waited for may have left it in the middle of a copy
        self.host = slot.array(tensor.shape, tensor.dtype)

    def __call__(self) -> Array:
        """Wait until it is there, once; the array is the caller's. Raises BackendError if computing it failed."""
        self.slot.copied.synchronize()
        array = np.rint(np.clip(self.host, 0, 1) * WHITE).astype(np.uint16) if self._scaled else self.host.copy()
        self._release()
        return array

    def __del__(self) -> None:
        self._release()

    def _release(self) -> None:
        if self._tensor is not None:
            self._downloads.give(self.slot)
            self._tensor = None  # only now may its memory be used again
