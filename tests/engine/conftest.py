"""A device that is the host, for tests of the code that runs on GPUs.

It counts memory, and each of its streams works later, in a thread of its own; some can be made slower than others.
ONNX Runtime executes the stages, on the addresses given.
"""

import ctypes
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import DTypeLike, NDArray

from zsm.engine import Bundle
from zsm.engine.backends.gpu import cuda
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.tensor import ALIGNMENT, Tensor
from zsm.engine.backends.tensorrt.build import engine_stages
from zsm.engine.bundle.shapes import Size, input_shapes, output_shapes
from zsm.errors import BackendError, OutOfMemoryError
from zsm.plugins.operator import make_portable


def array_at(address: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)


class HostEvent(cuda.Event):
    """Reached from the beginning, and again when the work that it was last recorded after is done."""

    def __init__(self) -> None:
        self.handle: Any = threading.Event()
        self.handle.set()
        self.stream: HostStream | None = None

    def synchronize(self) -> None:
        assert self.handle.wait(10)
        if self.stream is not None:
            self.stream.check()

    def __del__(self) -> None:
        pass


class HostGraph(cuda.Graph):
    def __init__(self, work: list[Callable[[], object]]) -> None:
        self.handle = work

    def close(self) -> None:
        self.handle = []


class HostStream(cuda.Stream):
    """Work in order, in a thread, later: code that doesn't wait reads old values."""

    def __init__(self, delay: float, errors: list[Exception]) -> None:
        self.handle = id(self)
        self.delay = delay
        self.eager = False
        self.closed = False
        self.borrowed = False
        self.launches = 0
        self.recording: list[Callable[[], object]] | None = None
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._errors = errors
        self._thread = threading.Thread(target=self._do, daemon=True)
        self._thread.start()

    def _do(self) -> None:
        while (work := self._work.get()) is not None:
            time.sleep(self.delay)
            self._attempt(work)

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            self._errors.append(error)

    def later(self, work: Callable[[], object]) -> None:
        assert not self.closed, "a closed stream gets work"
        if self.recording is not None:
            self.recording.append(work)
        elif self.eager:
            self._attempt(work)
        else:
            self._work.put(work)

    def check(self) -> None:
        if self._errors:
            raise self._errors[0]

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        self.copy(address, array.ctypes.data, array.nbytes)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        self.copy(array.ctypes.data, address, array.nbytes)

    def copy(self, target: int, source: int, size: int) -> None:
        self.later(partial(ctypes.memmove, target, source, size))

    def zero(self, address: int, size: int) -> None:
        self.later(partial(ctypes.memset, address, 0, size))

    def record(self, event: cuda.Event) -> None:
        assert isinstance(event, HostEvent)
        event.handle, event.stream = threading.Event(), self
        self.later(event.handle.set)

    def wait(self, event: cuda.Event) -> None:
        self.later(partial(event.handle.wait, 60))

    def begin_recording(self) -> None:
        self.recording = []

    def end_recording(self) -> HostGraph:
        assert self.recording is not None
        recorded, self.recording = self.recording, None
        return HostGraph(recorded)

    def launch(self, graph: cuda.Graph) -> None:
        self.launches += 1
        for work in graph.handle:
            self.later(work)

    def synchronize(self) -> None:
        if self.recording is not None:
            raise BackendError("a stream can't be synchronized while a graph is recorded")
        done = threading.Event()
        self.later(done.set)
        assert done.wait(10)
        self.check()

    def close(self) -> None:
        if self.borrowed:
            return
        self.closed = True
        self._work.put(None)
        self._thread.join(60)


class HostGpu(cuda.Gpu):
    """Memory that is counted, limited, and filled with garbage when it is new and when it is freed.

    `delays`: seconds before each piece of work, by stream in the order of creation.
    """

    index = 0

    def __init__(self, limit: int = 2**40) -> None:
        self.limit = limit
        self.used: dict[int, NDArray[np.uint8]] = {}
        self.locked: dict[int, NDArray[np.uint8]] = {}
        self.given_back: list[NDArray[np.uint8]] = []
        self.allocations = 0
        self.names: deque[str] = deque(maxlen=100)
        self.errors: list[Exception] = []  # of all streams: on a GPU, everything after a failure fails
        self.delays: list[float] = []
        self.streams: list[HostStream] = []

    @property
    def bytes(self) -> int:
        return sum(len(memory) for memory in self.used.values())

    def memory(self) -> tuple[int, int]:
        return self.limit - self.bytes, self.limit

    def use(self) -> None:
        pass

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def named(self, name: str) -> AbstractContextManager[object]:
        self.names.append(name)
        return nullcontext()

    def stream(self, handle: int | None = None) -> HostStream:
        for stream in self.streams:
            if stream.handle == handle:
                stream.borrowed = True
                return stream
        number = len(self.streams)
        self.streams.append(HostStream(self.delays[number] if number < len(self.delays) else 0.0, self.errors))
        return self.streams[-1]

    def event(self) -> HostEvent:
        return HostEvent()

    def allocate(self, size: int) -> int:
        if any(stream.recording is not None for stream in self.streams):
            raise BackendError("memory can't be allocated while a graph is recorded")
        if self.bytes + size > self.limit:
            raise OutOfMemoryError(f"not enough memory for {size} bytes")
        return self._new(size, self.used)

    def free(self, address: int) -> None:
        if not self.errors:
            self._finish()  # as cudaFree does
        self._give_back(self.used.pop(address))

    def allocate_host(self, size: int) -> int:
        return self._new(size, self.locked)

    def free_host(self, address: int) -> None:
        self._give_back(self.locked.pop(address))

    def view(self, array: object, stream: cuda.Stream) -> Tensor:
        interface = array.__cuda_array_interface__  # type: ignore[attr-defined]
        return Tensor(interface["data"][0], interface["shape"], np.dtype(interface["typestr"]), array)

    def dlpack(self, tensor: Tensor, owner: object, **options: Any) -> Any:
        return array_at(tensor.address, tensor.shape, tensor.dtype).__dlpack__()

    def _finish(self) -> None:
        assert not any(stream.recording for stream in self.streams)
        for stream in self.streams:
            if not stream.closed:
                stream.synchronize()

    def _new(self, size: int, where: dict[int, NDArray[np.uint8]]) -> int:
        self.allocations += 1
        memory = np.full(size + ALIGNMENT, 0xFF, np.uint8)  # as floats: not a number
        memory = memory[-memory.ctypes.data % ALIGNMENT :][:size]
        where[memory.ctypes.data] = memory
        return memory.ctypes.data

    def _give_back(self, memory: NDArray[np.uint8]) -> None:
        memory[:] = 0xFF
        self.given_back.append(memory)  # late work finds garbage there


class HostStage:
    """A stage in ONNX Runtime, executed in its turn on the stream."""

    def __init__(self, bundle: Bundle, stage: str, size: Size) -> None:
        self._spec = bundle.manifest.stages[stage]
        self._shapes = input_shapes(bundle.manifest, stage, size), output_shapes(bundle.manifest, stage, size)
        model = make_portable(onnx.load_from_string(bundle.read(stage)))
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._inputs: dict[str, Tensor] = {}

    def bind(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        for tensor in self._spec.inputs:
            given = inputs[tensor.name]
            assert given.on_host == (tensor.dtype == "int64"), tensor.name
            assert given.address % ALIGNMENT == 0, tensor.name
            expected = (2,) if given.on_host else self._shapes[0][tensor.name]
            assert (given.shape, given.dtype.name) == (expected, tensor.dtype), tensor.name
        self._inputs = dict(inputs)
        return {tensor.name: (self._shapes[1][tensor.name], tensor.dtype) for tensor in self._spec.outputs}

    def enqueue(self, outputs: Mapping[str, Tensor], stream: cuda.Stream) -> None:
        assert isinstance(stream, HostStream)
        sources = {name: array_at(t.address, t.shape, t.dtype) for name, t in self._inputs.items()}
        self._inputs = {}  # or their memory couldn't be used again
        targets = [array_at(outputs[t.name].address, outputs[t.name].shape, t.dtype) for t in self._spec.outputs]

        def execute() -> None:
            for target, result in zip(targets, self._session.run(None, sources), strict=True):
                target[...] = result

        stream.later(execute)


@pytest.fixture
def host_gpu() -> HostGpu:
    return HostGpu()


@pytest.fixture
def host_array_at() -> Callable[[int, tuple[int, ...], DTypeLike], NDArray[Any]]:
    return array_at


@pytest.fixture
def host_backend() -> Callable[..., DeviceBackend]:
    """Opens a bundle on such a device."""
    return _open


def _open(path: Path, gpu: HostGpu, *, cuda_graphs: bool = False, cuda_stream: int | None = None) -> DeviceBackend:
    compiler = HostCompiler(Bundle(path))
    borrowed = cuda_stream is not None
    return DeviceBackend(gpu, gpu.stream(cuda_stream), compiler, borrowed=borrowed, cuda_graphs=cuda_graphs)


class HostCompiler:
    recordable = True
    uint16 = False

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def load(self, size: Size) -> dict[str, HostStage]:
        return {stage: HostStage(self._bundle, stage, size) for stage in engine_stages(self._bundle.manifest)}

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass
