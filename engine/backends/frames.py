"""Frames that stay on the GPU, as torch, CuPy, pycuda and others exchange them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from zsm.engine.backends.device import Gpu, Stream, Tensor

LEGACY_STREAM = 1
"""What consumers of DLPack mean by no stream."""
NO_WAITING = -1
CUDA = 2
"""DLPack's number for CUDA devices."""


def on_a_gpu(array: object) -> bool:
    """Whether an object offers memory of a CUDA device."""
    if hasattr(array, "__cuda_array_interface__"):
        return True
    device = getattr(array, "__dlpack_device__", None)
    return device is not None and device()[0] == CUDA


@dataclass(frozen=True)
class AdoptedFrame:
    """A frame (h,w,3) of somebody else's, in the memory that he gave it."""

    tensor: Tensor
    """(1,h,w,3), owned by an `Adopted`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, 3."""
        return self.tensor.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The pixels' type."""
        return self.tensor.dtype


@dataclass(frozen=True)
class Adopted:
    """Keeps somebody else's memory, as a tensor's owner."""

    owner: object


class DeviceFrame:
    """A frame (4h,4w,3) in the GPU's memory, which is the frame's until nothing refers to it.

    `torch.utils.dlpack.from_dlpack(frame)` and `cupy.asarray(frame)` give an array in the same memory; so does
    anything else that reads DLPack or `__cuda_array_interface__`. Both put the reader's stream after the frame's
    computation. Without a stream of the caller's, a frame that is dropped waits until the GPU has finished reading it.
    """

    def __init__(self, tensor: Tensor, gpu: Gpu, stream: Stream, *, waits: bool) -> None:
        self._tensor: Tensor | None = tensor
        self._address = tensor.address
        self._gpu = gpu
        self._stream = stream
        self._waits = waits
        self.shape = tensor.shape
        self.dtype = tensor.dtype
        self.nbytes = tensor.nbytes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._address, False),
            "strides": None,
            "stream": self._stream.handle,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, self._gpu.index)

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        if stream != NO_WAITING:
            self._put_after(LEGACY_STREAM if stream is None else stream)
        assert self._tensor is not None
        return self._gpu.dlpack(self._tensor, self, stream=NO_WAITING, **options)

    def _put_after(self, handle: int) -> None:
        computed = self._gpu.event()
        self._stream.record(computed)
        self._gpu.stream(handle).wait(computed)
        computed.close()

    def __del__(self) -> None:
        if self._waits:
            self._gpu.synchronize()
        self._tensor = None  # only now may its memory be used again
