"""Bundles in NVIDIA's parser and builder: what TensorRT makes of every stage, and of our options.

No GPU is needed: see tests/tensorrt_rtx.py. What TensorRT says about an engine is read from its log.
"""

import ctypes
import logging
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from tests import tensorrt_rtx
from tests.needs import module

from zsm.cli import main
from zsm.engine import Bundle
from zsm.engine.backends.tensorrt import bindings as library
from zsm.engine.backends.tensorrt import build as building
from zsm.engine.backends.tensorrt.build import BuildOptions, build_missing, engine_stages, profile_shapes
from zsm.engine.backends.tensorrt.progress import Progress
from zsm.engine.bundle.manifest import OUTPUT_SIZE, included
from zsm.engine.bundle.shapes import Size, SizeRange, input_shapes
from zsm.engine.diagnose.locate import locate
from zsm.errors import BackendError
from zsm.export import Options
from zsm.export.int8 import graphs
from zsm.export.model import checkpoint
from zsm.plugins.operator import NAME

pytestmark = pytest.mark.tensorrt

GPU: Any = SimpleNamespace(name="none", capability="9.0", driver="13.0", cuda="13.0")
"""What engines are cached under; they are for any GPU."""

ODD = SizeRange.only(Size(45, 33))
RANGE = SizeRange(min=Size(33, 31), opt=Size(45, 34), max=Size(96, 64))

TYPES = {"uint8": "UInt8", "float32": "Float", "float16": "Half", "int64": "Int64"}
"""Our names of types, and TensorRT's."""


@dataclass(frozen=True)
class Engine:
    """What TensorRT says about an engine: its layers, a line each, and by name its inputs and outputs."""

    layers: list[str]
    tensors: dict[str, str]

    def count(self, kind: str, dtype: str) -> int:
        """The layers of a kind whose inputs have this type."""
        found = [line for line in self.layers if f"LayerType: {kind}," in line]
        types = (re.findall(r"Datatype: (\w+)", line.partition("Constants:")[0]) for line in found)
        return sum(set(each) == {dtype} for each in types)


Build = Callable[..., dict[str, Engine]]


@pytest.fixture
def build(
    tensorrt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Build:
    """Builds a bundle's engines and returns what TensorRT says about them, by stage."""
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path / "cache"))

    def run(bundle: Bundle, sizes: SizeRange, **options: Any) -> dict[str, Engine]:
        caplog.clear()
        listener = options.pop("listener", lambda progress: None)
        with caplog.at_level(logging.DEBUG, "zsm.tensorrt"):
            build_missing(bundle, GPU, BuildOptions(sizes=sizes, **options), listener)
        said = [parse(message) for message in caplog.messages if message.startswith("Layers:")]
        return dict(zip(engine_stages(bundle.manifest), said, strict=True))

    return run


def parse(message: str) -> Engine:
    layers, _, tensors = message.partition("I/O Tensors:")
    return Engine(
        layers=layers.splitlines()[1:],
        tensors={found[1]: found[0] for found in re.finditer(r"Name: (\w+), IOMode.*", tensors)},
    )


class Edited(Bundle):
    """A bundle whose graphs between the pixels are changed when they are read."""

    def __init__(self, path: Path, edit: Callable[[ModelProto], ModelProto]) -> None:
        super().__init__(path)
        self._edit = edit

    def read(self, name: str) -> bytes:
        content = super().read(name)
        if name.startswith(("ingest", "emit")):
            return content
        changed: bytes = self._edit(onnx.load_from_string(content)).SerializeToString()
        return changed


@pytest.fixture(scope="session")
def compact() -> Path:
    return included()["compact"]


@pytest.fixture(scope="session")
def compact_half_bundle(compact: Path, export_once: Callable[..., Path]) -> Path:
    network = checkpoint.load(compact.with_suffix(".safetensors"))
    return export_once("compact-half", network, Options(precision="fp16"))


@pytest.mark.parametrize("sizes", [ODD, RANGE], ids=str)
@pytest.mark.parametrize(
    "fixture",
    ["full_bundle", "wide_half_bundle", "compact", "compact_half_bundle", "tiny_bundle", "bicubic_bundle"],
)
def test_every_stage_is_built_as_the_manifest_says(
    fixture: str, sizes: SizeRange, build: Build, request: pytest.FixtureRequest
) -> None:
    """And every deformable convolution is our plugin, even in `full_bundle`, whose files hold functions of its name."""
    bundle = Bundle(request.getfixturevalue(fixture))
    dtype = {"fp32": "Float", "fp16": "Half"}[bundle.manifest.precision]
    for stage, engine in build(bundle, sizes).items():
        spec = bundle.manifest.stages[stage]
        shapes = {**profile_shapes(bundle.manifest, stage, sizes), OUTPUT_SIZE: ((2,),) * 3}
        assert engine.tensors.keys() == {tensor.name for tensor in (*spec.inputs, *spec.outputs)}
        for tensor in (*spec.inputs, *spec.outputs):
            said = engine.tensors[tensor.name]
            assert f"DataType: {TYPES[tensor.dtype]}," in said
            assert "(kLINEAR)" in said
            assert ("Location: Host" in said) == (tensor.name == OUTPUT_SIZE)
        for tensor in spec.inputs:
            ranges = re.findall(r"(?:Min|Opt|Max)Shape: \[([\d,]+)\]", engine.tensors[tensor.name])
            assert tuple(tuple(map(int, each.split(","))) for each in ranges) == shapes[tensor.name]
        nodes = onnx.load_from_string(bundle.read(stage)).graph.node
        assert engine.count("custom_layer", dtype) == sum(node.op_type == NAME for node in nodes)


@pytest.mark.parametrize("fixture", ["compact", "wide_half_bundle"])
def test_int8_convolutions_run_in_int8(fixture: str, build: Build, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(fixture)

    def quantised(model: ModelProto) -> ModelProto:
        convolutions = [layer.node for layer in graphs.layers(model)]
        return graphs.quantise(model, convolutions, dict.fromkeys(graphs.activations(model), 4.0))

    for stage, engine in build(Edited(path, quantised), ODD).items():
        convolutions = graphs.layers(onnx.load_from_string(Bundle(path).read(stage)))
        assert engine.count("correlation", "Int8") == len(convolutions), stage


@pytest.fixture
def take_trace(tensorrt: ModuleType, libraries: Path) -> Callable[[], list[str]]:
    """Returns the events that the plugins in the namespace `traced` recorded since the last call (native/trace.cc)."""
    library = libraries / "rtx" / "libtrace.so"
    tensorrt.get_plugin_registry().load_library(str(library))
    take = ctypes.CDLL(str(library)).take_trace
    take.restype = ctypes.c_char_p
    take()
    return lambda: take().decode().splitlines()


def traced(model: ModelProto) -> ModelProto:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "plugin_namespace":
                attribute.s = b"traced"
    return model


@pytest.mark.parametrize(
    ("fixture", "layouts"),
    [
        ("wide_half_bundle", {"float16 linear", "float16 hwc8"}),
        ("compact_half_bundle", {"float16 linear", "float16 hwc8"}),
        ("full_bundle", {"float32 linear"}),
        ("tiny_bundle", {"float32 linear"}),
    ],
)
def test_the_plugin_offers_channels_last_for_fp16(
    fixture: str,
    layouts: set[str],
    build: Build,
    take_trace: Callable[[], list[str]],
    request: pytest.FixtureRequest,
) -> None:
    build(Edited(request.getfixturevalue(fixture), traced), ODD)
    events = take_trace()
    assert [event for event in events if event.startswith("read-ahead")] == []
    accepted: dict[str, set[str]] = {}
    for event in events:
        if found := re.fullmatch(r"query (\d) (.+) yes", event):
            accepted.setdefault(found[1], set()).add(found[2])
    linear = {layout for layout in layouts if layout.endswith("linear")}
    assert accepted == {"0": layouts, "1": layouts, "2": linear, "3": linear, "4": layouts}
    # Then it is configured for each combination: x, offset_mask, weight, bias, output.
    (weights,) = linear
    combinations = {f"configure {each} {each} {weights} {weights} {each}" for each in layouts}
    assert {event for event in events if event.startswith("configure")} == combinations


def test_options_reach_the_builder(
    build: Build, bicubic_bundle: Path, tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[Any] = []
    create = tensorrt.Builder.create_builder_config

    def created(builder: Any) -> Any:
        configs.append(create(builder))
        return configs[-1]

    monkeypatch.setattr(tensorrt.Builder, "create_builder_config", created)
    build(Bundle(bicubic_bundle), ODD)
    build(Bundle(bicubic_bundle), ODD, tf32=True, workspace=64)
    half = len(configs) // 2
    workspace, tf32 = tensorrt.MemoryPoolType.WORKSPACE, tensorrt.BuilderFlag.TF32
    assert [config.get_flag(tf32) for config in configs] == [False] * half + [True] * half
    assert {config.get_memory_pool_limit(workspace) for config in configs[half:]} == {64 * 2**20}


def test_all_inputs_and_outputs_are_asked_for_in_the_linear_layout(
    build: Build, bicubic_bundle: Path, tensorrt: ModuleType
) -> None:
    bundle = Bundle(bicubic_bundle)
    tensorrt_rtx.asked.clear()
    build(bundle, ODD)
    specs = [bundle.manifest.stages[stage] for stage in engine_stages(bundle.manifest)]
    assert sorted(tensorrt_rtx.asked) == sorted(
        (tensor.name, 1 << int(tensorrt.TensorFormat.LINEAR))
        for spec in specs
        for tensor in (*spec.inputs, *spec.outputs)
    )


def test_timings_are_kept_and_unusable_ones_replaced(build: Build, bicubic_bundle: Path, tmp_path: Path) -> None:
    build(Bundle(bicubic_bundle), ODD)
    (file,) = (tmp_path / "cache" / "timing").iterdir()
    content = file.read_bytes()
    assert content
    file.write_bytes(b"nonsense")
    build(Bundle(bicubic_bundle), RANGE)
    assert file.read_bytes() == content  # without a GPU nothing is timed


def test_progress_comes_from_inside_a_build(build: Build, bicubic_bundle: Path) -> None:
    said: list[Progress] = []
    build(Bundle(bicubic_bundle), ODD, listener=said.append)
    fractions = [each.fraction for each in said]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    for stage in engine_stages(Bundle(bicubic_bundle).manifest):
        assert len({each.fraction for each in said if each.stage == stage and each.phase}) > 2, stage


def test_ctrl_c_ends_a_build_and_keeps_finished_engines(build: Build, bicubic_bundle: Path, tmp_path: Path) -> None:
    def listen(progress: Progress) -> None:
        if progress.stage == "extract" and progress.phase:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(Bundle(bicubic_bundle), ODD, listener=listen)
    assert len(list((tmp_path / "cache" / "engines").glob("*.engine"))) == 2  # both kinds of ingest


@pytest.mark.parametrize("stage", ["ingest_uint16", "emit_uint16"])
def test_tensorrt_has_no_16_bit_integers(
    stage: str, build: Build, bicubic_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason why DeviceBackend converts them."""
    monkeypatch.setattr(building, "engine_stages", lambda manifest: [stage])
    with pytest.raises(BackendError, match=f"can't read stage {stage}: "):
        build(Bundle(bicubic_bundle), ODD)


def test_a_graph_that_tensorrt_cannot_read_is_an_error_that_names_the_node(build: Build, bicubic_bundle: Path) -> None:
    def unknown(model: ModelProto) -> ModelProto:
        output = model.graph.output[0].name
        model.graph.node.append(helper.make_node("Nonsense", [output], ["other"], "the_node"))
        model.graph.output[0].name = "other"
        return model

    with pytest.raises(BackendError, match=r"TensorRT 11\..* can't read stage extract: .*\(node the_node\)"):
        build(Edited(bicubic_bundle, unknown), ODD)


def test_too_small_a_workspace_is_one_clear_message(
    build: Build,
    wide_half_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(building, "Gpu", lambda index: GPU)
    library.errors.append("an error of an earlier build")
    assert main(["build", str(wide_half_bundle), "--size", "480x270", "--workspace", "16"]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert re.search(r"can't build stage \w+ in 16 MiB; give a larger --workspace, or none: ", message)
    assert "earlier build" not in message
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_locate_marks_every_output_so_that_tensorrt_reads_the_graph(
    tensorrt: ModuleType, compact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polygraphy = module("polygraphy.backend.trt", "polygraphy", "pip install polygraphy")
    outputs = []

    class Reader:
        """In place of Polygraphy's runner, which needs a GPU: only reads the network."""

        def __init__(self, network: Callable[[], tuple[Any, ...]]) -> None:
            self.network = network

        def __enter__(self) -> "Reader":
            _builder, network, _parser = self.network()
            outputs.append(network.num_outputs)
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def infer(self, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(polygraphy, "EngineFromNetwork", lambda network, config: network)
    monkeypatch.setattr(polygraphy, "TrtRunner", Reader)
    bundle = Bundle(compact)
    stages = engine_stages(bundle.manifest)
    for stage in stages:
        shapes = input_shapes(bundle.manifest, stage, Size(12, 8))
        inputs = {tensor.name: np.ones(shapes[tensor.name], tensor.dtype) for tensor in bundle.stage(stage).inputs}
        if OUTPUT_SIZE in inputs:
            inputs[OUTPUT_SIZE] = np.array([32, 48])
        assert locate(bundle, stage, inputs, "cuda:0", "tensorrt") is None
    nodes = (onnx.load_from_string(bundle.read(stage)).graph.node for stage in stages)
    assert outputs == [sum(len(node.output) for node in each) for each in nodes]
