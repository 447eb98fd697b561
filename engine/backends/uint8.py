"""Int8 graphs in the form for which CPU libraries have fast and correct kernels on x86.

Bundles hold int8 activations with zero point 0, TensorRT's rule. The same numbers are uint8 with zero point 128 at the
same scale; ONNX Runtime is slow on the int8 form, and OpenVINO wrong: its low-precision passes move the quantisation of
a concatenation to the concatenation's inputs, and there round signed numbers to as many steps as the range has whole
numbers (2026.4: a range of +-1 keeps -1, 0 and 1).

After a Relu no number is negative: with zero point 0 ONNX Runtime folds the Relu into the convolution, and values
beyond the calibrated range are kept, up to twice its magnitude, instead of clipped.
"""

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from zsm.engine import host


def rewrite(model: ModelProto) -> None:
    """Change a graph's activations from int8 to uint8, in place; weights stay int8.

    On a processor whose kernels add pairs of products in 16 bits, weights are rounded to 7 bits: with 8, sums overflow.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        zero_point = constants[node.input[2]]
        value = 0 if makers.get(node.input[0]) == "Relu" else 128
        zero_point.CopyFrom(numpy_helper.from_array(np.array(value, np.uint8), zero_point.name))
    if host.adds_products_in_16_bits():
        dequantised = [node.input for node in model.graph.node if node.op_type == "DequantizeLinear"]
        for weight, scale in {weight: scale for weight, scale, *_ in dequantised if weight in constants}.items():
            _scale(constants[weight], 0.5)
            _scale(constants[scale], 2)


def _scale(tensor: TensorProto, factor: float) -> None:
    values = numpy_helper.to_array(tensor)
    scaled = values * values.dtype.type(factor) if values.dtype.kind == "f" else np.round(values * factor)
    tensor.CopyFrom(numpy_helper.from_array(scaled.astype(values.dtype), tensor.name))
