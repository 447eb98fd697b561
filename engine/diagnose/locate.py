"""Find the first layer of a stage whose output differs on a device.

Polygraphy runs the graphs with every layer's output marked as a graph output. That prevents fusion, so a difference
that only fusion causes isn't found.
"""

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from zsm.engine.backends import uint8
from zsm.engine.bundle.manifest import OUTPUT_SIZE, Bundle
from zsm.engine.devices import ChosenPrecision, Device, OpenOptions
from zsm.engine.diagnose.verify import Comparison, compare, limit_for
from zsm.errors import BackendError
from zsm.plugins.operator import make_portable

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A node of a stage's graph whose output differs, and by how much."""

    name: str
    operation: str
    comparison: Comparison


def locate(
    bundle: Bundle,
    stage: str,
    inputs: Mapping[str, Array],
    device: str,
    backend: str,
    *,
    precision: ChosenPrecision = "bundle",
) -> Layer | None:
    """The first layer of a stage, in graph order, whose output differs from ONNX Runtime's on the CPU, or None.

    `backend` is `onnxruntime`, `openvino` or `tensorrt`; of these, OpenVINO can have another `precision` than the
    bundle. On ONNX Runtime, its own deformable convolution takes the place of zsm's, which isn't examined.

    Raises BackendError without Polygraphy, or without the plugin.
    """
    from zsm.engine.backends.gpu.onnxruntime import CUDA
    from zsm.engine.backends.onnxruntime import CPU

    where = Device.parse(device)
    content = bundle.read(stage)
    model, reference = onnx.load_from_string(content), onnx.load_from_string(content)
    if where.kind != "cuda":
        uint8.rewrite(reference)  # as both backends for such devices do
    with contextlib.redirect_stdout(sys.stderr):  # Polygraphy's log
        expected = _onnxruntime(reference, inputs, CPU, {})
        if backend == "tensorrt":
            found = _tensorrt(model, inputs)
        elif backend == "openvino":
            found = _openvino(bundle, model, inputs, OpenOptions(device=where, precision=precision))
        elif where.kind == "cuda":
            found = _onnxruntime(model, inputs, CUDA, {"device_id": str(where.index), "use_tf32": "0"})
        else:
            found = _onnxruntime(reference, inputs, CPU, {})
    return first_difference(model, expected, found, limit_for(bundle.manifest, precision))


def first_difference(
    model: onnx.ModelProto, expected: Mapping[str, Array], found: Mapping[str, Array], limit: float
) -> Layer | None:
    """The first node whose outputs differ, among the outputs that both runs have."""
    for node in model.graph.node:
        for name in node.output:
            if name in expected and name in found:
                comparison = compare(name, np.asarray(expected[name]), np.asarray(found[name]), limit)
                if not comparison.works:
                    return Layer(name=node.name or name, operation=node.op_type, comparison=comparison)
    return None


def _marked(model: onnx.ModelProto) -> Any:
    """The model with every layer's output marked as a graph output."""
    try:
        from polygraphy import constants
        from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs
    except ImportError as error:
        raise BackendError(f"finding the layer needs Polygraphy ({error}); pip install polygraphy") from error
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    copied.graph.value_info.extend(model.graph.output)  # where Polygraphy looks for the types that TensorRT requires
    return BytesFromOnnx(ModifyOutputs(copied, outputs=constants.MARK_ALL))


def _onnxruntime(
    model: onnx.ModelProto, inputs: Mapping[str, Array], provider: str, settings: dict[str, str]
) -> dict[str, Array]:
    marked = _marked(make_portable(model))
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

    with OnnxrtRunner(SessionFromOnnx(marked, providers=[(provider, settings)])) as runner:
        outputs: dict[str, Array] = runner.infer(dict(inputs))
    return outputs


def _openvino(
    bundle: Bundle, model: onnx.ModelProto, inputs: Mapping[str, Array], options: OpenOptions
) -> dict[str, Array]:
    from zsm.engine.backends.openvino import Compiler
    from zsm.plugins.openvino import infer

    marked = onnx.load_from_string(_marked(model)())
    names = [value.name for value in marked.graph.output]
    results = infer(Compiler(bundle, options).compile("", marked), inputs)
    return {name: results[name] for name in names}


def _tensorrt(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    from zsm.engine.backends.tensorrt import bindings as library

    library.plugin(model.SerializeToString())
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    del stripped.functions[:]
    marked = _marked(stripped)
    from polygraphy.backend.trt import CreateConfig, EngineFromNetwork, NetworkFromOnnxBytes, Profile, TrtRunner

    profile = Profile()
    for name, array in inputs.items():
        values = tuple(array) if name == OUTPUT_SIZE else array.shape
        profile.add(name, min=values, opt=values, max=values)
    network = NetworkFromOnnxBytes(marked, strongly_typed=True)
    with TrtRunner(EngineFromNetwork(network, CreateConfig(tf32=False, profiles=[profile]))) as runner:
        outputs = runner.infer(dict(inputs), copy_outputs_to_host=True)
    return {name: np.asarray(value) for name, value in outputs.items()}
