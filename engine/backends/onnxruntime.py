"""Stages on ONNX Runtime's CPU provider, and the code that the CUDA provider shares."""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from zsm.engine import host
from zsm.engine.backends import uint8
from zsm.engine.backends.arrays import Array, ArraySession, open_stages
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import Size, symbols
from zsm.engine.devices import CLOSED, OpenOptions
from zsm.errors import BackendError
from zsm.limits import cores
from zsm.plugins import onnxruntime_library
from zsm.plugins.operator import make_portable
from zsm.runtime import Backend, Session
from zsm.runtime.network import GRID

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


class OrtStage:
    """A stage as one session."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Array], options: ort.RunOptions | None = None) -> dict[str, Array]:
        return dict(zip(self._outputs, self._session.run(None, dict(inputs), options), strict=True))


def open_stage(stage: str, content: bytes, threads: int | None) -> OrtStage:
    """Load a stage on the CPU; raises BackendError."""
    options = session_options(threads)
    # A buffer is kept for the tensor that will use it next, however late; in the full-size network's recurrence, with
    # its pyramids of offsets, that took a third more memory.
    options.enable_mem_reuse = stage != "propagate"
    return OrtStage(open_session(stage, content, options, onnxruntime_library(), CPU))


@cache
def _share_memory() -> None:
    """Let all stages allocate from one arena: they run one after the other."""
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, None)


def session_options(threads: int | None) -> ort.SessionOptions:
    """The options of a session on the CPU."""
    _share_memory()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or default_threads()
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Each stage has its own threads; spinning ones would slow down the next stage.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def default_threads() -> int:
    """How many cores this process is limited to; 0, ONNX Runtime's own choice, if it may use the whole machine.

    ONNX Runtime doesn't see limits: in a container it would start as many threads as the host has cores.
    """
    limit = cores()
    return limit if limit < (os.cpu_count() or 1) else 0


class OnnxRuntimeBackend:
    """One `InferenceSession` per stage."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._threads = threads or default_threads()
        self._library = onnxruntime_library()
        self._stages = open_stages(bundle, lambda name, content: open_stage(name, content, self._threads))
        self._planes: tuple[int, int] | None = None
        """The height and width of the planes that the last session was for."""

    def open(self, height: int, width: int) -> Session:
        """Prepare for frames of one size; raises BackendError after `close`."""
        if not self._stages:
            raise BackendError(CLOSED)
        known = symbols(Size(width, height), 1)
        planes = known["H"], known["W"]
        if self._planes != planes:  # the tiles of a frame have the same, though the last may be smaller
            self._give_back()
        self._planes = planes
        return ArraySession(self._stages, height, width)

    def _give_back(self) -> None:
        """Return the arena's free memory, if any frames came, to the system: tensors of another size fit in badly.

        All Runtimes share the arena.
        """
        if self._planes is None:
            return
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        ingest = self._stages["ingest_uint8"]
        assert isinstance(ingest, OrtStage)
        ingest({"pixels": np.zeros((1, GRID, GRID, 3), np.uint8)}, options)  # at the end of any run

    def adopt(self, frame: object) -> None:
        """None: a CPU has no memory but the host's."""

    def free_memory(self) -> int:
        """The host's, once what frames of another size have left in the arena is given back."""
        self._give_back()
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
        """Release the stages, and the memory that they worked in."""
        try:
            self._give_back()
        finally:
            self._planes = None
            self._stages.clear()
