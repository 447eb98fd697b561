"""Int8 activations as uint8, the form for which ONNX Runtime has fast kernels on x86.

Bundles hold int8 with zero point 0, TensorRT's rule. The same numbers are uint8 with zero point 128 at the same scale.
After a Relu no number is negative: with zero point 0 ONNX Runtime folds the Relu into the convolution, and values
beyond the calibrated range are kept, up to twice its magnitude, instead of clipped.
"""

import numpy as np
from onnx import ModelProto, numpy_helper


def rewrite(model: ModelProto) -> None:
    """Change a graph's activations from int8 to uint8, in place; weights stay int8."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        zero_point = constants[node.input[2]]
        value = 0 if makers.get(node.input[0]) == "Relu" else 128
        zero_point.CopyFrom(numpy_helper.from_array(np.array(value, np.uint8), zero_point.name))
