"""QuantizeLinear and DequantizeLinear pairs in a stage's graph.

ONNX Runtime's quantiser inserts them: it handles scales per output channel and tensors with several readers, and both
ONNX Runtime and TensorRT fuse the patterns it writes. What it doesn't know is decided here: which operations between
convolutions stay in int8, and that a Relu belongs to the convolution before it.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import ModelProto, NodeProto
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

BETWEEN = ("Add", "Concat", "DepthToSpace", "LeakyRelu")
"""Operations that run in int8 where the tensors on both sides are int8 anyway."""

Ranges = Mapping[str, float]
"""By tensor, the magnitude that its int8 scale maps to 127."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution of a stage."""

    node: str
    block: str
    """The two convolutions of a residual block form one block; every other layer is a block of its own."""


def layers(model: ModelProto) -> list[Layer]:
    """The convolutions of a graph with trained weights, in order; deformable ones take floats and aren't among them."""
    return [
        Layer(node=node.name, block=_block(node.input[1]))
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1].endswith(".weight")
    ]


def _block(weight: str) -> str:
    """`blocks.3.conv1.weight` and `blocks.3.conv2.weight` to `blocks.3`; `head.weight` to `head`."""
    parts = weight.split(".")[:-1]
    return ".".join(parts[:-1] if parts[-1] in ("conv1", "conv2") else parts)


def activations(model: ModelProto) -> set[str]:
    """The tensors that may get a scale."""
    constant = {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", *BETWEEN)]
    return {name for node in nodes for name in (*_data(node), *node.output)} - constant


def quantise(model: ModelProto, convolutions: Collection[str], ranges: Ranges) -> ModelProto:
    """Return the graph with these convolutions, and what lies between them, in int8.

    Weights are int8 with a scale per output channel. Activations are int8 with a scale per tensor and zero point 0.
    """
    if not convolutions:
        return model
    copied = ModelProto()
    copied.CopyFrom(model)
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)  # scales get it too
    quantiser = QDQQuantizer(
        copied,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax, {name: (kind.type(-limit), kind.type(limit)) for name, limit in ranges.items()}
        ),
        nodes_to_quantize=[*convolutions, *_between(model, convolutions)],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", *BETWEEN],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    quantiser.quantize_model()
    _merge_relus(quantiser.model.model)
    quantiser.model.topological_sort()
    quantised: ModelProto = quantiser.model.model
    return quantised


def _between(model: ModelProto, convolutions: Collection[str]) -> list[str]:
    """The operations whose inputs are all int8, and whose outputs are read by an int8 operation."""
    chosen = [node for node in model.graph.node if node.name in convolutions]
    quantised = {name for node in chosen for name in (node.input[0], *node.output)}
    candidates = [node for node in model.graph.node if node.op_type in BETWEEN]
    found: list[NodeProto] = []
    for node in candidates:  # in topological order
        if quantised.issuperset(_data(node)):
            found.append(node)
            quantised.update(node.output)
    needed = {node.input[0] for node in chosen}
    kept = []
    for node in reversed(found):
        if needed.intersection(node.output):
            kept.append(node.name)
            needed.update(_data(node))
    return kept


def _data(node: NodeProto) -> list[str]:
    """A node's inputs without weights."""
    return list(node.input[:1] if node.op_type == "Conv" else node.input)


def _merge_relus(model: ModelProto) -> None:
    """Remove the pair between a convolution and its Relu: libraries fuse the two, and quantise once, after both."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    for relu in graph.node:
        dequantise = makers.get(relu.input[0]) if relu.op_type == "Relu" else None
        if dequantise is None or dequantise.op_type != "DequantizeLinear" or readers[relu.input[0]] > 1:
            continue
        quantise = makers[dequantise.input[0]]
        relu.input[0] = quantise.input[0]
        for node in (dequantise, quantise):
            graph.node.remove(node)
