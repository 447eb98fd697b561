"""Stages on ONNX Runtime's CPU provider, and the code that the CUDA provider shares."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from zsm.engine import host
from zsm.engine.backends import blocks, uint8
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.devices import CLOSED, OpenOptions
from zsm.errors import BackendError, FrameError
from zsm.plugins import onnxruntime_library
from zsm.plugins.operator import make_portable
from zsm.runtime import Backend, Pixels, Session
from zsm.runtime.backend import DevicePixels
from zsm.runtime.network import GRID, SCALE

Array = NDArray[Any]
CPU = "CPUExecutionProvider"


def open_bundle(bundle: Bundle, options: OpenOptions) -> Backend:
    """Open a bundle on the CPU; raises BackendError if ONNX Runtime can't load a stage."""
    return OnnxRuntimeBackend(bundle, options.threads)


def open_session(
    stage: str, content: bytes, options: ort.SessionOptions, library: Path | None, provider: str, settings: Any = None
) -> ort.InferenceSession:
    """Load a stage on a provider, with our operator from a native library or as a function; raises BackendError."""
    try:
        model = onnx.load_from_string(content)
        if provider == CPU:
            uint8.rewrite(model)
        if library is None:
            make_portable(model)
        else:
            options.register_custom_ops_library(str(library))
            del model.functions[:]  # or they would take precedence over the library's operator
        providers = [(provider, settings or {})]
        session = ort.InferenceSession(model.SerializeToString(), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise BackendError(f"ONNX Runtime {ort.__version__} can't load stage {stage}: {error}") from error
    if session.get_providers()[0] != provider:
        raise BackendError(f"{provider} failed to start; ONNX Runtime's log says why")
    return session


def open_on_cpu(stage: str, content: bytes, threads: int | None) -> ort.InferenceSession:
    """Load a stage on the CPU; raises BackendError."""
    return open_session(stage, content, _options(threads), onnxruntime_library(), CPU)


def failure(stage: str, shapes: Mapping[str, Any], error: Exception) -> BackendError:
    """The error for a stage whose execution failed."""
    given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return BackendError(f"stage {stage} failed on {given}: {error}")


@cache
def _share_memory() -> None:
    """Let all stages allocate from one arena: they run one after the other."""
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, None)


def _options(threads: int | None) -> ort.SessionOptions:
    _share_memory()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Each stage has its own threads; spinning ones would slow down the next stage.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class Stage:
    """A stage as one session."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Array], options: ort.RunOptions | None = None) -> dict[str, Array]:
        return dict(zip(self._outputs, self._session.run(None, dict(inputs), options), strict=True))


class BlockwiseStage:
    """A reconstruction in two sessions, the second of which works on blocks of the frame."""

    def __init__(self, parts: blocks.Cut, open_part: Callable[[bytes], Stage]) -> None:
        self._trunk, self._tail = (open_part(part.SerializeToString()) for part in (parts.trunk, parts.tail))
        self._tail_inputs = [value.name for value in parts.tail.graph.input]
        self._output = parts.tail.graph.output[0].name
        self._margin = parts.margin

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        known = self._trunk({name: array for name, array in inputs.items() if name not in self._tail_inputs})
        tensors = {**inputs, **known}
        given = {name: tensors[name] for name in self._tail_inputs}
        return {self._output: blocks.run(lambda part: self._tail(part)[self._output], given, self._margin)}


def _open_stage(name: str, content: bytes, threads: int | None) -> Stage | BlockwiseStage:
    """Load a stage; raises BackendError."""

    def open_part(part: bytes) -> Stage:
        return Stage(open_on_cpu(name, part, threads))

    parts = blocks.cut(onnx.load_from_string(content)) if name == "reconstruct" else None
    return open_part(content) if parts is None else BlockwiseStage(parts, open_part)


class OnnxRuntimeBackend:
    """One `InferenceSession` per stage."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._threads = threads
        self._library = onnxruntime_library()
        self._stages = {name: _open_stage(name, bundle.read(name), threads) for name in bundle.manifest.stages}
        self._size: tuple[int, int] | None = None

    def open(self, height: int, width: int) -> Session:
        """Prepare for frames of one size."""
        if self._size not in (None, (height, width)):
            self._give_back()
        self._size = height, width
        return OnnxRuntimeSession(self._stages, height, width)

    def _give_back(self) -> None:
        """Return the arena's free memory to the system: tensors of another size wouldn't fit in well."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        ingest = self._stages["ingest_uint8"]
        assert isinstance(ingest, Stage)
        ingest({"pixels": np.zeros((1, GRID, GRID, 3), np.uint8)}, options)  # at the end of any run

    def adopt(self, frame: object) -> None:
        """None: a CPU has no memory but the host's."""

    def free_memory(self) -> int:
        return host.free_memory()

    def describe(self) -> dict[str, Any]:
        """Report what executes where."""
        return {
            "backend": "onnxruntime",
            "version": ort.__version__,
            "device": "cpu",
            "provider": CPU,
            "threads": self._threads or "all cores",
            "operator": str(self._library or "ONNX function over DeformConv"),
        }

    def close(self) -> None:
        """Release the stages."""
        self._stages.clear()


STRIP = 128
"""Rows of an output that are converted to pixels at a time."""


class OnnxRuntimeSession:
    """The stages for frames of one size; tensors are NumPy arrays."""

    batched = False  # a core has enough to do with one frame, and a batch needs twice the memory

    def __init__(self, stages: Mapping[str, Stage | BlockwiseStage], height: int, width: int) -> None:
        self._stages = stages
        self._height, self._width = SCALE * height, SCALE * width

    def ingest(self, frame: Pixels | DevicePixels) -> Array:
        """Convert a frame (h,w,3) to planes (1,3,H,W)."""
        pixels = np.ascontiguousarray(frame)
        return self.run(f"ingest_{pixels.dtype.name}", {"pixels": pixels[None]})["planes"]

    def run(self, stage: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Execute a stage."""
        if not self._stages:
            raise BackendError(CLOSED)
        try:
            return self._stages[stage](inputs)
        except Exception as error:
            raise failure(stage, {name: array.shape for name, array in inputs.items()}, error) from error

    def emit(self, planes: Array, dtype: np.dtype[Any]) -> Array:
        """Convert planes (1,3,4H,4W) to pixels (1,4h,4w,3)."""
        pixels = np.empty((1, self._height, self._width, 3), dtype)
        for top in range(0, self._height, STRIP):
            rows = slice(top, min(top + STRIP, self._height))
            strip = {
                "planes": np.ascontiguousarray(planes[:, :, rows]),
                "size": np.array([rows.stop - rows.start, self._width], np.int64),
            }
            pixels[:, rows] = self.run(f"emit_{dtype.name}", strip)["pixels"]
        return pixels

    def zeros_like(self, tensor: Array) -> Array:
        return np.zeros_like(tensor)

    def concatenate(self, tensors: Sequence[Array]) -> Array:
        return np.concatenate(tensors)

    def split(self, tensor: Array) -> list[Array]:
        return [tensor[i : i + 1] for i in range(len(tensor))]

    def from_host(self, array: Array) -> Array:
        return array.copy()

    def to_host(self, tensor: Array) -> Callable[[], Array]:
        return lambda: tensor

    def export(self, tensor: Array) -> DevicePixels:
        """Raises FrameError: the caller has host memory only."""
        raise FrameError("outputs can't stay on a device: this Runtime is on the CPU; leave out to='device'")

    def synchronize(self) -> None:
        """Nothing to wait for: `run` returns when the work is done."""
