"""A backend over memory on a device: buffers, copies, recordings, and stages that something else executes.

It knows nothing of CUDA, TensorRT or ONNX Runtime: `zsm.engine.backends.gpu.device` has all that it needs of them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np

from zsm.engine.backends.gpu.device import ALIGNMENT, Array, Compiled, Compiler, Executable, Gpu, Stream, Tensor
from zsm.engine.backends.gpu.frames import AdoptedFrame, DeviceFrame, on_a_gpu
from zsm.engine.backends.gpu.graphs import Recordings, Tensors
from zsm.engine.backends.gpu.pool import DeviceMemory
from zsm.engine.backends.gpu.transfers import Downloads, Uploads
from zsm.engine.bundle.manifest import Manifest
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import CLOSED
from zsm.errors import BackendError, FrameError
from zsm.runtime import GRID, SCALE


class DeviceBackend:
    """Stages on one device, one after the other on one stream, so that buffers can be used again at once.

    Pixels are copied on streams of their own. Where the library has no stages for 16-bit integers, such frames are
    scaled on the host, by the same arithmetic, and cross the bus as float32.
    """

    def __init__(
        self, manifest: Manifest, gpu: Gpu, stream: Stream, compiler: Compiler, *, callers: bool = False
    ) -> None:
        """`callers`: the stream is one on which the caller makes the frames and uses the outputs."""
        self._gpu = gpu
        self._stream = stream
        self._callers = callers
        self._compiler = compiler
        self._memory = DeviceMemory(gpu, stream)
        self._uploads = Uploads(gpu, stream, self._memory)
        self._downloads = Downloads(gpu, stream)
        self._recordings = Recordings(gpu, stream, self._memory) if compiler.recordable else None
        self._compiled: dict[Size, Compiled] = {}
        self._inputs = {name: tuple(t.name for t in stage.inputs) for name, stage in manifest.stages.items()}
        self._frames: WeakSet[DeviceFrame] = WeakSet()
        self._closed = False

    def inputs(self, stage: str) -> tuple[str, ...]:
        """The names of a stage's inputs."""
        return self._inputs.get(stage, ())

    def run(self, stage: str, inputs: Tensors) -> dict[str, Tensor]:
        """Execute a stage, at some later time."""
        self._enter()
        if stage.startswith("ingest"):
            return self._ingest(stage, inputs)
        if stage.startswith("emit"):
            return self._emit(stage, inputs)
        return dict(self.repeat(stage, partial(self._execute, stage), inputs))

    def repeat(self, name: str, compute: Callable[[Tensors], Tensors], tensors: Tensors) -> Tensors:
        """`compute(tensors)`, as a graph from the second time on if the device can record it."""
        self._enter()
        return compute(tensors) if self._recordings is None else self._recordings.do(name, compute, tensors)

    def _enter(self) -> None:
        """What every call begins with: others may have chosen another device for this thread."""
        if self._closed:
            raise BackendError(CLOSED)
        self._gpu.use()

    def _ingest(self, stage: str, inputs: Tensors) -> dict[str, Tensor]:
        pixels = inputs["pixels"]
        outputs = self._execute("ingest_float32" if pixels.scaled else stage, inputs)
        if pixels.adopted and not self._callers:
            self._stream.synchronize()  # from now on its owner may write to it, on a stream that we don't know
        return outputs

    def _emit(self, stage: str, inputs: Tensors) -> dict[str, Tensor]:
        scaled = stage == "emit_uint16" and not self._compiler.uint16
        outputs = self._execute("emit_float32" if scaled else stage, inputs)
        return {"pixels": replace(outputs["pixels"], scaled=scaled)}

    def _execute(self, stage: str, inputs: Tensors) -> dict[str, Tensor]:
        executable = self._executable(stage, inputs)
        with self._gpu.named(stage):
            wanted = executable.bind(inputs)
            outputs = {name: self._memory.new(shape, dtype) for name, (shape, dtype) in wanted.items()}
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
            if self._recordings is not None:
                self._recordings.clear()  # what is loaded now may move what was loaded before
            self._memory.trim()
            self._compiled[size] = self._compiler.load(size)
        return self._compiled[size][stage]

    def adopt(self, frame: object) -> Any:
        """A frame (h,w,3) that lies on this device already, to be read there; anything else as it is."""
        if not on_a_gpu(frame):
            return frame
        self._enter()
        tensor = self._gpu.view(frame, self._stream)
        if tensor.dtype == np.uint16 and not self._compiler.uint16:
            raise FrameError("TensorRT takes no 16-bit integers from the GPU's memory; give uint8 or float32")
        if tensor.address % ALIGNMENT:  # as that of a frame within a clip
            tensor = self._memory.copy(tensor)
        return AdoptedFrame(replace(tensor, shape=(1, *tensor.shape), adopted=True))

    def from_host(self, array: Array) -> Tensor:
        """Begin to copy to the device; the array is the caller's again. Sizes stay on the host."""
        self._enter()
        if array.dtype == np.int64:
            return Tensor(array.ctypes.data, array.shape, array.dtype, array)
        return self._uploads.begin(array, scale=array.dtype == np.uint16 and not self._compiler.uint16)

    def to_host(self, tensor: Tensor) -> Callable[[], Array]:
        """Begin to copy to the host; what is returned waits for the array."""
        self._enter()
        return self._downloads.begin(tensor)

    def export(self, tensor: Tensor) -> DeviceFrame:
        """Pixels (1,h,w,3) as a frame that stays where it is."""
        self._enter()
        if tensor.scaled:
            raise FrameError("TensorRT leaves no 16-bit integers in the GPU's memory; give uint8 or float32")
        frame = DeviceFrame(replace(tensor, shape=tensor.shape[1:]), self._gpu, self._stream, waits=not self._callers)
        self._frames.add(frame)
        return frame

    def zeros_like(self, tensor: Tensor) -> Tensor:
        """Zeros."""
        self._enter()
        zeros = self._memory.new(tensor.shape, tensor.dtype)
        self._stream.zero(zeros.address, zeros.nbytes)
        return zeros

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        """Along the first axis."""
        self._enter()
        count = sum(tensor.shape[0] for tensor in tensors)
        joined = self._memory.new((count, *tensors[0].shape[1:]), tensors[0].dtype)
        address = joined.address
        for tensor in tensors:
            self._stream.copy(address, tensor.address, tensor.nbytes)
            address += tensor.nbytes
        return joined

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Along the first axis; without a copy, if every part lies where tensors may lie."""
        count, *rest = tensor.shape
        step = tensor.nbytes // count
        parts = [replace(tensor, address=tensor.address + i * step, shape=(1, *rest)) for i in range(count)]
        return [self._memory.copy(part) for part in parts] if step % ALIGNMENT else parts

    def synchronize(self) -> None:
        """Wait until all that was enqueued is done."""
        self._gpu.use()
        self._stream.synchronize()

    def describe(self) -> dict[str, Any]:
        """What executes where."""
        return self._compiler.describe()

    def close(self) -> None:
        """Give everything back, even after a failure; then the first failure is raised."""
        if self._closed:
            return
        self._closed = True
        self._gpu.use()
        with ExitStack() as last_first:
            last_first.callback(self._stream.close)
            last_first.callback(self._memory.close)
            last_first.callback(self._compiler.close)
            last_first.callback(self._compiled.clear)
            last_first.callback(self._downloads.close)
            last_first.callback(self._uploads.close)
            if self._recordings is not None:
                last_first.callback(self._recordings.clear)
            for frame in self._frames:
                frame.computed()
            self._gpu.synchronize()


def _padded(extent: int) -> int:
    return -(-extent // GRID) * GRID
