"""Stages on ONNX Runtime's CPU provider, and what its CUDA provider shares with it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from zsm.engine.bundle.manifest import Bundle
from zsm.engine.devices import CLOSED, Place
from zsm.errors import BackendError, FrameError
from zsm.plugins import onnxruntime_library
from zsm.plugins.operator import make_portable
from zsm.runtime import Backend
from zsm.runtime.backend import Compute

Array = NDArray[Any]
CPU = "CPUExecutionProvider"


def open_bundle(bundle: Bundle, where: Place) -> Backend:
    """Open a bundle's stages, nothing being built; raises BackendError if they can't run there."""
    return OnnxRuntimeBackend(bundle, where.threads)


def open_session(
    bundle: Bundle, stage: str, options: ort.SessionOptions, library: Path | None, provider: str, settings: Any = None
) -> ort.InferenceSession:
    """A stage on a provider, with our operator from a native library or as a function; raises BackendError."""
    content = bundle.read(stage)
    try:
        model = onnx.load_from_string(content)
        if library is None:
            make_portable(model)
        else:
            options.register_custom_ops_library(str(library))
            del model.functions[:]  # they would be taken before the library's operator
        session = ort.InferenceSession(model.SerializeToString(), options, providers=[(provider, settings or {})])
    except Exception as error:  # ONNX Runtime's own have no common base
        raise BackendError(f"ONNX Runtime {ort.__version__} can't load stage {stage}: {error}") from error
    if session.get_providers()[0] != provider:
        raise BackendError(f"{provider} failed to start; ONNX Runtime's log says why")
    return session


def failure(stage: str, shapes: Mapping[str, Any], error: Exception) -> BackendError:
    """What is said when a stage's execution fails."""
    said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return BackendError(f"stage {stage} failed on {said}: {error}")


@cache
def _share_memory() -> None:
    """Let the sessions of this process take memory from one pool: stages run one after the other."""
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, None)


def _options(threads: int | None) -> ort.SessionOptions:
    _share_memory()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Each session has threads of its own; those that wait for work would hold up the next stage's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxRuntimeBackend:
    """One session a stage; tensors are NumPy arrays."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._threads = threads
        self._library = onnxruntime_library()
        stages = bundle.manifest.stages
        self._sessions = {name: open_session(bundle, name, _options(threads), self._library, CPU) for name in stages}
        self._inputs = {name: tuple(tensor.name for tensor in stage.inputs) for name, stage in stages.items()}

    def inputs(self, stage: str) -> tuple[str, ...]:
        """The names of a stage's inputs."""
        return self._inputs.get(stage, ())

    def run(self, stage: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Execute a stage."""
        if not self._sessions:
            raise BackendError(CLOSED)
        session = self._sessions[stage]
        try:
            outputs = session.run(None, dict(inputs))
        except Exception as error:
            raise failure(stage, {name: array.shape for name, array in inputs.items()}, error) from error
        return {spec.name: array for spec, array in zip(session.get_outputs(), outputs, strict=True)}

    def repeat(self, name: str, compute: Compute, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute, there being nothing to record."""
        return compute(tensors)

    def adopt(self, frame: object) -> Any:
        """The frame itself: nothing lies elsewhere than on the host."""
        return frame

    def from_host(self, array: Array) -> Array:
        """The array itself."""
        return array

    def to_host(self, tensor: Array) -> Callable[[], Array]:
        """The array itself."""
        return lambda: tensor

    def export(self, tensor: Array) -> Array:
        """Raises FrameError."""
        raise FrameError("the cpu has no memory of its own to leave frames in; leave out to='device'")

    def zeros_like(self, tensor: Array) -> Array:
        """An array of zeros."""
        return np.zeros_like(tensor)

    def concatenate(self, tensors: Sequence[Array]) -> Array:
        """Along the first axis."""
        return np.concatenate(tensors)

    def split(self, tensor: Array) -> list[Array]:
        """Along the first axis."""
        return [tensor[i : i + 1] for i in range(len(tensor))]

    def synchronize(self) -> None:
        """Nothing: `run` returns when all is done."""

    def describe(self) -> dict[str, Any]:
        """What executes where."""
        return {
            "backend": "onnxruntime",
            "version": ort.__version__,
            "device": "cpu",
            "provider": CPU,
            "threads": self._threads or "all cores",
            "operator": str(self._library or "ONNX function over DeformConv"),
        }

    def close(self) -> None:
        """Release the sessions."""
        self._sessions.clear()
