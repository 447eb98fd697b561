"""Stages on ONNX Runtime's CUDA provider, on our memory and stream, without a round trip to the host."""

import contextlib
import tempfile
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import DTypeLike

from zsm.engine.backends.arrays import failure
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.cuda import Gpu, Stream
from zsm.engine.backends.gpu.tensor import Tensor
from zsm.engine.backends.onnxruntime import default_threads, open_session
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import Size, output_shapes
from zsm.engine.devices import Device, OpenOptions
from zsm.errors import BackendError
from zsm.plugins import onnxruntime_library
from zsm.plugins.native import Core

CUDA = "CUDAExecutionProvider"


def open_bundle(bundle: Bundle, options: OpenOptions) -> DeviceBackend:
    """Open a bundle on a GPU; raises BackendError if this ONNX Runtime can't use it."""
    if CUDA not in ort.get_available_providers():
        raise BackendError(
            f"ONNX Runtime {ort.__version__} has no {CUDA}, so it can't run on {options.device}; "
            "pip uninstall onnxruntime, then pip install 'zsm[gpu]'"
        )
    gpu = Gpu(options.device.index)
    load_cuda()
    cuda_stream = gpu.stream(options.cuda_stream)
    settings = provider_options(bundle, options.device.index, cuda_stream)
    compiler = OrtCompiler(bundle, options.device, cuda_stream, options.threads, CUDA, settings)
    borrowed = options.cuda_stream is not None
    return DeviceBackend(gpu, cuda_stream, compiler, borrowed=borrowed, cuda_graphs=options.cuda_graphs)


@cache
def load_cuda() -> None:
    """Load CUDA and cuDNN from their pip packages, where the system's loader doesn't look; raises BackendError.

    Libraries that the process has loaded already, as by importing torch, serve as well.
    """
    said: list[str] = []
    # It prints what it can't load. Standard output may be a video, and other threads print too, so it is only given a
    # `print` of its own.
    preload = ort.preload_dlls
    FunctionType(preload.__code__, preload.__globals__ | {"print": said.append}, argdefs=preload.__defaults__)()
    if said:
        raise BackendError(f"ONNX Runtime can't load CUDA: {said[0]}; pip install 'zsm[gpu]' brings its libraries")


def provider_options(bundle: Bundle, index: int, cuda_stream: Stream) -> dict[str, str]:
    """The CUDA provider's options for a GPU and a stream of it."""
    options = {
        "user_compute_stream": str(cuda_stream.handle),
        # Convolutions use tensor cores only with this, in FP16 too. In FP32 these round to 10 bits of mantissa.
        "use_tf32": "1" if bundle.manifest.precision == "fp16" else "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    if index:  # naming the default logs a warning for every stage
        options["device_id"] = str(index)
    return options


class OrtCompiler:
    """One `InferenceSession` per stage, for frames of any size, whose work goes to a stream.

    The sessions are released when the stream has finished, also where nobody closes the compiler. Before that, ONNX
    Runtime would free memory in a function that the stream calls, which CUDA forbids: the process would abort.
    """

    recordable = False  # ONNX Runtime allocates while it runs, and a graph would keep those addresses
    uint16 = True

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        stream: Stream,
        threads: int | None,
        provider: str,
        settings: Mapping[str, str],
    ) -> None:
        self._bundle = bundle
        self._device = device
        self._threads = threads
        self._provider = provider
        self._settings = dict(settings)
        self._library = _operator_library()
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._release = weakref.finalize(self, release, self._sessions, stream)
        self._sessions |= {name: self._open(name) for name in bundle.manifest.stages}

    def load(self, size: Size) -> "dict[str, OrtStage]":
        """Make the stages for frames of a size."""
        manifest = self._bundle.manifest
        return {
            name: OrtStage(name, session, output_shapes(manifest, name, size), self._device)
            for name, session in self._sessions.items()
        }

    def describe(self) -> dict[str, Any]:
        """Report what executes where."""
        return {
            "backend": "onnxruntime",
            "version": ort.__version__,
            "device": str(self._device),
            "provider": self._provider,
            "tf32": False,
            "operator": str(self._library or "ONNX function over DeformConv"),
        }

    def close(self) -> None:
        """Release the stages."""
        self._release()

    def _open(self, stage: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads or default_threads()
        options.enable_mem_pattern = False  # or the arena keeps a run's memory twice
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # The provider convolves int8 layers as floats. This lets it convert their weights once, not in every run.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        with tempfile.TemporaryDirectory() as folder:  # the optimized graph shows what it would copy to the host
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            content = self._bundle.read(stage)
            session = open_session(stage, content, options, self._library, self._provider, self._settings)
            optimized = onnx.load(options.optimized_model_filepath)
        elsewhere = on_host(session, optimized, self._provider)
        if elsewhere:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} would run {', '.join(sorted(elsewhere))} of stage {stage} on the CPU; "
                "upgrade onnxruntime-gpu (1.25 or newer has them all on the GPU)"
            )
        return session


def release(sessions: dict[str, ort.InferenceSession], stream: Stream) -> None:
    """Release sessions when the work that they put on a stream is done, or has failed."""
    with contextlib.suppress(BackendError):  # whoever uses the outputs is told
        stream.synchronize()
    sessions.clear()


class OrtStage:
    """A stage for frames of one size."""

    def __init__(
        self, name: str, session: ort.InferenceSession, shapes: Mapping[str, tuple[int, ...]], device: Device
    ) -> None:
        self._name = name
        self._session = session
        self._device = device
        self._inputs: Mapping[str, Tensor] = {}
        self._outputs = {output.name: (shapes[output.name], _dtype(output.type)) for output in session.get_outputs()}
        self._options = ort.RunOptions()
        # Later work is put on the same stream, so there is no need to wait at a stage's end.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Set the inputs; returns the outputs' shapes and dtypes."""
        self._inputs = inputs
        return dict(self._outputs)

    def enqueue(self, outputs: Mapping[str, Tensor], stream: Stream) -> None:
        """Execute into the outputs, on the stream that the provider was set up with."""
        inputs, self._inputs = self._inputs, {}
        try:
            binding = self._session.io_binding()
            for name, tensor in inputs.items():
                binding.bind_input(name, *self._place(tensor))
            for name, tensor in outputs.items():
                binding.bind_output(name, *self._place(tensor))
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise failure(self._name, {name: tensor.shape for name, tensor in inputs.items()}, error) from error

    def _place(self, tensor: Tensor) -> tuple[str, int, DTypeLike, tuple[int, ...], int]:
        kind, index = ("cpu", 0) if tensor.on_host else (self._device.kind, self._device.index)
        return kind, index, tensor.dtype, tensor.shape, tensor.address


def _dtype(name: str) -> str:
    """Translate ONNX Runtime's name of a tensor's type to NumPy's."""
    element = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32"}.get(element, element)


def _operator_library() -> Path | None:
    """The native operator, if it was built for GPUs; any other would run on the CPU."""
    library = onnxruntime_library()
    return library if library is not None and Core(library).cuda_architectures() else None


def on_host(session: ort.InferenceSession, optimized: onnx.ModelProto, provider: str) -> set[str]:
    """The operations on tensors of the GPU that ONNX Runtime would move to the CPU, silently.

    It computes shapes there too, which needs no copies. Anything else shows in the optimized graph: as a copy to or
    from the host, unless the whole stage is on the CPU.
    """
    parts = session.get_provider_graph_assignment_info()
    if not any(part.ep_name == provider for part in parts):
        return {node.op_type for node in optimized.graph.node}
    copied: set[str] = set()
    for node in optimized.graph.node:
        copied |= {"MemcpyToHost": set(node.output), "MemcpyFromHost": set(node.input)}.get(node.op_type, set())
    beside = (node for node in optimized.graph.node if copied & {*node.input, *node.output})
    return {node.op_type for node in beside if not node.op_type.startswith("Memcpy")}
