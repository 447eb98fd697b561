"""The operator in OpenVINO: our own operation over the native library, and OpenVINO's in its place."""

import gc
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tests.needs import module

from zsm.engine import Runtime
from zsm.errors import PluginError
from zsm.plugins.native import Attributes, Core, Shape

Array = NDArray[Any]


@pytest.fixture(scope="module", autouse=True)
def ov() -> Any:
    """OpenVINO; before the other fixtures, which build and export."""
    return module("openvino", "openvino", "pip install 'zsm[openvino]'")


NETWORK = Attributes(offset_group=2)
UNEVEN = Attributes(kernel_shape=(3, 2), strides=(2, 1), pads=(1, 0, 2, 1), dilations=(1, 2), group=2, offset_group=2)


def graph(a: Attributes, *names: str, outputs: Sequence[str] = ("y",)) -> bytes:
    """The operator once per output, with all attributes or these; its tensors have any batch, height and width."""
    taps = a.kernel_shape[0] * a.kernel_shape[1]
    shapes: dict[str, list[int | str]] = {
        "x": ["n", 8, "h", "w"],
        "offset_mask": ["n", 3 * taps * a.offset_group, "H", "W"],
        "weight": [6, 8 // a.group, *a.kernel_shape],
        "bias": [6],
    }
    values = {name: getattr(a, name) for name in names or a.__dataclass_fields__}
    nodes = [helper.make_node("DeformConv2d", list(shapes), [name], domain="zsm", **values) for name in outputs]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("zsm", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", infos, outs), opset_imports=opsets, ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def inputs(a: Attributes, core: Core, size: tuple[int, int]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, *size))
    height, width = core.output_size(Shape.of(x.shape, 6, a))
    taps = a.kernel_shape[0] * a.kernel_shape[1]
    tensors = {
        "x": x,
        "offset_mask": 3 * rng.standard_normal((2, 3 * taps * a.offset_group, height, width)),
        "weight": rng.standard_normal((6, 8 // a.group, *a.kernel_shape)) / 8,
        "bias": rng.standard_normal(6),
    }
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def compiled(content: bytes, library: Path | None, **settings: object) -> Any:
    from zsm.plugins.openvino import compile_model, core

    return compile_model(core(library, 2), content, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **settings})


@pytest.mark.parametrize("native", [True, False], ids=["ours", "theirs"])
@pytest.mark.parametrize("attributes", [NETWORK, UNEVEN], ids=["the network's", "uneven"])
def test_the_operator_against_the_reference(native: bool, attributes: Attributes, libraries: Path, core: Core) -> None:
    model = compiled(graph(attributes), libraries / "libzsm_core.so" if native else None)
    for size in ((13, 21), (5, 6)):
        feed = inputs(attributes, core, size)
        expected = core.reference(attributes, *feed.values())
        np.testing.assert_allclose(model(feed)[0], expected, atol=1e-5)


def test_attributes_may_be_left_out(libraries: Path, core: Core) -> None:
    plain = Attributes(pads=(0, 0, 0, 0))
    feed = inputs(plain, core, (9, 7))
    for library in (libraries / "libzsm_core.so", None):
        model = compiled(graph(plain, "kernel_shape"), library)
        np.testing.assert_allclose(model(feed)[0], core.reference(plain, *feed.values()), atol=1e-5)


@pytest.mark.parametrize("smaller", ["x", "offset_mask"])
@pytest.mark.parametrize("threads", [1, 2])
def test_tensors_that_do_not_fit_together_are_refused(libraries: Path, core: Core, threads: int, smaller: str) -> None:
    """With one thread, OpenVINO ignores what an operation raises, and goes on with the next."""
    from zsm.plugins.openvino import infer

    model = compiled(graph(NETWORK, outputs=("y", "z")), libraries / "libzsm_core.so", INFERENCE_NUM_THREADS=threads)
    feed = inputs(NETWORK, core, (40, 40))
    right = infer(model, feed)["y"]
    with pytest.raises(PluginError, match=r"DeformConv2d's offset_mask has shape .*; expected "):
        infer(model, feed | {smaller: feed[smaller][..., :4, :4]})
    np.testing.assert_array_equal(infer(model, feed)["y"], right)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_in_the_operator_is_not_lost(
    libraries: Path, core: Core, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zsm.plugins.openvino import infer

    model = compiled(graph(NETWORK), libraries / "libzsm_core.so", INFERENCE_NUM_THREADS=threads)
    feed = inputs(NETWORK, core, (9, 7))
    right = infer(model, feed)["y"]
    compute = Core.cpu_at

    def interrupted(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        compute(*arguments)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Core, "cpu_at", interrupted)
            with pytest.raises(KeyboardInterrupt):
                infer(model, feed)
    finally:
        signal.signal(signal.SIGINT, before)
    np.testing.assert_array_equal(infer(model, feed)["y"], right)


def test_no_operation_outlives_its_model(libraries: Path, core: Core) -> None:
    """OpenVINO makes one for every inference, with a copy of its inputs."""
    from zsm.plugins.openvino import DeformConv2d

    def operations() -> int:
        gc.collect()
        return sum(type(found) is DeformConv2d for found in gc.get_objects())

    def model_of_ours() -> Any:
        return compiled(graph(NETWORK), libraries / "libzsm_core.so")

    model_of_ours()  # the core keeps one
    before, feed = operations(), inputs(NETWORK, core, (9, 7))
    model = model_of_ours()
    model(feed)
    kept = operations()
    for _ in range(5):
        model(feed)
    assert operations() == kept > before
    del model
    assert operations() == before


def test_a_model_from_the_cache_computes_the_same(libraries: Path, core: Core, tmp_path: Path) -> None:
    feed = inputs(NETWORK, core, (9, 7))
    models = [compiled(graph(NETWORK), libraries / "libzsm_core.so", CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert [model.get_property("LOADED_FROM_CACHE") for model in models] == [False, True]
    np.testing.assert_array_equal(models[0](feed)[0], models[1](feed)[0])


@pytest.mark.parametrize("case", ["n2_32x48", "n4_45x61"])
def test_the_whole_network_against_the_reference(
    libraries: Path,
    full_bundle: Path,
    golden: Callable[[str], tuple[Array, Array]],
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path))
    clip, expected = golden(case)
    with Runtime(full_bundle, backend="openvino") as rt:
        assert rt.describe()["operator"] == str(libraries / "libzsm_core.so")
        assert np.abs(rt(clip) - expected).max() <= 2e-5
