"""From engines to frames, with a stand-in for what needs a GPU: loading and executing engines.

It has the rules of TensorRT's that we keep: shapes within the profile, every address and the memory for activations set
before execution. ONNX Runtime computes. test_build.py tests building, with TensorRT's own builder.
"""

import logging
import pickle
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from tests.needs import module

from zsm.engine import Bundle, Runtime
from zsm.engine.backends.gpu import cuda
from zsm.engine.backends.tensorrt import backend as backend
from zsm.engine.backends.tensorrt import bindings as library
from zsm.engine.backends.tensorrt import build as building
from zsm.engine.backends.tensorrt.build import BuildOptions, build_engines, engine_stages, profile_shapes
from zsm.engine.backends.tensorrt.cache import EngineCache
from zsm.engine.bundle.shapes import Size, SizeRange
from zsm.engine.diagnose.profile import profile
from zsm.errors import BackendError
from zsm.plugins.operator import make_portable


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class Layout(Enum):
    LINEAR = 0
    HWC8 = 4


class Builder:
    """In place of build.py's: keeps the graph and the shapes as the engine."""

    built: ClassVar[list[str]] = []
    seconds = 0.0

    def __init__(self, bundle: Bundle, stage: str, options: BuildOptions, *_: Any) -> None:
        self.bundle = bundle
        self.stage = stage
        self.options = options

    def build(self) -> bytes:
        self.built.append(self.stage)
        self.seconds = 1.0
        shapes = profile_shapes(self.bundle.manifest, self.stage, self.options.sizes)
        return pickle.dumps(
            (self.bundle.read(self.stage), {name: (low, high) for name, (low, _, high) in shapes.items()})
        )


class Engine:
    device_memory_size_v2 = 4096
    layout = Layout.LINEAR

    def __init__(self, content: bytes) -> None:
        graph, self.profile = pickle.loads(content)
        model = make_portable(onnx.load_from_string(graph))
        self.session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.inputs = {tensor.name: tensor for tensor in self.session.get_inputs()}
        self.outputs = {tensor.name: tensor for tensor in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, number: int) -> str:
        name: str = self.names[number]
        return name

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name in self.inputs else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        kind: str = (self.inputs | self.outputs)[name].type
        return kind

    def get_tensor_format(self, name: str) -> Layout:
        return self.layout

    def create_execution_context(self, strategy: str) -> "Context":
        assert strategy == "USER_MANAGED"
        return Context(self)


TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}


class Context:
    array_at: Callable[..., Any]
    streams: dict[int, Any]

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory = 0
        self.profiler: Any = None

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.memory = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        low, high = self.engine.profile[name]
        is_size = self.engine.get_tensor_dtype(name) == "tensor(int64)"
        return is_size or all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def values(self) -> dict[str, Any]:
        types = {name: TYPES[self.engine.get_tensor_dtype(name)] for name in self.engine.inputs}
        return {name: self.array_at(self.addresses[name], self.shapes[name], kind) for name, kind in types.items()}

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.addresses]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        found = self.engine.session.run(
            [name], {k: np.zeros_like(v) if v.dtype != np.int64 else v for k, v in self.values().items()}
        )
        shape: tuple[int, ...] = found[0].shape
        return shape

    def execute_async_v3(self, handle: int) -> bool:
        assert self.memory
        values = self.values()
        names = list(self.engine.outputs)
        targets = [
            self.array_at(self.addresses[name], self.get_tensor_shape(name), TYPES[self.engine.get_tensor_dtype(name)])
            for name in names
        ]

        state = dict(self.shapes), self.memory
        recorded = self.streams[handle].recording is not None

        def execute() -> None:
            # A graph may be replayed only while its context is as it was when recorded.
            assert not recorded or state == (self.shapes, self.memory)
            for target, result in zip(targets, self.engine.session.run(names, values), strict=True):
                target[...] = result
            if self.profiler:
                self.profiler.report_layer_time("conv + relu", 0.25)

        self.streams[handle].later(execute)
        return True


@pytest.fixture
def tensorrt(
    host_gpu: Any, host_array_at: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimpleNamespace]:
    """Stands in for the module `tensorrt`, its builder and its GPU."""

    class Base:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    module = SimpleNamespace(
        __version__="11.4.0.106",
        ILogger=Base,
        IProfiler=Base,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=Engine),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED"),
        TensorIOMode=Mode,
        TensorFormat=Layout,
        nptype=TYPES.get,
    )
    Builder.built.clear()
    monkeypatch.setattr(Context, "array_at", staticmethod(host_array_at), raising=False)
    monkeypatch.setattr(Context, "streams", {}, raising=False)
    about = {"index": 0, "name": "Host", "capability": "9.0", "driver": "13.0", "cuda": "13.0"}
    vars(host_gpu).update(about)
    make_stream = host_gpu.stream

    def stream(handle: int | None = None) -> Any:
        made = make_stream(handle)
        Context.streams[made.handle] = made
        return made

    host_gpu.stream = stream
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "tensorrt", lambda: module)
    monkeypatch.setattr(library, "plugin", lambda graph: "build id" * (b"DeformConv2d" in graph))
    monkeypatch.setattr(backend, "Gpu", lambda index: host_gpu)
    monkeypatch.setattr(building, "Gpu", lambda index: host_gpu)
    monkeypatch.setattr(building, "_Builder", Builder)
    monkeypatch.setattr(cuda, "Gpu", lambda index: host_gpu)
    library.logger.cache_clear()
    yield module
    library.logger.cache_clear()


RANGE = BuildOptions(sizes=SizeRange(min=Size(4, 4), opt=Size(9, 6), max=Size(16, 16)))


def clip_of(height: int = 6, width: int = 9) -> Any:
    return np.random.default_rng(0).integers(0, 256, (5, height, width, 3), np.uint8)


def test_engines_are_built_once_and_give_the_same_frames(tiny_bundle: Path, tensorrt: Any, host_gpu: Any) -> None:
    said: list[float] = []

    def listen(progress: Any) -> None:
        said.append(progress.fraction)

    built = build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, listen)
    assert Builder.built == engine_stages(Bundle(tiny_bundle).manifest)
    assert said[-1] == 1
    assert all(each.seconds > 0 for each in built)
    again = build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, listen)
    assert [(each.digest, each.seconds) for each in again] == [(each.digest, 0) for each in built]
    with Runtime(tiny_bundle, device="cuda:0", backend="tensorrt") as rt, Runtime(tiny_bundle) as cpu:
        for clip in (clip_of(), clip_of(16, 5), (clip_of() * 256.0).astype(np.uint16)):
            np.testing.assert_array_equal(rt(clip), cpu(clip))
        assert rt.describe()["engines"]["propagate"]["sizes"]["max"] == "16x16"
    assert host_gpu.used == {}
    assert len(Builder.built) == 8


def test_one_engine_serves_several_sizes_and_their_graphs(tiny_bundle: Path, tensorrt: Any, host_gpu: Any) -> None:
    build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, lambda progress: None)
    small, large = clip_of(4, 4), clip_of(16, 15)
    with (
        Runtime(tiny_bundle, device="cuda:0", backend="tensorrt", cuda_graphs=True) as rt,
        Runtime(tiny_bundle, threads=1) as cpu,
    ):
        assert rt.describe()["cuda_graphs"] is True
        expected = cpu(small), cpu(large)
        for _ in range(2):
            np.testing.assert_array_equal(rt(small), expected[0])
            np.testing.assert_array_equal(rt(large), expected[1])
        both = list(zip(rt.stream(small), rt.stream(large), strict=True))
        for number, clip in enumerate(expected):
            np.testing.assert_array_equal(np.stack([frames[number] for frames in both]), clip)
        assert host_gpu.streams[0].launches > 50
    assert len(Builder.built) == 8
    assert host_gpu.used == {}


def test_a_missing_engine_names_the_command(tiny_bundle: Path, tensorrt: Any) -> None:
    build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, lambda progress: None)
    with (
        Runtime(tiny_bundle, device="cuda:0", backend="tensorrt") as rt,
        pytest.raises(BackendError, match=rf"zsm build {tiny_bundle} --device cuda:0 --size 20x6"),
    ):
        rt(clip_of(6, 20))


def test_missing_engines_are_built_on_request(
    tiny_bundle: Path, tensorrt: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "zsm"),
        Runtime(tiny_bundle, device="cuda:0", backend="tensorrt", build=True) as rt,
    ):
        rt(clip_of())
        rt(clip_of())
    assert caplog.text.count("building TensorRT engines for 9x6 on Host") == 1
    assert {entry.key["sizes"]["max"] for entry in EngineCache().entries()} == {"9x6"}


def test_another_driver_needs_other_engines(tiny_bundle: Path, tensorrt: Any, host_gpu: Any) -> None:
    build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, lambda progress: None)
    host_gpu.driver = "13.1"
    with (
        Runtime(tiny_bundle, device="cuda:0", backend="tensorrt") as rt,
        pytest.raises(BackendError, match="there is no TensorRT engine of ingest_uint8"),
    ):
        rt(clip_of())


def test_a_damaged_engine_is_rebuilt(
    tiny_bundle: Path, tensorrt: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (first, *_) = build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, lambda progress: None)
    (tmp_path / "engines" / f"{first.digest}.engine").write_bytes(b"nonsense")
    with (
        Runtime(tiny_bundle, device="cuda:0", backend="tensorrt") as rt,
        pytest.raises(BackendError, match="there is no TensorRT engine of ingest_uint8 for 9x6"),
    ):
        rt(clip_of())
    assert "is damaged" in caplog.text
    build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, lambda progress: None)
    assert len(Builder.built) == 9
    with Runtime(tiny_bundle, device="cuda:0", backend="tensorrt") as rt:
        assert rt(clip_of()).shape == (9, 24, 36, 3)


def test_an_engine_in_another_layout_is_refused(
    tiny_bundle: Path, tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, lambda progress: None)
    monkeypatch.setattr(Engine, "layout", Layout.HWC8)
    with (
        Runtime(tiny_bundle, device="cuda:0", backend="tensorrt") as rt,
        pytest.raises(
            BackendError, match=r"stage ingest_uint8 has pixels in the format HWC8, must be LINEAR.*zsm build"
        ),
    ):
        rt(clip_of())


def test_layers_are_measured(tiny_bundle: Path, tensorrt: Any, host_gpu: Any) -> None:
    times = profile(Bundle(tiny_bundle), "cuda:0", "tensorrt", Size(9, 6))
    assert {time.stage for time in times} == set(engine_stages(Bundle(tiny_bundle).manifest))
    assert {(time.layer, time.milliseconds) for time in times} == {("conv + relu", 0.25)}


@pytest.mark.gpu
def test_on_the_gpu(gpu: cuda.Gpu, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without graphs, recorded, and replayed; with two sizes of one engine; and with frames on the GPU."""
    module("tensorrt", "tensorrt", "pip install tensorrt")
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path))
    sizes = SizeRange(min=Size(32, 32), opt=Size(45, 34), max=Size(64, 64))
    build_engines(Bundle(tiny_bundle), "cuda:0", BuildOptions(sizes=sizes), lambda progress: None)
    with Runtime(tiny_bundle, device="cuda:0", backend="tensorrt", cuda_graphs=True) as rt, Runtime(tiny_bundle) as cpu:
        for height, width in ((34, 45), (34, 45), (60, 33), (34, 45)):
            clip = clip_of(height, width)
            expected = cpu(clip).astype(int)
            np.testing.assert_allclose(rt(clip).astype(int), expected, atol=1)
            if torch.cuda.is_available():
                found = [torch.utils.dlpack.from_dlpack(f).cpu() for f in rt.stream(torch.from_numpy(clip).cuda())]
                np.testing.assert_allclose(np.stack(found).astype(int), expected, atol=1)
