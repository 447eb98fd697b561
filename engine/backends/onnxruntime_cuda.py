"""Stages on ONNX Runtime's CUDA provider: tensors stay on the GPU from `from_host` to `to_host`."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime as ort
from numpy.typing import NDArray

from zsm.engine.backends.base import BackendError, Device
from zsm.engine.backends.onnxruntime import failure, open_session
from zsm.engine.bundle import Bundle
from zsm.plugins import onnxruntime_library
from zsm.plugins.native import Core
from zsm.plugins.operator import OPSET

CUDA = "CUDAExecutionProvider"

ON_CPU = {"Add", "Concat", "Constant", "Div", "Mul", "Shape", "Sub"}
"""Operations on shapes: ONNX Runtime computes those on the CPU, and no frame passes through them."""

ONNX_TYPE = {"fp32": "float", "fp16": "float16"}


def open_bundle(bundle: Bundle, device: Device, threads: int | None) -> "OrtValueBackend":
    """Open a bundle's stages on a GPU; raises BackendError if this ONNX Runtime can't run there."""
    if CUDA not in ort.get_available_providers():
        raise BackendError(
            f"ONNX Runtime {ort.__version__} here has no {CUDA}, so it can't run on {device}: "
            "pip uninstall onnxruntime, then pip install 'zsm[gpu]'"
        )
    settings = {
        "device_id": str(device.index),
        "use_tf32": "0",  # else fp32 bundles would be computed with 10 bits of mantissa
        "arena_extend_strategy": "kSameAsRequested",
    }
    return OrtValueBackend(bundle, device, threads, CUDA, settings)


def _operator_library() -> Path | None:
    """The native operator, if it was built for GPUs: without that, it would run on the CPU."""
    library = onnxruntime_library()
    return library if library is not None and Core(library).cuda_architectures() else None


class OrtValueBackend:
    """One session a stage; tensors are OrtValues on the device, and stages are run on them through IO binding."""

    def __init__(
        self, bundle: Bundle, device: Device, threads: int | None, provider: str, settings: Mapping[str, str]
    ) -> None:
        self._device = device
        self._threads = threads
        self._provider = provider
        self._settings = dict(settings)
        self._type = ONNX_TYPE[bundle.manifest.precision]
        self._library = _operator_library()
        stages = bundle.manifest.stages
        self._sessions = {name: self._open(bundle, name) for name in stages}
        self._inputs = {name: tuple(tensor.name for tensor in stage.inputs) for name, stage in stages.items()}
        self._zeros: dict[tuple[int, ...], ort.OrtValue] = {}

    def _open(self, bundle: Bundle, stage: str) -> ort.InferenceSession:
        options = _options(self._threads)
        session = open_session(bundle, stage, options, self._library, self._provider, self._settings)
        elsewhere = _assigned_elsewhere(session, self._provider)
        if elsewhere:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} would run {', '.join(sorted(elsewhere))} of stage {stage} on the CPU; "
                "upgrade onnxruntime-gpu (1.25 or newer has them all on the GPU)"
            )
        return session

    def inputs(self, stage: str) -> tuple[str, ...]:
        """The names of a stage's inputs."""
        return self._inputs.get(stage, ())

    def run(self, stage: str, inputs: Mapping[str, ort.OrtValue]) -> dict[str, ort.OrtValue]:
        """Execute a stage."""
        try:
            return self._execute(self._sessions[stage], inputs)
        except Exception as error:  # ONNX Runtime's own have no common base
            raise failure(stage, {name: tuple(value.shape()) for name, value in inputs.items()}, error) from error

    def _execute(self, session: ort.InferenceSession, inputs: Mapping[str, ort.OrtValue]) -> dict[str, ort.OrtValue]:
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        outputs = [output.name for output in session.get_outputs()]
        for name in outputs:
            binding.bind_output(name, self._device.kind, self._device.index)
        session.run_with_iobinding(binding)
        return dict(zip(outputs, binding.get_outputs(), strict=True))

    def from_host(self, array: NDArray[Any]) -> ort.OrtValue:
        """Copy to the device. A size, which ONNX Runtime reads on the CPU, stays there."""
        if array.dtype == np.int64:
            return ort.OrtValue.ortvalue_from_numpy(array)
        return ort.OrtValue.ortvalue_from_numpy(array, self._device.kind, self._device.index)

    def to_host(self, tensor: ort.OrtValue) -> NDArray[Any]:
        """Copy back."""
        array: NDArray[Any] = tensor.numpy()
        return array

    def zeros_like(self, tensor: ort.OrtValue) -> ort.OrtValue:
        """Zeros, copied to the device once for each shape: no stage changes its inputs."""
        shape = tuple(tensor.shape())
        if shape not in self._zeros:
            dtype = np.float16 if self._type == "float16" else np.float32
            self._zeros[shape] = self.from_host(np.zeros(shape, dtype))
        return self._zeros[shape]

    def concatenate(self, tensors: Sequence[ort.OrtValue]) -> ort.OrtValue:
        """Along the first axis."""
        inputs = {f"x{i}": tensor for i, tensor in enumerate(tensors)}
        return self._execute(self._joining("concatenate", len(tensors)), inputs)["y"]

    def split(self, tensor: ort.OrtValue) -> list[ort.OrtValue]:
        """Along the first axis."""
        count = tensor.shape()[0]
        return list(self._execute(self._joining("split", count), {"x": tensor}).values())

    def _joining(self, what: str, count: int) -> ort.InferenceSession:
        name = f"{what} {count}"
        if name not in self._sessions:
            model = (_concatenate if what == "concatenate" else _split)(self._type, count)
            providers = [(self._provider, self._settings)]
            self._sessions[name] = ort.InferenceSession(model, _options(self._threads), providers=providers)
        return self._sessions[name]

    def synchronize(self) -> None:
        """Nothing: `run` returns when all is done."""

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
        self._zeros.clear()
        self._sessions.clear()


def _options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _assigned_elsewhere(session: ort.InferenceSession, provider: str) -> set[str]:
    """The operations on data that ONNX Runtime has given to another provider, which it does without a word."""
    nodes = [
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    ]
    return set(nodes) - ON_CPU


@cache
def _concatenate(dtype: str, count: int) -> bytes:
    names = [f"x{i}" for i in range(count)]
    inputs = ", ".join(f"{dtype}[n,c,h,w] {name}" for name in names)
    return _model(f"join ({inputs}) => ({dtype}[m,c,h,w] y) {{ y = Concat <axis = 0> ({', '.join(names)}) }}")


@cache
def _split(dtype: str, count: int) -> bytes:
    names = [f"y{i}" for i in range(count)]
    outputs = ", ".join(f"{dtype}[m,c,h,w] {name}" for name in names)
    body = f"{', '.join(names)} = Split <axis = 0, num_outputs = {count}> (x)"
    return _model(f"part ({dtype}[n,c,h,w] x) => ({outputs}) {{ {body} }}")


def _model(graph: str) -> bytes:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {OPSET}]>' + graph)
    content: bytes = model.SerializeToString()
    return content
