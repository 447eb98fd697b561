"""The CPU kernels against ONNX Runtime's DeformConv, a float64 reference, and properties of the operator."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from zsm.errors import PluginError
from zsm.plugins.native import Array, Attributes, Core

ZSM = Attributes(offset_group=8)


def random_inputs(
    seed: int, a: Attributes, size: tuple[int, ...], outputs: int, reach: float = 2, dtype: Any = np.float32
) -> tuple[Array, ...]:
    """x (N,C,H,W) of that size, offset_mask, weight, bias; offsets of `reach` pixels."""
    rng = np.random.default_rng(seed)
    height, width = (
        (size[2 + i] + a.pads[i] + a.pads[2 + i] - a.dilations[i] * (a.kernel_shape[i] - 1) - 1) // a.strides[i] + 1
        for i in (0, 1)
    )
    raw = 3 * a.offset_group * a.kernel_shape[0] * a.kernel_shape[1]
    depth = size[1] // a.group
    shapes = (size, (size[0], raw, height, width), (outputs, depth, *a.kernel_shape), (outputs,))
    x, offset_mask, weight, bias = (rng.standard_normal(shape) for shape in shapes)
    offset_mask[:, : raw // 3 * 2] *= reach
    weight /= (depth * a.kernel_shape[0] * a.kernel_shape[1]) ** 0.5
    return tuple(tensor.astype(dtype) for tensor in (x, offset_mask, weight, bias))


def onnxruntime_deform_conv(a: Attributes, x: Array, offset_mask: Array, weight: Array, bias: Array) -> Array:
    offsets = offset_mask.shape[1] // 3 * 2
    feed = {"x": x, "w": weight, "o": offset_mask[:, :offsets], "b": bias}
    feed["m"] = 1 / (1 + np.exp(-offset_mask[:, offsets:]))
    attributes = {name: getattr(a, name) for name in a.__dataclass_fields__}
    node = helper.make_node("DeformConv", list(feed), ["y"], **attributes)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feed.items()]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", infos, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, feed)
    return np.asarray(y)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Attributes, tuple[Array, ...]]:
    group, offset_group = draw(st.sampled_from([(1, 1), (1, 2), (1, 8), (2, 1), (2, 4), (3, 2)]))
    channels = np.lcm(group, offset_group) * draw(st.integers(1, 3))
    numbers = st.integers(1, 3)
    a = Attributes(
        kernel_shape=(draw(numbers), draw(numbers)),
        strides=(draw(numbers), draw(numbers)),
        pads=(draw(numbers), draw(numbers), draw(numbers), draw(numbers)),
        dilations=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        group=group,
        offset_group=offset_group,
    )
    size = (draw(st.integers(1, 2)), int(channels), draw(st.integers(3, 12)), draw(st.integers(3, 60)))
    outputs = group * draw(st.integers(1, 20))
    reach = draw(st.sampled_from([0.5, 3, 100]))
    return a, random_inputs(draw(st.integers(0, 99)), a, size, outputs, reach)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_both_kernels_match_onnxruntime(core: Core, problem: tuple[Attributes, tuple[Array, ...]]) -> None:
    a, inputs = problem
    expected = onnxruntime_deform_conv(a, *inputs)
    np.testing.assert_allclose(core.reference(a, *inputs), expected, atol=1e-5)
    np.testing.assert_allclose(core.cpu(a, *inputs), expected, atol=1e-5)


def test_the_networks_shape_matches_onnxruntime(core: Core) -> None:
    inputs = random_inputs(0, ZSM, (2, 64, 37, 53), 64)
    np.testing.assert_allclose(core.cpu(ZSM, *inputs), onnxruntime_deform_conv(ZSM, *inputs), atol=1e-5)


def convolution(x: Array, weight: Array, bias: Array, shift: tuple[int, int] = (0, 0)) -> Array:
    """A naive 3x3 convolution, padding 1, of x shifted by (dy,dx) pixels; zeros come in at the border."""
    height, width = x.shape[2:]
    room = 3
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (room, room), (room, room)))
    out = np.zeros((x.shape[0], weight.shape[0], height, width))
    for i in range(3):
        for j in range(3):
            top, left = room - 1 + i + shift[0], room - 1 + j + shift[1]
            window = padded[:, :, top : top + height, left : left + width]
            out += np.einsum("nchw,oc->nohw", window, weight[:, :, i, j])
    return out + bias[:, None, None]


@pytest.mark.parametrize("shift", [(0, 0), (1, -2), (-2, 1)])
@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_integer_offsets_and_a_full_mask_give_a_shifted_convolution(
    core: Core, kernel: str, shift: tuple[int, int]
) -> None:
    x, offset_mask, weight, bias = random_inputs(1, ZSM, (1, 64, 9, 11), 64)
    offset_mask[:, 0:144:2], offset_mask[:, 1:144:2], offset_mask[:, 144:] = *shift, 100
    y = getattr(core, kernel)(ZSM, x, offset_mask, weight, bias)
    np.testing.assert_allclose(y, convolution(x, weight, bias, shift), atol=1e-5)


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_the_output_is_linear_in_the_mask(core: Core, kernel: str) -> None:
    x, offset_mask, weight, _ = random_inputs(2, ZSM, (1, 64, 6, 50), 64)
    bias = np.zeros(64, np.float32)

    def masked(mask: float) -> Array:
        offset_mask[:, 144:] = np.log(mask / (1 - mask))
        y: Array = getattr(core, kernel)(ZSM, x, offset_mask, weight, bias)
        return y

    np.testing.assert_allclose(masked(0.2) + masked(0.5), masked(0.7), atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 2e-3)])
def test_precision_does_not_depend_on_the_width(
    core: Core, reference_at: Callable[..., Array], dtype: Any, tolerance: float
) -> None:
    width = 4096
    inputs = random_inputs(3, ZSM, (1, 64, 4, width), 64, dtype=dtype)
    columns = np.r_[0:8, 1000:1016, width - 8 : width]
    pixels = np.array([(0, y, x) for y in range(4) for x in columns])
    expected = reference_at(pixels, ZSM, *inputs)
    size = abs(expected).max()
    for kernel in (core.reference, core.cpu):
        y = kernel(ZSM, *inputs)[0][:, pixels[:, 1], pixels[:, 2]].T
        assert abs(y - expected).max() / size <= tolerance


def test_half_precision_coordinates_would_fail_that_test(reference_at: Callable[..., Array]) -> None:
    inputs = random_inputs(3, ZSM, (1, 64, 4, 4096), 64, dtype=np.float16)
    for width, passes in ((8, True), (1024, False), (4096, False)):
        pixels = np.array([(0, y, x) for y in range(4) for x in range(width - 8, width)])
        expected = reference_at(pixels, ZSM, *inputs)
        halved = reference_at(pixels, ZSM, *inputs, coordinates=np.float16)
        assert (abs(halved - expected).max() / abs(expected).max() <= 2e-3) == passes


def test_invalid_attributes_are_rejected(core: Core) -> None:
    inputs = random_inputs(4, ZSM, (1, 64, 4, 4), 64)
    with pytest.raises(PluginError, match="offset_group is 7, must divide 64 channels"):
        core.cpu(Attributes(offset_group=7), *inputs)
    with pytest.raises(PluginError, match="stride of the height is 0"):
        core.cpu(Attributes(strides=(0, 1)), *inputs)
