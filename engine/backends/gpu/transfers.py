"""Frames to the device and back while it computes: page-locked memory, a stream for each way, events between them.

A host thread never waits for a copy that it has just begun. It waits when it is a whole ring of uploads ahead of the
device, and for a download whose pixels are wanted.
"""

import ctypes
import math
from collections import deque
from contextlib import suppress
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from zsm.engine.backends.gpu.device import Array, Gpu, Stream, Tensor
from zsm.engine.backends.gpu.pool import DeviceMemory
from zsm.errors import BackendError

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
        self._host, self._size = 0, 0
        self.copied = gpu.event()

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The memory as an array, when what was under way in it is done."""
        self.copied.synchronize()
        size = math.prod(shape) * dtype.itemsize
        if self._size < size:
            self._free()
            self._host, self._size = self._gpu.allocate_host(size), size
        return page_locked(self._host, size).view(dtype).reshape(shape)

    def release(self, compute: Stream) -> None:
        """Nobody holds it any more: let what is enqueued from now on write to what it copies from."""
        compute.wait(self.copied)

    def close(self) -> None:
        """Give the memory back."""
        self._free()
        self.copied.close()

    def _free(self) -> None:
        size, self._size = self._size, 0
        if size:
            self._gpu.free_host(self._host)


class UploadSlot(Slot):
    """A slot with memory on the device beside it: the pool's is the computing stream's, and can't be written ahead."""

    def __init__(self, gpu: Gpu, memory: DeviceMemory) -> None:
        super().__init__(gpu)
        self._memory = memory
        self._address, self._room = 0, 0
        self.read = gpu.event()

    def target(self, size: int) -> int:
        """Where on the device its frame goes."""
        if self._room < size:
            self._free_target()
            self._address, self._room = self._memory.allocate(size), size
        return self._address

    def release(self, compute: Stream) -> None:
        """All work that reads the frame has been enqueued."""
        compute.record(self.read)

    def close(self) -> None:
        """Give all memory back."""
        super().close()
        self._free_target()
        self.read.close()

    def _free_target(self) -> None:
        room, self._room = self._room, 0
        if room:
            self._gpu.free(self._address)


AnySlot = TypeVar("AnySlot", bound=Slot)


class Transfers(Generic[AnySlot]):
    """Slots for one way, and a stream for its copies."""

    def __init__(self, gpu: Gpu, compute: Stream) -> None:
        self._gpu = gpu
        self._compute = compute
        self._copies = gpu.stream()
        self._idle: deque[AnySlot] = deque()
        self._closed = False

    def give(self, slot: AnySlot) -> None:
        """Take a slot back. Called when things are dropped, so that what fails is left for others to notice."""
        with suppress(BackendError):
            if self._closed:
                slot.close()
            else:
                slot.release(self._compute)
                self._idle.append(slot)

    def close(self) -> None:
        """Give everything back, nothing being under way; slots in use follow when they are no longer."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        self._copies.close()


class Uploads(Transfers[UploadSlot]):
    """A ring of slots, through which frames go to the device."""

    def __init__(self, gpu: Gpu, compute: Stream, memory: DeviceMemory) -> None:
        super().__init__(gpu, compute)
        self._memory = memory
        self._slots = 0

    def begin(self, array: Array, *, scale: bool = False) -> Tensor:
        """Copy the array aside, and begin to copy that to the device; work enqueued from now on finds it there.

        `scale`: 16-bit integers become float32 from 0 to 1, by the arithmetic of the stage that does so elsewhere.
        """
        slot = self._take()
        lease = UploadLease(self, slot)
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

    def _take(self) -> UploadSlot:
        """The slot that has been idle longest; more than a ring of them only if so many frames are held on to."""
        if self._slots >= RING and self._idle:
            return self._idle.popleft()
        self._slots += 1
        return UploadSlot(self._gpu, self._memory)


class UploadLease:
    """Keeps a slot from being used again, as a tensor's owner."""

    def __init__(self, uploads: Uploads, slot: UploadSlot) -> None:
        self._uploads = uploads
        self._slot = slot

    def __del__(self) -> None:
        self._uploads.give(self._slot)


class Downloads(Transfers[Slot]):
    """Slots through which frames come back, as many as there are downloads at once."""

    def __init__(self, gpu: Gpu, compute: Stream) -> None:
        super().__init__(gpu, compute)
        self._computed = gpu.event()

    def begin(self, tensor: Tensor) -> "Download":
        """Begin to copy a tensor to the host, when it is computed."""
        download = Download(self, self._idle.pop() if self._idle else Slot(self._gpu), tensor)
        self._compute.record(self._computed)
        self._copies.wait(self._computed)
        self._copies.copy_out(download.host, tensor.address)
        self._copies.record(download.slot.copied)
        return download

    def close(self) -> None:
        """Give everything back."""
        super().close()
        self._computed.close()


class Download:
    """A tensor on its way to the host."""

    def __init__(self, downloads: Downloads, slot: Slot, tensor: Tensor) -> None:
        self._downloads = downloads
        self._tensor: Tensor | None = tensor
        self._scaled = tensor.scaled
        self.slot = slot
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
