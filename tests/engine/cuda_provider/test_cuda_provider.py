"""Bundles on ONNX Runtime's real CUDA provider, without a GPU: what it would run where, on which stream and memory."""

import importlib.metadata
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from tests.engine.cuda_provider.stubs import Call, Journal

from zsm.engine import Bundle, NetworkConfig
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.gpu.onnxruntime import CUDA, OrtCompiler, provider_options
from zsm.engine.backends.gpu.tensor import Tensor
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device
from zsm.engine.memory import Estimator
from zsm.engine.tiling import RESERVE
from zsm.errors import BackendError
from zsm.export import Options
from zsm.export.int8 import graphs
from zsm.export.model import Network
from zsm.runtime.stream import stream

pytestmark = [pytest.mark.cuda_provider, pytest.mark.usefixtures("journal")]

ROOT = Path(__file__).resolve().parents[3]
COMPACT = ROOT / "models" / "compact"
SIZE = Size(32, 24)
HEURISTICS = "4"
"""cuDNN's number for the descriptor by which it is asked for an engine."""
WAITING = {"cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaMemset", "cudaStreamSynchronize"}
ON_A_STREAM = {"launch", "cudaMemcpyAsync", "cudaMemsetAsync", "cudaLaunchHostFunc"}


class Int8Bundle(Bundle):
    """A bundle in which every convolution that can be int8 is."""

    def read(self, stage: str) -> bytes:
        model = onnx.load_from_string(super().read(stage))
        ranges = {name: 1.0 for node in model.graph.node for name in (*node.input, *node.output)}
        quantised = graphs.quantise(model, [layer.node for layer in graphs.layers(model)], ranges)
        return bytes(quantised.SerializeToString())


@pytest.fixture(scope="module")
def half_bundle(export_once: Callable[..., Path]) -> Path:
    """The full-size network in FP16, but for the number of its blocks."""
    config = NetworkConfig(extraction_blocks=1, reconstruction_blocks=1)
    return export_once("wide-half", Network(config).eval(), Options(precision="fp16"))


@pytest.fixture
def bundle(request: pytest.FixtureRequest) -> Bundle:
    if request.param == "compact":
        return Bundle(COMPACT)
    if request.param == "int8":
        return Int8Bundle(COMPACT)
    return Bundle(request.getfixturevalue(request.param))


@pytest.fixture
def open_backend(host_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., DeviceBackend]]:
    """Opens a bundle in the host's memory, with our operator from a folder or as a function."""
    opened = []

    def open_bundle(bundle: Bundle, operator: Path | None = None) -> DeviceBackend:
        monkeypatch.setenv("ZSM_PLUGIN_DIR", str(operator or ROOT))
        cuda_stream = host_gpu.stream()
        cuda_stream.eager = True
        settings = provider_options(bundle, 0, cuda_stream)
        compiler = OrtCompiler(bundle, Device(kind="cuda"), cuda_stream, 1, CUDA, settings)
        opened.append(DeviceBackend(host_gpu, cuda_stream, compiler))
        return opened[-1]

    yield open_bundle
    for backend in opened:
        backend.close()


def sessions(backend: DeviceBackend) -> dict[str, ort.InferenceSession]:
    assert isinstance(backend._compiler, OrtCompiler)
    return backend._compiler._sessions


def assigned(session: ort.InferenceSession) -> dict[str, Counter[str]]:
    """The number of nodes by operation, by provider."""
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return found


def of_data(model: onnx.ModelProto) -> Counter[str]:
    """The number of nodes by operation, without those that compute shapes or constants, or that do nothing."""
    shapes = {v.name for v in model.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.INT64}
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes = (node for node in model.graph.node if node.output[0] not in shapes and not weights >= set(node.input))
    return Counter(node.op_type for node in nodes if node.op_type not in ("Cast", "Identity"))


def run(backend: DeviceBackend, bundle: Bundle, frames: int = 4, dtype: str = "uint8") -> None:
    clip = np.zeros((frames, SIZE.height, SIZE.width, 3), dtype)
    for _ in stream(backend, clip, network=bundle.network, window=4, overlap=1):
        pass


KINDS = ["bicubic_bundle", "compact", "int8", "half_bundle"]


@pytest.mark.parametrize("bundle", KINDS, indirect=True)
def test_only_shapes_are_computed_on_the_cpu(bundle: Bundle, open_backend: Callable[..., DeviceBackend]) -> None:
    for stage, session in sessions(open_backend(bundle)).items():
        found = assigned(session)
        expected = of_data(onnx.load_from_string(bundle.read(stage)))
        expected["DeformConv"] = expected.pop("DeformConv2d", 0)  # in the operator's function
        assert +expected <= found[CUDA], stage
        assert set(found.get("CPUExecutionProvider", ())) <= {"Add", "Concat", "Div", "Gather", "Mul", "Sub"}, stage


@pytest.mark.parametrize(
    "graph",
    [
        "y = Acosh (x)",
        "a = Acosh (x) y = Relu (a)",
        "a = Relu (x) y = Acosh (a)",
        "a = Relu (x) b = Acosh (a) y = Relu (b)",
    ],
)
def test_a_stage_that_would_leave_the_gpu_is_refused(graph: str, open_backend: Callable[..., DeviceBackend]) -> None:
    """There is no CUDA kernel for Acosh."""
    types = "(float[n,3,h,w] x) => (float[n,3,h,w] y)"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> g {types} {{{graph}}}')

    class Changed(Bundle):
        def read(self, stage: str) -> bytes:
            return bytes(model.SerializeToString()) if stage == "extract" else super().read(stage)

    with pytest.raises(BackendError, match=r"would run Acosh of stage extract on the CPU"):
        open_backend(Changed(COMPACT))


@pytest.mark.parametrize("bundle", ["compact", "half_bundle"], indirect=True)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_run_stays_on_the_stream_and_waits_for_nothing(
    dtype: str, bundle: Bundle, open_backend: Callable[..., DeviceBackend], operator: Path, journal: Journal
) -> None:
    journal.take()
    backend = open_backend(bundle, operator)
    opened = journal.take()
    streams = {call.stream for call in opened if call.function in ("cudnnSetStream", "cublasSetStream_v2")}
    assert streams == {backend.cuda_stream.handle}
    run(backend, bundle, 8, dtype)
    journal.take()
    run(backend, bundle, 8, dtype)
    calls = journal.take()
    functions = Counter(call.function for call in calls)
    assert functions["launch"] > 100
    assert functions["cudnnBackendExecute"] > 100
    assert not functions.keys() & WAITING
    assert "cudaMalloc" not in functions
    assert {call.stream for call in calls if call.function in ON_A_STREAM} == {backend.cuda_stream.handle}
    assert {call.rest[0] for call in calls if call.function == "cudaMemcpyAsync"} <= {"device-to-device"}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_kernels_work_on_the_addresses_that_were_bound(
    dtype: str, open_backend: Callable[..., DeviceBackend], journal: Journal
) -> None:
    bundle = Bundle(COMPACT)
    backend = open_backend(bundle)
    stages = backend._compiler.load(SIZE)
    pixels, planes = host_tensor((1, 24, 32, 3), dtype), host_tensor((1, 3, 24, 32), "float32")
    enlarged, output = host_tensor((1, 3, 96, 128), "float32"), host_tensor((1, 96, 128, 3), dtype)
    extents = np.array([96, 128])
    size = Tensor(extents.ctypes.data, (2,), extents.dtype, extents, on_host=True)
    for stage, inputs, result in (
        (f"ingest_{dtype}", {"pixels": pixels}, {"planes": planes}),
        (f"emit_{dtype}", {"planes": enlarged, "size": size}, {"pixels": output}),
    ):
        executable = stages[stage]
        executable.bind(inputs)
        journal.take()
        executable.enqueue(result, backend.cuda_stream)
        calls = [call for call in journal.take() if call.function in ("launch", "cudaMemcpyAsync")]
        first, last = ({int(word, 16) for word in call.rest[1:]} for call in (calls[0], calls[-1]))
        assert next(iter(inputs.values())).address in first, stage
        assert next(iter(result.values())).address in last, stage


def host_tensor(shape: tuple[int, ...], dtype: str) -> Tensor:
    array = np.zeros(shape, dtype)
    return Tensor(array.ctypes.data, shape, array.dtype, array)


@pytest.mark.parametrize(("bundle", "kernel"), [("half_bundle", "fused"), ("compact", "plain")], indirect=["bundle"])
def test_our_operator_is_launched(
    kernel: str, bundle: Bundle, open_backend: Callable[..., DeviceBackend], operator: Path, journal: Journal
) -> None:
    backend = open_backend(bundle, operator)
    assert backend.describe()["operator"] == str(operator / "libzsm_onnxruntime.so")
    for stage in ("interpolate", "propagate"):
        nodes = [node.op_type for node in onnx.load_from_string(bundle.read(stage)).graph.node]
        assert assigned(sessions(backend)[stage])[CUDA]["DeformConv2d"] == nodes.count("DeformConv2d")
    journal.take()
    run(backend, bundle, 2)
    launched = Counter(
        match[1]
        for call in journal.take()
        if call.function == "launch" and (match := re.match(r"_ZN3zsm\d+(fused|plain)\d+kernel", call.rest[0]))
    )
    assert launched.keys() == {kernel}


@pytest.mark.parametrize(("bundle", "choices"), [("half_bundle", 1), ("compact", 2)], indirect=["bundle"])
def test_convolutions_in_fp16_may_use_tensor_cores(
    choices: int, bundle: Bundle, open_backend: Callable[..., DeviceBackend], journal: Journal
) -> None:
    """The only engine that our cuDNN has uses them: without permission, it is turned down and asked for again."""
    session = open_backend(bundle).open(SIZE.height, SIZE.width)
    planes = session.ingest(np.zeros((SIZE.height, SIZE.width, 3), np.uint8))
    journal.take()
    session.run("extract", {"planes": planes})
    convolutions = of_data(onnx.load_from_string(bundle.read("extract")))["Conv"]
    assert choices_of_engines(journal.take()) == choices * convolutions


def choices_of_engines(calls: list[Call]) -> int:
    return sum(call.function == "cudnnBackendCreateDescriptor" and call.rest == (HEURISTICS,) for call in calls)


def test_cudnn_chooses_once_and_tries_nothing(open_backend: Callable[..., DeviceBackend], journal: Journal) -> None:
    """Whatever `cudnn_conv_algo_search` is by default, nothing is searched by trial."""
    bundle = Bundle(COMPACT)
    backend = open_backend(bundle)
    journal.take()
    run(backend, bundle, 2)
    first = journal.take()
    run(backend, bundle, 2)
    assert choices_of_engines(first) > 0
    assert choices_of_engines(journal.take()) == 0
    assert not any(call.function.startswith("cudnnFind") for call in first)


def test_the_gpu_extra_brings_cuda_and_cudnn() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = (match for text in extras["gpu"] if (match := re.match(r"onnxruntime-gpu\[(.*)\]>=", text)))
    assert set(asked[1].split(",")) == {"cuda", "cudnn"}
    assert {"cuda", "cudnn"} <= set(importlib.metadata.metadata("onnxruntime-gpu").get_all("Provides-Extra") or ())


@pytest.mark.parametrize("with_operator", [True, False])
@pytest.mark.parametrize("bundle", ["compact", "half_bundle"], indirect=True)
def test_memory_is_what_was_estimated(
    with_operator: bool,
    bundle: Bundle,
    open_backend: Callable[..., DeviceBackend],
    operator: Path,
    journal: Journal,
    host_gpu: Any,
) -> None:
    """But for cuDNN's workspaces. Each stage keeps its memory, so one stage's need isn't enough."""
    journal.take()
    backend = open_backend(bundle, operator if with_operator else None)
    run(backend, bundle, 8)
    kept = {}
    for call in journal.take():
        if call.function == "cudaMalloc":
            kept[call.rest[0]] = int(call.rest[1])
        elif call.function == "cudaFree":
            kept.pop(call.rest[0], None)
    taken = sum(kept.values()) + host_gpu.bytes
    estimated = Estimator(bundle, "cuda", 4)(SIZE, arenas=True).total
    assert 0.9 < taken / estimated < RESERVE["cuda"]
