"""A backend on a GPU: buffers, copies, graphs; the stages are executed by an inference library."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import DTypeLike

from zsm.engine.backends.gpu.cuda import Gpu, Stream
from zsm.engine.backends.gpu.frames import AdoptedFrame, DeviceFrame, on_a_gpu
from zsm.engine.backends.gpu.graphs import Graphs, Tensors
from zsm.engine.backends.gpu.pool import DeviceMemory
from zsm.engine.backends.gpu.tensor import ALIGNMENT, Array, Tensor, host_tensor
from zsm.engine.backends.gpu.transfers import Downloads, Uploads
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import CLOSED
from zsm.errors import BackendError, FrameError
from zsm.runtime import SCALE, Pixels
from zsm.runtime.backend import DevicePixels


class Executable(Protocol):
    """A stage, compiled for one size of frames."""

    def bind(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Set the inputs; returns the outputs' shapes and dtypes."""

    def enqueue(self, outputs: Mapping[str, Tensor], stream: Stream) -> None:
        """Execute into the outputs, on the stream."""


class Compiler(Protocol):
    """Makes a network's stages executable."""

    recordable: bool
    """Whether a stream can record what the stages do."""
    uint16: bool
    """Whether there are stages for uint16 pixels."""

    def load(self, size: Size) -> Mapping[str, Executable]:
        """Load the stages for a size of frames, once each; graphs recorded before may no longer hold."""

    def describe(self) -> dict[str, Any]:
        """Report what executes, in plain values."""

    def close(self) -> None:
        """Release what the stages share."""


class DeviceBackend:
    """Stages on one GPU, one after the other on one stream, so that buffers can be reused at once.

    Pixels are copied on streams of their own. Where the library has no stages for uint16, such frames are scaled on the
    host, by the same arithmetic, and cross the bus as float32.
    """

    def __init__(
        self, gpu: Gpu, cuda_stream: Stream, compiler: Compiler, *, borrowed: bool = False, cuda_graphs: bool = False
    ) -> None:
        """`borrowed`: the stream is the caller's, who makes the frames and uses the outputs on it.

        Raises BackendError for `cuda_graphs` if the stages can't be recorded.
        """
        if cuda_graphs and not compiler.recordable:
            raise BackendError("this backend's stages can't be recorded as CUDA graphs; leave out cuda_graphs")
        self.gpu = gpu
        self.cuda_stream = cuda_stream
        self.borrowed = borrowed
        self.uint16 = compiler.uint16
        self.memory = DeviceMemory(gpu, cuda_stream)
        self.uploads = Uploads(gpu, cuda_stream, self.memory)
        self.downloads = Downloads(gpu, cuda_stream)
        self.graphs = Graphs(gpu, cuda_stream, self.memory) if cuda_graphs else None
        self._compiler = compiler
        self._sessions: dict[Size, DeviceSession] = {}
        self._frames: WeakSet[DeviceFrame] = WeakSet()
        self._closed = False

    def enter(self) -> None:
        """Begin a call: other code may have made another GPU this thread's current one."""
        if self._closed:
            raise BackendError(CLOSED)
        self.gpu.use()

    def open(self, height: int, width: int) -> "DeviceSession":
        """Load the stages for frames of one size, if they aren't yet."""
        self.enter()
        size = Size(width, height)
        if size not in self._sessions:
            if self.graphs is not None:
                self.graphs.clear()  # loading may move the memory that stages share
            self.memory.trim()
            self._sessions[size] = DeviceSession(self, size, self._compiler.load(size))
        return self._sessions[size]

    def adopt(self, frame: object) -> AdoptedFrame | None:
        """View a frame (h,w,3) in the GPU's memory; None if it isn't on a GPU."""
        if not on_a_gpu(frame):
            return None
        self.enter()
        tensor = self.gpu.view(frame, self.cuda_stream if self.borrowed else self.uploads.copies)
        if tensor.dtype == np.uint16 and not self.uint16:
            raise FrameError("TensorRT takes no 16-bit integers from the GPU's memory; give uint8 or float32")
        return AdoptedFrame(tensor)

    def lend(self, tensor: Tensor) -> DeviceFrame:
        """Make a frame that the caller owns from pixels (h,w,3)."""
        frame = DeviceFrame(tensor, self.gpu, self.cuda_stream)
        self._frames.add(frame)
        return frame

    def free_memory(self) -> int:
        return self.gpu.memory()[0]

    def describe(self) -> dict[str, Any]:
        """Report what executes where."""
        return {**self._compiler.describe(), "cuda_graphs": self.graphs is not None}

    def close(self) -> None:
        """Release everything, even after a failure, which is raised in the end."""
        if self._closed:
            return
        self._closed = True
        self.gpu.use()
        with ExitStack() as last_first:
            last_first.callback(self.cuda_stream.close)
            last_first.callback(self.memory.close)
            last_first.callback(self._compiler.close)
            last_first.callback(self._sessions.clear)
            last_first.callback(self.downloads.close)
            last_first.callback(self.uploads.close)
            if self.graphs is not None:
                last_first.callback(self.graphs.clear)
            for frame in self._frames:
                frame.detach()
            self.cuda_stream.synchronize()


class DeviceSession:
    """The stages for frames of one size."""

    batched = True

    def __init__(self, backend: DeviceBackend, size: Size, stages: Mapping[str, Executable]) -> None:
        self._backend = backend
        self._memory = backend.memory
        self._size = size
        self._stages = stages
        extents = np.array([SCALE * size.height, SCALE * size.width], np.int64)
        self.output_size = host_tensor(extents)
        """The `size` input of the `emit` stages."""

    def ingest(self, frame: Pixels | DevicePixels) -> Tensor:
        """Convert a frame (h,w,3) to planes (1,3,H,W)."""
        self._backend.enter()
        if isinstance(frame, np.ndarray):
            scale = frame.dtype == np.uint16 and not self._backend.uint16
            with self._backend.uploads.send(frame[None], scale=scale) as pixels:
                return self._ingest(pixels)
        assert isinstance(frame, AdoptedFrame)
        tensor = replace(frame.tensor, shape=(1, *frame.shape))
        if self._backend.borrowed:
            return self._ingest(self._memory.copy(tensor) if tensor.address % ALIGNMENT else tensor)
        with self._backend.uploads.adopt(tensor) as pixels:
            return self._ingest(pixels)

    def _ingest(self, pixels: Tensor) -> Tensor:
        return self._execute(f"ingest_{pixels.dtype.name}", {"pixels": pixels})["planes"]

    def run(self, stage: str, inputs: Tensors) -> dict[str, Tensor]:
        """Execute a stage."""
        self._backend.enter()
        if self._backend.graphs is None:
            return self._execute(stage, inputs)
        execute = partial(self._execute, stage)
        return dict(self._backend.graphs.run(stage, (stage, self._size), execute, inputs))

    def emit(self, planes: Tensor, dtype: np.dtype[Any]) -> Tensor:
        """Convert planes (1,3,4H,4W) to pixels (1,4h,4w,3)."""
        self._backend.enter()
        scaled = dtype == np.uint16 and not self._backend.uint16
        stage = "emit_float32" if scaled else f"emit_{dtype.name}"
        pixels = self._execute(stage, {"planes": planes, "size": self.output_size})["pixels"]
        return replace(pixels, scaled=scaled)

    def _execute(self, stage: str, inputs: Tensors) -> dict[str, Tensor]:
        executable = self._stages[stage]
        with self._backend.gpu.named(stage):
            outputs = {name: self._memory.new(*wanted) for name, wanted in executable.bind(inputs).items()}
            executable.enqueue(outputs, self._backend.cuda_stream)
        return outputs

    def zeros_like(self, tensor: Tensor) -> Tensor:
        self._backend.enter()
        zeros = self._memory.new(tensor.shape, tensor.dtype)
        self._backend.cuda_stream.zero(zeros.address, zeros.nbytes)
        return zeros

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        self._backend.enter()
        count = sum(tensor.shape[0] for tensor in tensors)
        joined = self._memory.new((count, *tensors[0].shape[1:]), tensors[0].dtype)
        address = joined.address
        for tensor in tensors:
            self._backend.cuda_stream.copy(address, tensor.address, tensor.nbytes)
            address += tensor.nbytes
        return joined

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Split along the first axis; without a copy if every part is aligned."""
        count, *rest = tensor.shape
        step = tensor.nbytes // count
        parts = [replace(tensor, address=tensor.address + i * step, shape=(1, *rest)) for i in range(count)]
        return [self._memory.copy(part) for part in parts] if step % ALIGNMENT else parts

    def from_host(self, array: Array) -> Tensor:
        self._backend.enter()
        with self._backend.uploads.send(array) as sent:
            return self._memory.copy(sent)

    def to_host(self, tensor: Tensor) -> Callable[[], Array]:
        self._backend.enter()
        return self._backend.downloads.begin(tensor)

    def export(self, tensor: Tensor) -> DeviceFrame:
        """Turn pixels (1,h,w,3) into a frame (h,w,3) that stays on the GPU; raises FrameError for scaled uint16."""
        self._backend.enter()
        if tensor.scaled:
            raise FrameError("TensorRT leaves no 16-bit integers in the GPU's memory; give uint8 or float32")
        return self._backend.lend(replace(tensor, shape=tensor.shape[1:]))

    def synchronize(self) -> None:
        self._backend.enter()
        self._backend.cuda_stream.synchronize()
