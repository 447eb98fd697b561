"""Stages on ONNX Runtime's CUDA provider, on memory and a stream of ours, without a host round trip."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike

from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.cuda import Gpu
from zsm.engine.backends.gpu.device import Stream, Tensor
from zsm.engine.backends.onnxruntime import failure, open_session
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import Size, output_shapes
from zsm.engine.devices import Device, Place
from zsm.errors import BackendError
from zsm.plugins import onnxruntime_library
from zsm.plugins.native import Core

CUDA = "CUDAExecutionProvider"

ON_CPU = {"Add", "Concat", "Constant", "Div", "Mul", "Shape", "Sub"}
"""Operations on shapes: ONNX Runtime computes those on the CPU, and no frame passes through them."""


def open_bundle(bundle: Bundle, where: Place) -> DeviceBackend:
    """Open a bundle's stages on a GPU; raises BackendError if this ONNX Runtime can't run there."""
    if CUDA not in ort.get_available_providers():
        raise BackendError(
            f"ONNX Runtime {ort.__version__} here has no {CUDA}, so it can't run on {where.device}: "
            "pip uninstall onnxruntime, then pip install 'zsm[gpu]'"
        )
    gpu = Gpu(where.device.index)
    stream = gpu.stream(where.cuda_stream)
    settings = {
        "device_id": str(where.device.index),
        "user_compute_stream": str(stream.handle),
        "use_tf32": "0",  # else fp32 bundles would be computed with 10 bits of mantissa
        "arena_extend_strategy": "kSameAsRequested",
    }
    sessions = Sessions(bundle, where.device, where.threads, CUDA, settings)
    return DeviceBackend(bundle.manifest, gpu, stream, sessions, callers=where.cuda_stream is not None)


class Sessions:
    """One session a stage, for frames of any size."""

    recordable = False  # sessions take memory while they run, which a recording would keep the address of
    uint16 = True

    def __init__(
        self, bundle: Bundle, device: Device, threads: int | None, provider: str, settings: Mapping[str, str]
    ) -> None:
        self._bundle = bundle
        self._device = device
        self._threads = threads
        self._provider = provider
        self._settings = dict(settings)
        self._library = _operator_library()
        self._sessions = {name: self._open(name) for name in bundle.manifest.stages}

    def load(self, size: Size) -> "dict[str, OrtStage]":
        """The stages for frames of a size."""
        manifest = self._bundle.manifest
        return {
            name: OrtStage(name, session, output_shapes(manifest, name, size), self._device)
            for name, session in self._sessions.items()
        }

    def describe(self) -> dict[str, Any]:
        """What executes where."""
        return {
            "backend": "onnxruntime",
            "version": ort.__version__,
            "device": str(self._device),
            "provider": self._provider,
            "tf32": False,
            "operator": str(self._library or "ONNX function over DeformConv"),
        }

    def close(self) -> None:
        """Release the sessions."""
        self._sessions.clear()

    def _open(self, stage: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads or 0
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = open_session(self._bundle, stage, options, self._library, self._provider, self._settings)
        elsewhere = _assigned_elsewhere(session, self._provider)
        if elsewhere:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} would run {', '.join(sorted(elsewhere))} of stage {stage} on the CPU; "
                "upgrade onnxruntime-gpu (1.25 or newer has them all on the GPU)"
            )
        return session


class OrtStage:
    """A stage's session, for frames of one size."""

    def __init__(
        self, name: str, session: ort.InferenceSession, shapes: Mapping[str, tuple[int, ...]], device: Device
    ) -> None:
        self._name = name
        self._session = session
        self._device = device
        self._inputs: Mapping[str, Tensor] = {}
        self._outputs = {output.name: (shapes[output.name], _dtype(output.type)) for output in session.get_outputs()}
        self._options = ort.RunOptions()
        # What follows is put on the same stream, so that nobody need wait at a stage's end.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Set the inputs; the outputs' shapes and types."""
        self._inputs = inputs
        return dict(self._outputs)

    def enqueue(self, outputs: Mapping[str, Tensor], stream: Stream) -> None:
        """Execute on the stream that the session was made with."""
        inputs, self._inputs = self._inputs, {}
        try:
            binding = self._session.io_binding()
            for name, tensor in inputs.items():
                binding.bind_input(name, *self._place(tensor))
            for name, tensor in outputs.items():
                binding.bind_output(name, *self._place(tensor))
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # ONNX Runtime's own have no common base
            raise failure(self._name, {name: tensor.shape for name, tensor in inputs.items()}, error) from error

    def _place(self, tensor: Tensor) -> tuple[str, int, DTypeLike, tuple[int, ...], int]:
        kind, index = ("cpu", 0) if tensor.dtype == np.int64 else (self._device.kind, self._device.index)
        return kind, index, tensor.dtype, tensor.shape, tensor.address


def _dtype(name: str) -> str:
    """ONNX Runtime's name of a tensor's type as NumPy has it."""
    element = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32"}.get(element, element)


def _operator_library() -> Path | None:
    """The native operator, if it was built for GPUs: without that, it would run on the CPU."""
    library = onnxruntime_library()
    return library if library is not None and Core(library).cuda_architectures() else None


def _assigned_elsewhere(session: ort.InferenceSession, provider: str) -> set[str]:
    """The operations on data that ONNX Runtime has given to another provider, which it does without a word."""
    nodes = [
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    ]
    return set(nodes) - ON_CPU
