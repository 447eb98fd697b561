"""CUDA's runtime: the one module that calls cuda-python.

Everything else in this package uses `Gpu`, `Stream`, `Event` and `Graph`; tests derive a device that is the host.
"""

import importlib
import importlib.util
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from typing import Any

import numpy as np

from zsm.engine.backends.gpu.tensor import Array, Tensor
from zsm.errors import BackendError, Error, FrameError, OutOfMemoryError

MIB = 2**20


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(f"cuda-python can't be imported ({error}); pip install 'zsm[gpu]'") from error


def _runtime() -> Any:
    return _module("cuda.bindings.runtime")


def _check(answer: tuple[Any, ...], doing: str) -> Any:
    """Return a call's values without its error code; raises BackendError if that is an error."""
    error, *values = answer
    if not int(error):
        return values[0] if len(values) == 1 else tuple(values)
    runtime = _runtime()
    if error == runtime.cudaError_t.cudaErrorMemoryAllocation:
        raise OutOfMemoryError(f"the GPU ran out of memory while {doing}")
    text = runtime.cudaGetErrorString(error)[1].decode()
    raise BackendError(f"CUDA failed while {doing}: {text} ({error.name})")


@cache
def _nvtx() -> Any:
    return importlib.import_module("nvtx") if importlib.util.find_spec("nvtx") else None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def device_count() -> int:
    """Count the GPUs; raises BackendError, which says what is missing, if CUDA doesn't work at all."""
    runtime = _runtime()
    driver = _check(runtime.cudaDriverGetVersion(), "asking for the driver's version")
    if not driver:
        raise BackendError("there is no NVIDIA driver here; install one (nvidia-smi shows whether it works)")
    error, count = runtime.cudaGetDeviceCount()
    if error == runtime.cudaError_t.cudaErrorInsufficientDriver:
        needed = _version(_check(runtime.cudaRuntimeGetVersion(), "asking for the runtime's version"))
        raise BackendError(f"the NVIDIA driver is for CUDA {_version(driver)}, CUDA {needed} is needed; update it")
    if error == runtime.cudaError_t.cudaErrorNoDevice:
        return 0
    return int(_check((error, count), "counting GPUs"))


class Event:
    """A point in a stream's work; reached from the beginning until it is recorded."""

    def __init__(self, event: Any) -> None:
        self._cuda = _runtime()
        self.handle = event

    def synchronize(self) -> None:
        """Wait until it is reached; raises BackendError if anything before it failed."""
        _check(self._cuda.cudaEventSynchronize(self.handle), "executing")

    def __del__(self) -> None:
        # The event itself goes when it is reached; nothing waits for that here.
        with suppress(Exception):
            self._cuda.cudaEventDestroy(self.handle)


class Graph:
    """Recorded work, launched as one."""

    def __init__(self, graph: Any) -> None:
        self._cuda = _runtime()
        try:
            self.handle = _check(self._cuda.cudaGraphInstantiate(graph, 0), "preparing a graph")
        finally:
            _check(self._cuda.cudaGraphDestroy(graph), "freeing a graph's description")

    def close(self) -> None:
        """Free the graph; it must not be executing."""
        _check(self._cuda.cudaGraphExecDestroy(self.handle), "freeing a graph")


class Stream:
    """Work that is done in order. Every method but `synchronize` returns before the work is done."""

    def __init__(self, stream: Any, *, ours: bool = True) -> None:
        self._cuda = _runtime()
        self._stream = stream
        self._ours = ours
        self.handle = int(stream)

    def copy_in(self, address: int, array: Array) -> None:
        """Copy an array, which must not change until then, to the GPU."""
        self._copy(address, array.ctypes.data, array.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def copy_out(self, array: Array, address: int) -> None:
        """Copy from the GPU to an array."""
        self._copy(array.ctypes.data, address, array.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within the GPU."""
        self._copy(target, source, size, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice)

    def zero(self, address: int, size: int) -> None:
        """Fill with zeros."""
        _check(self._cuda.cudaMemsetAsync(address, 0, size, self._stream), "filling with zeros")

    def record(self, event: Event) -> None:
        """Put an event after the work so far."""
        _check(self._cuda.cudaEventRecord(event.handle, self._stream), "recording an event")

    def wait(self, event: Event) -> None:
        """Let later work wait until another stream has reached an event, as recorded now."""
        _check(self._cuda.cudaStreamWaitEvent(self._stream, event.handle, 0), "waiting for an event")

    def begin_recording(self) -> None:
        """Start capturing: later calls of this thread are recorded, not executed."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _check(self._cuda.cudaStreamBeginCapture(self._stream, mode), "recording a graph")

    def end_recording(self) -> Graph:
        """Stop capturing; raises BackendError if some of the work can't be recorded."""
        return Graph(_check(self._cuda.cudaStreamEndCapture(self._stream), "recording a graph"))

    def launch(self, graph: Graph) -> None:
        """Execute a graph."""
        _check(self._cuda.cudaGraphLaunch(graph.handle, self._stream), "launching a graph")

    def synchronize(self) -> None:
        """Wait until the work so far is done; raises BackendError if any of it failed."""
        _check(self._cuda.cudaStreamSynchronize(self._stream), "executing")

    def close(self) -> None:
        """Destroy the stream, unless it is the caller's."""
        if self._ours:
            _check(self._cuda.cudaStreamDestroy(self._stream), "destroying a stream")

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        _check(self._cuda.cudaMemcpyAsync(target, source, size, kind, self._stream), "copying")


class Gpu:
    """A GPU. Call its methods in the thread that made it, or after `use` in another."""

    def __init__(self, index: int) -> None:
        """Raises BackendError if there is no driver or no such GPU."""
        count = device_count()
        if index >= count:
            known = ", ".join(f"cuda:{number}" for number in range(count))
            raise BackendError(f"there is no cuda:{index}; there is {known or 'no GPU'}")
        self._cuda = _runtime()
        self.index = index
        self.use()
        properties = _check(self._cuda.cudaGetDeviceProperties(index), "asking for properties")
        self.name = properties.name.rstrip(b"\0").decode()
        self.capability = f"{properties.major}.{properties.minor}"
        self.driver = _version(_check(self._cuda.cudaDriverGetVersion(), "asking for the driver's version"))
        self.cuda = _version(_check(self._cuda.cudaRuntimeGetVersion(), "asking for the runtime's version"))

    def use(self) -> None:
        """Make this the calling thread's GPU."""
        _check(self._cuda.cudaSetDevice(self.index), f"choosing cuda:{self.index}")

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this the calling thread's GPU within the context."""
        before = _check(self._cuda.cudaGetDevice(), "asking for the current GPU")
        self.use()
        try:
            yield
        finally:
            _check(self._cuda.cudaSetDevice(before), f"choosing cuda:{before}")

    def named(self, name: str) -> AbstractContextManager[object]:
        """Give what is enqueued within the context a name in the timelines of NVIDIA's tools, if nvtx is installed."""
        nvtx = _nvtx()
        return nullcontext() if nvtx is None else nvtx.annotate(message=name, domain="zsm")

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = _check(self._cuda.cudaMemGetInfo(), "asking for free memory")
        return int(free), int(total)

    def stream(self, handle: int | None = None) -> Stream:
        """Create a stream that doesn't wait for the default one; or wrap the caller's, given its handle."""
        if handle is not None:
            return Stream(self._cuda.cudaStream_t(handle), ours=False)
        return Stream(
            _check(self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking), "creating a stream")
        )

    def event(self) -> Event:
        """Create an event without timing."""
        flags = self._cuda.cudaEventDisableTiming
        return Event(_check(self._cuda.cudaEventCreateWithFlags(flags), "creating an event"))

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes; raises OutOfMemoryError, which says how much is free."""
        try:
            return int(_check(self._cuda.cudaMalloc(size), f"allocating {size / MIB:,.0f} MiB"))
        except OutOfMemoryError as error:
            free, total = self.memory()
            raise OutOfMemoryError(
                f"{error}: {free / MIB:,.0f} of {total / MIB:,.0f} MiB are free; "
                "take smaller frames, an fp16 bundle or a smaller window, or end what else uses the GPU"
            ) from error

    def free(self, address: int) -> None:
        """Free memory; the GPU finishes its work first."""
        _check(self._cuda.cudaFree(address), "freeing memory")

    def allocate_host(self, size: int) -> int:
        """Allocate `size` page-locked bytes on the host; raises OutOfMemoryError."""
        try:
            return int(_check(self._cuda.cudaHostAlloc(size, self._cuda.cudaHostAllocDefault), "page-locking memory"))
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"the host can't page-lock {size / MIB:,.0f} MiB more of its memory") from error

    def free_host(self, address: int) -> None:
        """Free page-locked memory."""
        _check(self._cuda.cudaFreeHost(address), "freeing page-locked memory")

    def view(self, array: object, stream: Stream) -> Tensor:
        """View a caller's array on this GPU, for later work on the stream; raises FrameError if it lies elsewhere."""
        memory = _module("cuda.core.utils").StridedMemoryView
        try:
            view = memory.from_any_interface(array, stream_ptr=stream.handle)
        except Error:  # of a DeviceFrame
            raise
        except (BufferError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise FrameError(f"a frame of type {type(array).__name__} can't be read: {error}") from error
        if not view.is_device_accessible or view.device_id != self.index:
            raise FrameError(f"a frame lies in the memory of device {view.device_id}; bring it to cuda:{self.index}")
        tensor = Tensor(int(view.ptr), tuple(view.shape), np.dtype(view.dtype), (view, array))
        if view.strides is not None:
            _check_strides(tensor.shape, tuple(view.strides))
        return tensor

    def dlpack(self, tensor: Tensor, owner: object, **options: Any) -> Any:
        """Export a tensor as a DLPack capsule that keeps `owner` alive; `options` are those of `__dlpack__`."""
        buffer = _module("cuda.core").Buffer.from_handle(tensor.address, tensor.nbytes, owner=owner)
        view = _module("cuda.core.utils").StridedMemoryView.from_buffer(buffer, tensor.shape, dtype=tensor.dtype)
        return view.__dlpack__(**options)


def _check_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Raise FrameError unless these strides, in elements, leave no gaps."""
    without_gaps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if any(extent > 1 and strides[axis] != without_gaps[axis] for axis, extent in enumerate(shape)):
        raise FrameError(
            f"a frame of shape {shape} has the strides {strides}; give (height, width, 3) without gaps "
            "(torch: frame.permute(1, 2, 0).contiguous(), CuPy: cupy.ascontiguousarray(frame))"
        )
