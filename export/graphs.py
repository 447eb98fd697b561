"""Traces a stage to an ONNX graph."""

import copy
import logging
import re
import warnings
from collections.abc import Mapping
from fractions import Fraction

import onnx
import torch
from onnx import ModelProto
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zsm.engine.bundle.manifest import Precision
from zsm.export.stages import Plane, Stage
from zsm.plugins.operator import OPSET
from zsm.runtime import GRID

TORCH_TYPE = {"fp32": torch.float32, "fp16": torch.float16}


def random_inputs(planes: Mapping[str, Plane], n: int, height: int, width: int, seed: int = 0) -> list[Tensor]:
    """Random tensors in [0, 1) for a stage's inputs, at an LR size of multiples of 4."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(n, plane.channels, int(height * plane.scale), int(width * plane.scale), generator=generator)
        for plane in planes.values()
    ]


def flop_per_pixel(stage: Stage) -> float:
    """Floating-point operations of convolutions (a multiply-add is two) per LR pixel of one frame."""
    size = 4 * GRID
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        stage.module(*random_inputs(stage.inputs, 1, size, size))
    return float(counter.get_total_flops() / size**2)


def trace(stage: Stage, precision: Precision) -> ModelProto:
    """The stage as a checked ONNX model: n, H and W dynamic, one float type throughout, shapes inferred."""
    dtype = TORCH_TYPE[precision]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it mentions every optional package
    examples = tuple(t.to(dtype) for t in random_inputs(stage.inputs, 2, 6 * GRID, 5 * GRID))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            copy.deepcopy(stage.module).to(dtype),
            examples,
            input_names=list(stage.inputs),
            output_names=list(stage.outputs),
            opset_version=OPSET,
            dynamic_shapes=_dynamic_shapes(stage.inputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = _tidy(program.model_proto, stage.name)
    onnx.checker.check_model(model, full_check=True)
    return model


def _dynamic_shapes(planes: Mapping[str, Plane]) -> tuple[tuple[dict[int, object], ...]]:
    n, h, w = torch.export.Dim("n"), torch.export.Dim("h"), torch.export.Dim("w")
    return (tuple({0: n, 2: int(GRID * plane.scale) * h, 3: int(GRID * plane.scale) * w} for plane in planes.values()),)


def _tidy(model: ModelProto, name: str) -> ModelProto:
    """Keep what a reader of the file needs: our names for weights and sizes, and no traces of this machine."""
    graph = model.graph
    graph.name = name
    model.producer_name, model.producer_version = "zsm", ""
    del model.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        node.input[:] = [tensor.removeprefix(_PREFIX) for tensor in node.input]
    for tensor in graph.initializer:
        tensor.name = tensor.name.removeprefix(_PREFIX)
        tensor.doc_string = ""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = value.name.removeprefix(_PREFIX)
        del value.metadata_props[:]
        shape = value.type.tensor_type.shape
        for axis, dim in enumerate(shape.dim):
            if dim.dim_param and axis:
                dim.dim_param = _size_name(dim.dim_param, "CHW"[axis - 1])
    return model


_PREFIX = "module."


def _size_name(expression: str, axis: str) -> str:
    """The exporter's expression of a height or width to ours: `2*s39` to `H/2`, `4*h + 4` to `H+4`."""
    match = re.fullmatch(r"(?:(\d+)\*)?\w+(?: \+ (\d+))?", expression)
    assert match, expression
    scale = Fraction(int(match[1] or 1), GRID)
    size = f"{scale}{axis}" if scale.denominator == 1 else f"{scale.numerator}{axis}/{scale.denominator}"
    return size.removeprefix("1") + (f"+{match[2]}" if match[2] else "")
