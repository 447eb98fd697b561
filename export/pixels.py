"""The first and last stage: pixels to planes (`ingest`) and back (`emit`). They have no weights.

They compute in float32 in every bundle: float16 can't represent 65,535, nor all 256 levels once scaled.
"""

import onnx.parser
import onnx.shape_inference
from onnx import ModelProto, TensorProto

from zsm.engine.bundle.manifest import Precision
from zsm.engine.bundle.network import NetworkConfig
from zsm.plugins.operator import OPSET
from zsm.runtime import GRID

PIXEL_TYPES = {"uint8": 255, "uint16": 65535, "float32": 1}
"""Element types of frames, and the value of white."""

_ONNX_TYPE = {"uint8": "uint8", "uint16": "uint16", "float32": "float", "fp32": "float", "fp16": "float16"}
_ONNX_CODE = {
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "float32": TensorProto.FLOAT,
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
}


def _model(graph: str) -> ModelProto:
    header = f'<ir_version: 10, opset_import: ["": {OPSET}], producer_name: "zsm">'
    model = onnx.parser.parse_model(header + graph)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def ingest(pixels: str, precision: Precision, config: NetworkConfig) -> ModelProto:
    """Frames (n,h,w,3) to planes (n,3,H,W) in [0, 1]; H and W are the next multiples of 4.

    Padding at the right and bottom is zero, as in the released network. It repeats the edge for a network with a
    bicubic base, whose output would darken towards the border otherwise.
    """
    mode = "edge" if config.base == "bicubic" else "constant"
    return _model(f"""
ingest ({_ONNX_TYPE[pixels]}[n,h,w,3] pixels) => ({_ONNX_TYPE[precision]}[n,3,H,W] planes)
<
    float white = {{{PIXEL_TYPES[pixels]}}}, float nothing = {{0}},
    int64[1] multiple = {{{GRID}}}, int64[1] almost = {{{GRID - 1}}},
    int64[2] none = {{0, 0}}, int64[2] axes = {{2, 3}}
>
{{
    values = Cast <to = {_ONNX_CODE["float32"]}> (pixels)
    scaled = Div (values, white)
    unpadded = Transpose <perm = [0, 3, 1, 2]> (scaled)
    size = Shape <start = 2> (unpadded)
    reach = Add (size, almost)
    count = Div (reach, multiple)
    wanted = Mul (count, multiple)
    missing = Sub (wanted, size)
    pads = Concat <axis = 0> (none, missing)
    padded = Pad <mode = "{mode}"> (unpadded, pads, nothing, axes)
    planes = Cast <to = {_ONNX_CODE[precision]}> (padded)
}}""")


def emit(pixels: str, precision: Precision) -> ModelProto:
    """Planes (n,3,4H,4W) to frames (n,4h,4w,3), cropped to `size`, which is (4h,4w).

    Integers are clipped to [0, 1], scaled and rounded (half to even); floats stay as they are.
    """
    constants = "int64[2] start = {0, 0}, int64[2] axes = {2, 3}"
    finish = "pixels = Identity (values)"
    if pixels != "float32":
        constants += f", float zero = {{0}}, float one = {{1}}, float white = {{{PIXEL_TYPES[pixels]}}}"
        finish = f"""clipped = Clip (values, zero, one)
    scaled = Mul (clipped, white)
    rounded = Round (scaled)
    pixels = Cast <to = {_ONNX_CODE[pixels]}> (rounded)"""
    return _model(f"""
emit ({_ONNX_TYPE[precision]}[n,3,"4H","4W"] planes, int64[2] size)
=> ({_ONNX_TYPE[pixels]}[n,"4h","4w",3] pixels)
<{constants}>
{{
    cropped = Slice (planes, start, size, axes)
    interleaved = Transpose <perm = [0, 2, 3, 1]> (cropped)
    values = Cast <to = {_ONNX_CODE["float32"]}> (interleaved)
    {finish}
}}""")
