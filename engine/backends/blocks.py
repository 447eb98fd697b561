"""The reconstruction of large frames in blocks, so that its maps at 4x the size never exist for the whole frame.

The stage is cut in two where the feature last has the input's size. What follows reaches over a few pixels only, so a
block that is read with as many pixels around it gives exactly the whole frame's values.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsm.runtime.network import SCALE
from zsm.runtime.tiles import Span

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = NDArray[Any]

EDGE = 192
"""The largest block's edge, in LR pixels. Of smaller ones, more is computed twice."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A reconstruction stage in two parts."""

    trunk: "ModelProto"
    """At the input's size; its only output is the last feature."""
    tail: "ModelProto"
    """At 2x and 4x; reads that feature, and the neighbours' planes if the network enlarges those."""
    margin: int
    """LR pixels over which the tail reaches."""


def cut(model: "ModelProto") -> Cut | None:
    """Cut a reconstruction stage in two; None if it isn't built as expected."""
    from onnx.utils import Extractor

    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    channels = {value.name: _channels(value) for value in (*graph.value_info, *graph.input)}
    inputs = [value.name for value in graph.input]
    feature = _last_feature(model, makers, channels)
    if feature is None or feature in inputs:
        return None
    neighbours = [name for name in inputs if name.startswith("base")]
    tail_nodes = _between(makers, graph.output[0].name, {feature, *neighbours})
    margin = None if tail_nodes is None else _margin(tail_nodes, graph.output[0].name, model)
    if margin is None:
        return None
    extractor = Extractor(model)
    hidden = [name for name in inputs if name not in neighbours]
    return Cut(
        trunk=extractor.extract_model(hidden, [feature]),
        tail=extractor.extract_model([feature, *neighbours], [graph.output[0].name]),
        margin=margin,
    )


def _channels(value: Any) -> int:
    shape = value.type.tensor_type.shape.dim
    return int(shape[1].dim_value) if len(shape) == 4 else 0


def _last_feature(model: "ModelProto", makers: Mapping[str, "NodeProto"], channels: Mapping[str, int]) -> str | None:
    """The input of the first convolution that makes room for larger maps."""
    hidden = model.graph.input[0].name
    width = channels[hidden]
    for node in model.graph.node:
        if node.op_type == "DepthToSpace" and channels.get(unquantised(node.input[0], makers)) == SCALE * width:
            name = str(node.input[0])
            while channels.get(name) != width:
                if name not in makers:
                    return None
                name = str(makers[name].input[0])
            return name
    return None


def unquantised(name: str, makers: Mapping[str, "NodeProto"]) -> str:
    """The tensor that a pair of QuantizeLinear and DequantizeLinear rounds, or the tensor itself."""
    while name in makers and makers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
        name = makers[name].input[0]
    return name


def _between(makers: Mapping[str, "NodeProto"], output: str, ends: set[str]) -> "list[NodeProto] | None":
    """The nodes that lead from `ends` to `output`, last first; None if another input of the graph does too."""
    found: list[NodeProto] = []
    waiting, seen = [output], set(ends)
    while waiting:
        name = waiting.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        if name in makers:
            found.append(makers[name])
            waiting += makers[name].input
        elif name in ("forward", "backward"):
            return None
    return found


POINTWISE = {
    *("Add", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Identity", "LeakyRelu", "Mul", "QuantizeLinear"),
    *("Relu", "Sub"),
}
"""Operations that reach over no pixels."""


def _margin(nodes: "list[NodeProto]", output: str, model: "ModelProto") -> int | None:
    """The LR pixels over which nodes reach; None if one of them isn't known."""
    kernels = {tensor.name: max(tensor.dims[2:]) for tensor in model.graph.initializer if len(tensor.dims) == 4}
    makers = {name: node for node in nodes for name in node.output}
    reach = {output: Fraction(0)}
    pixels = {output: SCALE}  # per LR pixel along an axis
    for node in sorted(nodes, key=list(model.graph.node).index, reverse=True):
        far, scale = reach[node.output[0]], pixels[node.output[0]]
        if node.op_type == "DepthToSpace":
            scale //= next(attribute.i for attribute in node.attribute if attribute.name == "blocksize")
        elif node.op_type == "Conv":
            weight = node.input[1] if node.input[1] in kernels else makers[node.input[1]].input[0]
            far += Fraction(kernels[weight] // 2, scale)
        elif node.op_type not in POINTWISE | {"Pad"}:
            return None
        for name in node.input:
            reach[name] = max(reach.get(name, far), far)
            pixels[name] = scale
    return math.ceil(max(reach.values()))


def spans(extent: int, margin: int) -> list[Span]:
    """Divide an axis of `extent` LR pixels into blocks of at most `EDGE`, all about as long."""
    count = -(-extent // EDGE)
    bounds = [extent * number // count for number in range(count + 1)]
    return [
        Span(keep=range(begin, end), read=range(max(0, begin - margin), min(extent, end + margin)))
        for begin, end in pairwise(bounds)
    ]


def run(tail: Callable[[Mapping[str, Array]], Array], inputs: Mapping[str, Array], margin: int) -> Array:
    """Apply the tail to inputs (n,c,H,W) block by block; returns (n,3,4H,4W)."""
    batch, _, height, width = next(iter(inputs.values())).shape
    rows, columns = spans(height, margin), spans(width, margin)
    if len(rows) == len(columns) == 1:
        return tail(inputs)
    whole: Array | None = None
    for down, across in product(rows, columns):
        area = (..., down.source, across.source)
        made = tail({name: np.ascontiguousarray(array[area]) for name, array in inputs.items()})
        if whole is None:
            whole = np.empty((batch, made.shape[1], SCALE * height, SCALE * width), made.dtype)
        whole[..., down.target, across.target] = made[..., down.kept, across.kept]
    assert whole is not None
    return whole
