"""From bundle to engines to frames, with a stand-in for TensorRT and the GPU.

It has the names and rules of TensorRT that we use: shapes within the profile, every address and the memory for
activations set before execution. ONNX Runtime computes. Whether TensorRT can build these graphs isn't tested here.
"""

import logging
import pickle
import signal
import weakref
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from zsm.engine.backends.tensorrt.build import BuildOptions, build_engines, engine_stages
from zsm.engine.backends.tensorrt.cache import EngineCache
from zsm.engine.backends.tensorrt.progress import Progress
from zsm.engine.bundle.shapes import Size, SizeRange
from zsm.engine.diagnose.profile import profile
from zsm.errors import BackendError
from zsm.plugins.operator import make_portable


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class Network:
    content = b""
    parser: Any = None


class Parser:
    num_errors = 0

    def __init__(self, network: Network, logger: Any) -> None:
        self.network = network

    def parse(self, content: bytes) -> bool:
        self.network.content = content
        self.network.parser = weakref.ref(self)
        return True


class Profile(dict[str, Any]):
    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self[name] = (low, high)

    set_shape_input = set_shape


class Timing(bytes):
    def serialize(self) -> bytes:
        return self + b"measured "


class Config:
    progress_monitor: Any
    profiling_verbosity: Any

    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.profile = Profile()
        self.timing = Timing()

    def clear_flag(self, flag: str) -> None:
        self.flags.remove(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        assert (pool, size) == ("WORKSPACE", 64 * 2**20)

    def add_optimization_profile(self, profile: Profile) -> None:
        self.profile = profile

    def create_timing_cache(self, content: bytes) -> Timing:
        return Timing(content)

    def set_timing_cache(self, cache: Timing, ignore_mismatch: bool) -> bool:
        self.timing = cache
        return not ignore_mismatch


class Builder:
    built: list[str]

    def __init__(self, logger: Any) -> None:
        pass

    def create_network(self, flags: int) -> Network:
        assert flags == 2
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        config.progress_monitor.phase_start("building", None, 2)
        for step in range(2):
            if not config.progress_monitor.step_complete("building", step):
                return None
        config.progress_monitor.phase_finish("building")
        assert network.parser() is not None  # it owns the weights
        assert config.timing is not None
        model = onnx.load_from_string(network.content)
        self.built.append(f"{model.graph.name} {'tf32' if config.flags else ''}".strip())
        return pickle.dumps((network.content, dict(config.profile)))


class Engine:
    device_memory_size_v2 = 4096

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
    """Stands in for the module `tensorrt` and its GPU."""

    class Base:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    module = SimpleNamespace(
        __version__="11.4.0.106",
        ILogger=Base,
        IProgressMonitor=Base,
        IProfiler=Base,
        Builder=Builder,
        OnnxParser=Parser,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=Engine),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        BuilderFlag=SimpleNamespace(TF32="TF32"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
        ProfilingVerbosity=SimpleNamespace(DETAILED=2),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED"),
        TensorIOMode=Mode,
        nptype=TYPES.get,
    )
    Builder.built = []
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
    monkeypatch.setattr(cuda, "Gpu", lambda index: host_gpu)
    library.logger.cache_clear()
    yield module
    library.logger.cache_clear()


STAGES = ["ingest", "ingest", "extract", "interpolate", "propagate", "reconstruct", "emit", "emit"]
RANGE = BuildOptions(sizes=SizeRange(min=Size(4, 4), opt=Size(9, 6), max=Size(16, 16)))


def clip_of(height: int = 6, width: int = 9) -> Any:
    return np.random.default_rng(0).integers(0, 256, (5, height, width, 3), np.uint8)


def test_engines_are_built_once_and_give_the_same_frames(tiny_bundle: Path, tensorrt: Any, host_gpu: Any) -> None:
    said: list[Progress] = []
    built = build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, said.append)
    assert sorted(Builder.built) == sorted(STAGES)
    assert said[-1].fraction == 1
    assert all(each.seconds > 0 for each in built)
    again = build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, said.append)
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


def test_options_reach_the_builder_and_timings_are_kept(tiny_bundle: Path, tensorrt: Any, tmp_path: Path) -> None:
    options = BuildOptions(sizes=RANGE.sizes, tf32=True, workspace=64)
    build_engines(Bundle(tiny_bundle), "cuda:0", options, lambda progress: None)
    assert all(name.endswith(" tf32") for name in Builder.built)
    assert (tmp_path / "timing" / "Host-9-0-11-4-0-106.cache").read_bytes() == b"measured " * 8


def test_an_interrupted_build_keeps_finished_engines(tiny_bundle: Path, tensorrt: Any) -> None:
    def listen(progress: Progress) -> None:
        if progress.stage == "interpolate":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, listen)
    assert {entry.key["stage"] for entry in EngineCache().entries()} == {"ingest_uint8", "ingest_float32", "extract"}


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
