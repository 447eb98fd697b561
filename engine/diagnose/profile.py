"""Time per layer, as the inference library itself measures it."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from zsm.engine.backends import choose_backend
from zsm.engine.bundle.manifest import OUTPUT_SIZE, Bundle
from zsm.engine.bundle.shapes import Size, input_shapes
from zsm.engine.devices import ChosenPrecision, Device, OpenOptions
from zsm.errors import BackendError
from zsm.plugins import onnxruntime_library

REPEATS = 10


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """A layer of a stage and the time of one execution."""

    stage: str
    layer: str
    operation: str
    """The ONNX operator, or OpenVINO's; empty for TensorRT, whose layers are fused from several."""
    milliseconds: float


def profile(
    bundle: Bundle, device: str, backend: str, size: Size, precision: ChosenPrecision = "bundle"
) -> list[LayerTime]:
    """Time every layer of every stage on random inputs; within a stage, the slowest comes first.

    Raises BackendError for ONNX Runtime on a GPU: its profiler times kernel launches, not kernels.
    """
    where = Device.parse(device)
    options = OpenOptions(device=where, precision=precision)
    name, _ = choose_backend(bundle, backend, options)
    if name == "tensorrt":
        times = _tensorrt(bundle, where, size)
    elif name == "openvino":
        times = _openvino(bundle, options, size)
    elif where.kind == "cuda":
        raise BackendError(
            "ONNX Runtime's profiler doesn't time what a GPU executes; use --backend tensorrt, or trace with nsys "
            "(docs/profiling.md)"
        )
    else:
        times = _onnxruntime(bundle, size)
    order = {stage: number for number, stage in enumerate(bundle.manifest.stages)}
    return sorted(times, key=lambda each: (order[each.stage], -each.milliseconds))


def _inputs(bundle: Bundle, stage: str, size: Size) -> dict[str, NDArray[Any]]:
    chance = np.random.default_rng(0)
    shapes = input_shapes(bundle.manifest, stage, size)
    return {
        tensor.name: np.array(shapes[tensor.name], np.int64)
        if tensor.name == OUTPUT_SIZE
        else chance.random(shapes[tensor.name], np.float32).astype(tensor.dtype)
        for tensor in bundle.manifest.stages[stage].inputs
    }


def _onnxruntime(bundle: Bundle, size: Size) -> Iterator[LayerTime]:
    from zsm.engine.backends.onnxruntime import CPU, open_session, session_options

    for stage in bundle.manifest.stages:
        with tempfile.TemporaryDirectory() as folder:
            options = session_options(threads=None)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = open_session(stage, bundle.read(stage), options, onnxruntime_library(), CPU)
            inputs = _inputs(bundle, stage, size)
            for _ in range(REPEATS):
                session.run(None, inputs)
            events = json.loads(Path(session.end_profiling()).read_text())
        nodes = [event for event in events if event["name"].endswith("_kernel_time")]
        spent: dict[tuple[str, str], float] = defaultdict(float)
        for event in nodes:
            layer = event["name"].removesuffix("_kernel_time")
            spent[layer, event["args"]["op_name"]] += event["dur"] / 1000 / REPEATS
        for (layer, operation), milliseconds in spent.items():
            yield LayerTime(stage=stage, layer=layer, operation=operation, milliseconds=milliseconds)


def _openvino(bundle: Bundle, options: OpenOptions, size: Size) -> Iterator[LayerTime]:
    from zsm.engine.backends.openvino import Compiler

    compiler = Compiler(bundle, options)
    for stage in bundle.manifest.stages:
        compiled = compiler.compile(stage, onnx.load_from_string(bundle.read(stage)), PERF_COUNT=True)
        request = compiled.create_infer_request()
        inputs = _inputs(bundle, stage, size)
        request.infer(inputs)
        spent: dict[tuple[str, str], float] = defaultdict(float)
        for _ in range(REPEATS):
            request.infer(inputs)
            for layer in request.profiling_info:
                spent[layer.node_name, layer.node_type] += layer.real_time / timedelta(milliseconds=1) / REPEATS
        for (name, operation), milliseconds in spent.items():
            if milliseconds:  # others were fused into one of these
                yield LayerTime(stage=stage, layer=name, operation=operation, milliseconds=milliseconds)


def _tensorrt(bundle: Bundle, device: Device, size: Size) -> Iterator[LayerTime]:
    from zsm.engine.backends.gpu.backend import DeviceBackend
    from zsm.engine.backends.gpu.cuda import Gpu
    from zsm.engine.backends.tensorrt.backend import Engines

    gpu = Gpu(device.index)
    engines = Engines(bundle, gpu, build=True)
    backend = DeviceBackend(gpu, gpu.stream(), engines)
    session = backend.open(size.height, size.width)
    for stage, executable in engines.load(size).items():
        tensors = {
            name: session.output_size if name == OUTPUT_SIZE else session.from_host(array)
            for name, array in _inputs(bundle, stage, size).items()
        }
        session.run(stage, tensors)
        session.synchronize()
        spent: dict[str, float] = {}
        executable.profile(spent)
        for _ in range(REPEATS):
            session.run(stage, tensors)
            session.synchronize()
        for layer, milliseconds in spent.items():
            yield LayerTime(stage=stage, layer=layer, operation="", milliseconds=milliseconds / REPEATS)
    backend.close()
