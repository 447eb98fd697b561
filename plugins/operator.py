"""The operator `zsm::DeformConv2d`: its name, its attributes, and its meaning in standard ONNX.

Inputs, all of one element type: `x` (N,C,H,W); `offset_mask` (N,3KG,H,W) for K kernel positions (taps) and G
deformable groups: 2KG offsets as (dy,dx) pairs, then KG mask logits; `weight` (O,C/group,kh,kw); `bias` (O).
Output: `y` (N,O,H',W'). Attributes as in ONNX's `DeformConv`, and the two by which TensorRT finds a plugin.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

DOMAIN = "zsm"
NAME = "DeformConv2d"
VERSION = 1
OPSET = 20
"""The version of the standard operator set in which the function is written."""

_FUNCTION = f"""
<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>
{NAME}
<kernel_shape, strides, pads, dilations, group, offset_group, plugin_version, plugin_namespace>
(x, offset_mask, weight, bias) => (y)
{{
    channels = Shape <start = 1, end = 2> (offset_mask)
    three = Constant <value_ints = [3]> ()
    logits = Div (channels, three)
    offsets = Sub (channels, logits)
    sizes = Concat <axis = 0> (offsets, logits)
    offset, logit = Split <axis = 1> (offset_mask, sizes)
    mask = Sigmoid (logit)
    y = DeformConv <
        kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads,
        dilations: ints = @dilations, group: int = @group, offset_group: int = @offset_group
    > (x, weight, offset, bias, mask)
}}
"""


def function() -> "onnx.FunctionProto":
    """The operator as a model-local function over the standard `DeformConv`, for use without a plugin."""
    import onnx.parser

    return onnx.parser.parse_function(_FUNCTION)


def make_portable(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Add the operator's function to a model, in place, if it uses the operator and lacks the function."""
    used = any((node.domain, node.op_type) == (DOMAIN, NAME) for node in model.graph.node)
    if used and not any(f.domain == DOMAIN for f in model.functions):
        model.functions.append(function())
    return model
