"""A backend over memory on a device: buffers, copies, recordings, and stages that something else executes.

It knows nothing of CUDA, TensorRT or ONNX Runtime: `zsm.engine.backends.device` has all that it needs of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from zsm.engine.backends.base import BackendError
from zsm.engine.backends.buffers import Memory
from zsm.engine.backends.device import ALIGNMENT, Array, Compiled, Compiler, Executable, Gpu, Stream, Tensor
from zsm.engine.backends.frames import Adopted, AdoptedFrame, DeviceFrame, on_a_gpu
from zsm.engine.backends.recordings import Recordings, Tensors
from zsm.engine.backends.transfers import Downloads, Uploads
from zsm.engine.bundle import Manifest
from zsm.engine.network import MULTIPLE, SCALE
from zsm.engine.sizes import Size
from zsm.runtime import FrameError


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
        self._memory = Memory(gpu, stream)
        self._uploads = Uploads(gpu, stream)
        self._downloads = Downloads(gpu, stream)
        self._recordings = Recordings(gpu, stream, self._memory) if compiler.recordable else None
        self._compiled: dict[Size, Compiled] = {}
        self._inputs = {name: tuple(t.name for t in stage.inputs) for name, stage in manifest.stages.items()}
        self._closed = False

    def inputs(self, stage: str) -> tuple[str, ...]:
        """The names of a stage's inputs."""
        return self._inputs.get(stage, ())

    def run(self, stage: str, inputs: Tensors) -> dict[str, Tensor]:
        """Execute a stage, at some later time."""
        if self._closed:
            raise BackendError("this Runtime is closed, a stream can't go on; make a new one")
        self._gpu.use()
        if stage.startswith("ingest"):
            return self._ingest(stage, inputs)
        if stage.startswith("emit"):
            return self._emit(stage, inputs)
        return dict(self.repeat(stage, partial(self._execute, stage), inputs))

    def repeat(self, name: str, compute: Callable[[Tensors], Tensors], tensors: Tensors) -> Tensors:
        """`compute(tensors)`, as a graph from the second time on if the device can record it."""
        return compute(tensors) if self._recordings is None else self._recordings.do(name, compute, tensors)

    def _ingest(self, stage: str, inputs: Tensors) -> dict[str, Tensor]:
        pixels = inputs["pixels"]
        outputs = self._execute("ingest_float32" if pixels.scaled else stage, inputs)
        if isinstance(pixels.owner, Adopted) and not self._callers:
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
            self._compiled[size] = self._compiler.load(size)
            if self._recordings is not None:
                self._recordings.clear()  # what is loaded later may move what was loaded before
        return self._compiled[size][stage]

    def adopt(self, frame: object) -> Any:
        """A frame (h,w,3) that lies on this device already, to be read there; anything else as it is."""
        if not on_a_gpu(frame):
            return frame
        self._gpu.use()
        tensor = self._gpu.view(frame, self._stream)
        if tensor.dtype == np.uint16 and not self._compiler.uint16:
            raise FrameError("TensorRT takes no 16-bit integers from the GPU's memory; give uint8 or float32")
        return AdoptedFrame(replace(tensor, shape=(1, *tensor.shape), owner=Adopted(tensor.owner)))

    def from_host(self, array: Array) -> Tensor:
        """Begin to copy to the device; the array is the caller's again. Sizes stay on the host."""
        self._gpu.use()
        if array.dtype == np.int64:
            return Tensor(array.ctypes.data, array.shape, array.dtype, array)
        return self._uploads.begin(array, scale=array.dtype == np.uint16 and not self._compiler.uint16)

    def to_host(self, tensor: Tensor) -> Callable[[], Array]:
        """Begin to copy to the host; what is returned waits for the array."""
        self._gpu.use()
        return self._downloads.begin(tensor)

    def export(self, tensor: Tensor) -> DeviceFrame:
        """Pixels (1,h,w,3) as a frame that stays where it is."""
        if tensor.scaled:
            raise FrameError("TensorRT leaves no 16-bit integers in the GPU's memory; give uint8 or float32")
        return DeviceFrame(replace(tensor, shape=tensor.shape[1:]), self._gpu, self._stream, waits=not self._callers)

    def zeros_like(self, tensor: Tensor) -> Tensor:
        """Zeros."""
        zeros = self._memory.new(tensor.shape, tensor.dtype)
        self._stream.zero(zeros.address, zeros.nbytes)
        return zeros

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        """Along the first axis."""
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
        """Give everything back."""
        self._gpu.use()
        self._closed = True
        self._stream.synchronize()
        if self._recordings is not None:
            self._recordings.clear()
        self._uploads.close()
        self._downloads.close()
        self._compiled.clear()
        self._compiler.close()
        self._memory.close()
        self._stream.close()


def _padded(extent: int) -> int:
    return -(-extent // MULTIPLE) * MULTIPLE
