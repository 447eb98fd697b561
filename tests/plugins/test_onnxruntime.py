"""The operator as a custom operator of ONNX Runtime, against its ONNX function."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper
from tests.needs import missing

from zsm.engine import Bundle, Runtime
from zsm.plugins import onnxruntime_library
from zsm.plugins.operator import make_portable

Array = NDArray[Any]


# Before the other fixtures, which export bundles.
pytestmark = pytest.mark.usefixtures("adapter")


@pytest.fixture(scope="session")
def adapter(built: Path) -> None:
    if not (built / "lib" / "libzsm_onnxruntime.so").exists():
        missing("onnxruntime-headers", "built without ONNX Runtime's headers; set ZSM_ONNXRUNTIME_INCLUDE_DIR")


@pytest.fixture
def library(libraries: Path) -> Path:
    path = onnxruntime_library()
    assert path is not None
    assert path.parent == libraries
    return path


def session(model: onnx.ModelProto, library: Path | None) -> ort.InferenceSession:
    """A session with the custom operator, or, without a library, with the ONNX function."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if library:
        options.register_custom_ops_library(str(library))
        assert not model.functions
    else:
        model = make_portable(onnx.ModelProto.FromString(model.SerializeToString()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def operator(dtype: Any, channels: int, **attributes: Any) -> onnx.ModelProto:
    given: dict[str, Any] = {
        "kernel_shape": [3, 3],
        "strides": [1, 1],
        "pads": [1] * 4,
        "dilations": [1, 1],
        "group": 1,
    }
    given |= {"offset_group": 2, "plugin_version": "1", "plugin_namespace": "zsm"} | attributes
    names = ["x", "offset_mask", "weight", "bias"]
    node = helper.make_node("DeformConv2d", names, ["y"], domain="zsm", **given)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ranks = (4, 4, 4, 1)
    infos = [
        helper.make_tensor_value_info(name, element, [f"{name}{i}" for i in range(rank)])
        for name, rank in zip(names, ranks, strict=True)
    ]
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", element, None)])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("zsm", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def inputs(dtype: Any, channels: int, size: tuple[int, int] = (13, 21)) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    shapes = {"x": (2, channels, *size), "offset_mask": (2, 54, *size), "weight": (6, channels, 3, 3), "bias": (6,)}
    tensors = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    tensors["weight"] /= (9 * channels) ** 0.5
    return {name: tensor.astype(dtype) for name, tensor in tensors.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 5e-3)])
def test_matches_the_onnx_function(library: Path, dtype: Any, tolerance: float) -> None:
    model, feed = operator(dtype, 8), inputs(dtype, 8)
    (ours,) = session(model, library).run(None, feed)
    (function,) = session(model, None).run(None, feed)
    assert ours.dtype == function.dtype == dtype
    np.testing.assert_allclose(ours.astype(np.float32), function.astype(np.float32), atol=tolerance)


def test_several_sessions_at_once(library: Path) -> None:
    model, feed = operator(np.float32, 8), inputs(np.float32, 8)
    first, second = session(model, library), session(model, library)
    (a,) = first.run(None, feed)
    del first
    (b,) = second.run(None, feed)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"strides": [0, 1]}, "stride of the height is 0"),
        ({"pads": [1, 1]}, r"pads \(1,1\) must have 4 values"),
        ({"offset_group": 0}, "offset_group is 0"),
    ],
)
def test_invalid_attributes_are_rejected(library: Path, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        session(operator(np.float32, 8, **attributes), library)


def test_invalid_shapes_are_rejected(library: Path) -> None:
    feed = inputs(np.float32, 8)
    feed["offset_mask"] = feed["offset_mask"][:, :53]
    with pytest.raises(Exception, match=r"offset_mask is \(2,53,13,21\), must be \(2,54,13,21\)"):
        session(operator(np.float32, 8), library).run(None, feed)


def test_empty_batch(library: Path) -> None:
    feed = inputs(np.float32, 8)
    feed |= {name: feed[name][:0] for name in ("x", "offset_mask")}
    (y,) = session(operator(np.float32, 8), library).run(None, feed)
    assert y.shape == (0, 6, 13, 21)


@pytest.mark.parametrize("stage", ["interpolate", "propagate"])
def test_stages_of_the_network(library: Path, tiny_bundle: Path, stage: str) -> None:
    model = onnx.load_from_string(Bundle(tiny_bundle).read(stage))
    plugged, portable = session(model, library), session(model, None)
    rng = np.random.default_rng(6)
    sizes = {"H": 24, "W": 32, "H/2": 12, "W/2": 16, "H/4": 6, "W/4": 8}
    feed = {
        tensor.name: rng.standard_normal(
            [d if isinstance(d, int) else sizes.get(d, 2) for d in tensor.shape], np.float32
        )
        for tensor in plugged.get_inputs()
    }
    for ours, function in zip(plugged.run(None, feed), portable.run(None, feed), strict=True):
        np.testing.assert_allclose(ours, function, atol=1e-5)


def test_the_runtime_uses_the_library(
    library: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = np.random.default_rng(7).random((3, 22, 30, 3), np.float32)
    with Runtime(tiny_bundle) as rt:
        assert str(library) in rt.describe()["operator"]
        ours = rt(clip)
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path))
    with Runtime(tiny_bundle) as rt:
        assert "function" in rt.describe()["operator"]
        np.testing.assert_allclose(ours, rt(clip), atol=2e-5)


@pytest.mark.parametrize("case", ["n2_32x48", "n4_45x61"])
def test_the_whole_network_against_the_reference(
    library: Path, full_bundle: Path, golden: Callable[[str], tuple[Array, Array]], case: str
) -> None:
    clip, expected = golden(case)
    with Runtime(full_bundle) as rt:
        assert rt.describe()["operator"] == str(library)
        assert np.abs(rt(clip) - expected).max() <= 2e-5
