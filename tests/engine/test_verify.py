"""`zsm verify` passes a device that computes the same, and names the stage and layer that don't."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.needs import module

from zsm.cli import main
from zsm.engine import Bundle
from zsm.engine.backends import open_backend
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.onnxruntime import OnnxRuntimeBackend
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import OpenOptions
from zsm.engine.diagnose import locate as locating
from zsm.engine.diagnose import verify as verifying
from zsm.engine.diagnose.verify import Comparison, compare, verify

Open = Callable[..., DeviceBackend]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Make a backend stand in for cuda:0."""

    def replace(backend: Any) -> None:
        cpu = open_backend
        monkeypatch.setattr(
            verifying,
            "open_backend",
            lambda bundle, name, place: (backend, "") if place.device.kind == "cuda" else cpu(bundle, name, place),
        )

    return replace


def test_every_output_of_every_stage_is_compared(
    tiny_bundle: Path, host_backend: Open, host_gpu: Any, device: Any
) -> None:
    device(host_backend(tiny_bundle, host_gpu))
    bundle = Bundle(tiny_bundle)
    results = list(verify(bundle, "cuda:0", "auto", Size(12, 8)))
    outputs = {f"{stage} {t.name}" for stage, spec in bundle.manifest.stages.items() for t in spec.outputs}
    assert {result.what for result in results} == outputs | {
        "1 frames out, uint8",
        "1 frames out, uint16",
        "7 frames out, float32",
    }
    assert all(result.works and result.relative < 1e-5 for result in results)


def with_another_weight(bundle: Bundle, stage: str, number: int) -> onnx.ModelProto:
    """The stage's graph with the weight of its convolution `number` scaled by 1.1."""
    model = onnx.load_from_string(bundle.read(stage))
    name = [node.input[1] for node in model.graph.node if node.op_type == "Conv"][number]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    changed = numpy_helper.to_array(weight) * np.float32(1.1)
    weight.CopyFrom(numpy_helper.from_array(changed, name))
    return model


def test_a_differing_stage_is_named(tiny_bundle: Path, device: Any) -> None:
    bundle = Bundle(tiny_bundle)
    model = with_another_weight(bundle, "propagate", -1)
    wrong = Bundle(tiny_bundle)
    read = wrong.read
    wrong.read = lambda name: model.SerializeToString() if name == "propagate" else read(name)  # type: ignore[method-assign]
    device(OnnxRuntimeBackend(wrong, 1))
    told = []
    results = verify(bundle, "cuda:0", "auto", Size(12, 8), lambda stage, inputs, name: told.append((stage, name)))
    differing = {result.what for result in results if not result.works}
    assert told == [("propagate", "onnxruntime")]
    assert differing >= {"propagate next_hidden", "propagate next_cell"}
    assert {what.split()[0] for what in differing} <= {"propagate", "1", "7"}


def test_the_first_differing_layer_is_found(tiny_bundle: Path) -> None:
    module("polygraphy", "polygraphy", "pip install polygraphy")
    bundle = Bundle(tiny_bundle)
    planes = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    assert locating.locate(bundle, "extract", {"planes": planes}, "cpu", "onnxruntime") is None
    model = with_another_weight(bundle, "extract", 3)
    right = onnx.load_from_string(bundle.read("extract"))
    outputs = [locating._onnxruntime(each, {"planes": planes}, "CPUExecutionProvider", {}) for each in (right, model)]
    layer = locating.first_difference(model, outputs[0], outputs[1], 1e-4)
    assert layer is not None
    fourth = [node for node in model.graph.node if node.op_type == "Conv"][3]
    assert (layer.name, layer.operation) == (fourth.name, "Conv")


@pytest.mark.parametrize(
    ("found", "works", "max_abs"),
    [
        ([0.5, 1.0, -1.0], True, 0),
        ([0.5, 1.0, -1.00001], True, 1e-5),
        ([0.5, 1.0, -1.01], False, 1e-2),
        ([0.5, np.nan, -1.0], False, np.nan),
        ([0.5, np.inf, -1.0], False, np.inf),
    ],
)
def test_errors_are_relative_and_nan_fails(found: list[float], works: bool, max_abs: float) -> None:
    result = compare("x", np.array([0.5, 1.0, -1.0], np.float32), np.array(found, np.float32), 1e-4)
    assert result.works == works
    np.testing.assert_allclose(result.max_abs, max_abs, atol=1e-6)


def test_integers_may_be_rounded_either_way() -> None:
    expected = np.arange(0, 240, 3).astype(np.uint8)
    one = (np.arange(len(expected)) % 5 == 0).astype(np.uint8)
    assert compare("x", expected, expected + one, 1e-4).works
    assert not compare("x", expected, expected + 2 * one, 1e-4).works


def test_layers_are_searched_in_the_precision_that_is_verified(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module("polygraphy", "polygraphy", "pip install polygraphy")
    module("openvino", "openvino", "pip install openvino")
    from zsm.engine.backends import openvino

    opened = []

    class Recording(openvino.Compiler):
        def __init__(self, bundle: Bundle, options: OpenOptions) -> None:
            opened.append(options.precision)
            super().__init__(bundle, replace(options, precision="bundle"))  # not every processor has bfloat16

    def differ(*arguments: Any, **options: Any) -> list[Comparison]:
        look = arguments[4]
        look("extract", {"planes": np.zeros((1, 3, 8, 8), np.float32)}, "openvino")
        return []

    monkeypatch.setattr(openvino, "Compiler", Recording)
    monkeypatch.setattr(verifying, "verify", differ)
    arguments = ["verify", str(tiny_bundle), "--device", "cpu", "--backend", "openvino", "--size", "8x8", "--locate"]
    assert main([*arguments, "--precision", "bfloat16"]) == 0
    assert opened == ["bfloat16"]


def test_the_command(tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["verify", str(tiny_bundle), "--device", "cpu", "--size", "8x8"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "propagate next_hidden" in text
    assert "DIFFERS" not in text
    monkeypatch.setattr(Comparison, "works", property(lambda self: "frames" not in self.what))
    assert main([*arguments, "--json"]) == 3
    results = json.loads(capsys.readouterr().out)
    assert [result["what"] for result in results if not result["works"]][-1] == "7 frames out, float32"
