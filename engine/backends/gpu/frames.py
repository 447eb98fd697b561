"""Frames that stay on the GPU, as torch, CuPy, pycuda and others exchange them."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from zsm.engine.backends.gpu.cuda import Gpu, Stream
from zsm.engine.backends.gpu.pool import Buffer
from zsm.engine.backends.gpu.tensor import Tensor
from zsm.errors import BackendError

LEGACY_STREAM = 1
"""DLPack's `stream=None`."""
NO_WAITING = -1
CUDA = 2
"""DLPack's number for CUDA devices."""


def on_a_gpu(array: object) -> bool:
    """Whether an object offers memory of a CUDA device."""
    device = getattr(array, "__dlpack_device__", None)
    return bool(device()[0] == CUDA) if device is not None else hasattr(array, "__cuda_array_interface__")


@dataclass(frozen=True)
class AdoptedFrame:
    """A caller-owned device frame (h,w,3); borrowed, not copied."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.tensor.dtype


class DeviceFrame:
    """An output frame (4h,4w,3) in the GPU's memory, which it owns.

    `torch.utils.dlpack.from_dlpack(frame)` and `cupy.from_dlpack(frame)` return an array in the same memory, for work
    on the library's current stream. That stream waits until the frame is computed. When frame and array have been
    dropped, the memory is reused, but only after the work put on that stream until then; the host waits for nothing.
    Don't destroy that stream earlier, and drop what was read on a per-thread default stream in the same thread.

    Readers of `__cuda_array_interface__` wait for the stream it names, and don't tell us theirs: keep the frame until
    they are done with it, or read it on the stream named.
    """

    def __init__(self, tensor: Tensor, gpu: Gpu, cuda_stream: Stream) -> None:
        assert isinstance(tensor.owner, Buffer)
        self._readers: set[int] = set()
        self._tensor = tensor
        self._buffer = tensor.owner
        self._gpu = gpu
        self._handle = cuda_stream.handle
        self._detached = False
        self._computed = gpu.event()
        cuda_stream.record(self._computed)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, 3."""
        return self._tensor.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The input frames' dtype."""
        return self._tensor.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._tensor.address, False),
            "strides": None,
            "stream": None if self._detached else self._handle,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, self._gpu.index)

    def __dlpack__(self, *, stream: int | None = None, dl_device: Any = None, **options: Any) -> Any:
        if dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"the frame stays on cuda:{self._gpu.index}; copy it from there")
        with self._gpu.current():
            if stream != NO_WAITING:
                reader = LEGACY_STREAM if stream is None else stream
                self._gpu.stream(reader).wait(self._computed)
                if reader != self._handle:  # on which the memory is reused
                    self._readers.add(reader)
            return self._gpu.dlpack(self._tensor, self, stream=NO_WAITING, **options)

    def detach(self) -> None:
        """Forget the stream that computed the frame: the frame is done, and the stream about to be closed."""
        self._detached = True

    def __del__(self) -> None:
        if not self._readers:
            return
        with suppress(BackendError), self._gpu.current():
            for handle in self._readers:
                event = self._gpu.event()
                self._gpu.stream(handle).record(event)
                self._buffer.readers.append(event)

    def __repr__(self) -> str:
        height, width, _ = self.shape
        return f"<DeviceFrame {width}x{height} {self.dtype} on cuda:{self._gpu.index}>"
