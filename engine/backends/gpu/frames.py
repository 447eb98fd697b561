"""Frames that stay on the GPU, as torch, CuPy, pycuda and others exchange them."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from zsm.engine.backends.gpu.device import Gpu, Stream, Tensor
from zsm.engine.backends.gpu.graphs import recording
from zsm.errors import BackendError

LEGACY_STREAM = 1
"""What consumers of DLPack mean by no stream."""
NO_WAITING = -1
CUDA = 2
"""DLPack's number for CUDA devices."""


def on_a_gpu(array: object) -> bool:
    """Whether an object offers memory of a CUDA device."""
    device = getattr(array, "__dlpack_device__", None)
    return bool(device()[0] == CUDA) if device is not None else hasattr(array, "__cuda_array_interface__")


@dataclass(frozen=True)
class AdoptedFrame:
    """A frame (h,w,3) of somebody else's, in the memory that he gave it."""

    tensor: Tensor
    """(1,h,w,3)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, 3."""
        return self.tensor.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The pixels' type."""
        return self.tensor.dtype


class DeviceFrame:
    """A frame (4h,4w,3) in the GPU's memory, which is the frame's until nothing refers to it.

    `torch.utils.dlpack.from_dlpack(frame)` and `cupy.from_dlpack(frame)` give an array in the same memory, and put
    their stream after the frame's computation; so does whatever else reads DLPack, or heeds the stream that
    `__cuda_array_interface__` names. Without a stream of the caller's, a frame that is dropped waits until the GPU
    has finished reading it.
    """

    def __init__(self, tensor: Tensor, gpu: Gpu, stream: Stream, *, waits: bool) -> None:
        self._tensor = tensor
        self._gpu = gpu
        self._stream: Stream | None = stream
        self._waits = waits
        self._computed = gpu.event()
        stream.record(self._computed)
        self.shape = tensor.shape
        self.dtype = tensor.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._tensor.address, False),
            "strides": None,
            "stream": None if self._stream is None else self._stream.handle,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, self._gpu.index)

    def __dlpack__(self, *, stream: int | None = None, dl_device: Any = None, **options: Any) -> Any:
        if dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"the frame stays on cuda:{self._gpu.index}; copy it from there")
        with self._gpu.current():
            if stream != NO_WAITING:
                self._gpu.stream(LEGACY_STREAM if stream is None else stream).wait(self._computed)
            return self._gpu.dlpack(self._tensor, self, stream=NO_WAITING, **options)

    def computed(self) -> None:
        """It is: nobody need wait for a stream that is about to be closed."""
        self._stream = None

    def __del__(self) -> None:
        with suppress(BackendError), self._gpu.current(), recording:
            if self._waits:
                self._gpu.synchronize()
            self._computed.close()
