"""The graphs by the rule of strongly typed networks: apart from casts, no operation mixes float types."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from zsm.engine import Bundle
from zsm.export import Options
from zsm.export.model import Network

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


@pytest.fixture(scope="module")
def half_bundle(tiny_network: Network, export_once: Callable[..., Path]) -> Path:
    return export_once("half", tiny_network, Options(precision="fp16"))


def types(graph: onnx.GraphProto) -> dict[str, int]:
    values = (*graph.input, *graph.output, *graph.value_info)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """Its inputs; of a Resize without the sizes, which the standard wants in float32 and TensorRT reads as numbers."""
    return [name for name in (node.input[:1] if node.op_type == "Resize" else node.input) if name]


@pytest.mark.parametrize(
    "fixture", ["tiny_bundle", pytest.param("half_bundle", marks=pytest.mark.slow), "bicubic_bundle"]
)
def test_no_operation_mixes_float_types(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle = Bundle(request.getfixturevalue(fixture))
    for stage in bundle.manifest.stages:
        model = onnx.load_from_string(bundle.read(stage))
        known = types(model.graph)
        seen = set()
        for node in model.graph.node:
            used = {known[name] for name in (*data_inputs(node), *node.output)} & FLOATS
            assert node.op_type == "Cast" or len(used) <= 1, (stage, node.name)
            seen |= used
        if not stage.startswith(("ingest", "emit")):
            wanted = TensorProto.FLOAT16 if bundle.manifest.precision == "fp16" else TensorProto.FLOAT
            assert seen == {wanted}, stage


def test_a_mixture_would_be_found(tiny_bundle: Path) -> None:
    model = onnx.load_from_string(Bundle(tiny_bundle).read("extract"))
    known = types(model.graph)
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    known[node.input[1]] = TensorProto.FLOAT16
    assert len({known[name] for name in data_inputs(node)} & FLOATS) == 2
