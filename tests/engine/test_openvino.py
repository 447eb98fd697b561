"""The OpenVINO backend: the same frames, devices and precisions that are absent, INT8, and what `auto` chooses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.needs import module

from zsm.cli import main
from zsm.engine import Bundle, Runtime
from zsm.engine.backends import measured
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device, OpenOptions
from zsm.engine.diagnose import verify
from zsm.engine.diagnose.locate import locate
from zsm.errors import BackendError
from zsm.export.int8 import graphs

Array = NDArray[Any]


@pytest.fixture(scope="module", autouse=True)
def ov() -> Any:
    """OpenVINO; before the other fixtures, which export bundles."""
    return module("openvino", "openvino", "pip install 'zsm[openvino]'")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and no native library."""
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path / "empty"))
    return tmp_path / "cache"


def clip_of(dtype: str) -> Array:
    white = {"float32": 1, "uint8": 255, "uint16": 65535}[dtype]
    return (np.random.default_rng(0).random((5, 14, 21, 3), np.float32) * white).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("fixture", ["tiny_bundle", "bicubic_bundle"])
def test_frames_equal_those_of_onnx_runtime(fixture: str, dtype: str, request: pytest.FixtureRequest) -> None:
    bundle, clip = request.getfixturevalue(fixture), clip_of(dtype)
    clip.setflags(write=False)
    with Runtime(bundle, threads=1) as reference, Runtime(bundle, backend="openvino", threads=1) as rt:
        expected, found = reference(clip), rt(clip)
        np.testing.assert_array_equal(rt(clip), found)  # outputs aren't overwritten by later ones
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.astype(float), expected, atol=1e-6 if dtype == "float32" else 1)


def test_no_layer_of_an_int8_bundle_differs(capsys: pytest.CaptureFixture[str]) -> None:
    """On OpenVINO its activations are uint8, where the bundle has int8."""
    module("polygraphy", "polygraphy", "pip install polygraphy")
    planes = np.random.default_rng(0).random((1, 3, 16, 24), np.float32)
    assert locate(Bundle("compact-int8"), "extract", {"planes": planes}, "cpu", "openvino") is None
    assert capsys.readouterr().out == ""


def test_describe_reports_what_computes(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle, backend="openvino", threads=1) as rt:
        facts = rt.describe()
    expected = {"backend": "openvino", "device": "cpu", "precision": "fp32", "computes_in": "float32", "threads": 1}
    assert {name: facts[name] for name in expected} == expected
    assert facts["operator"] == "OpenVINO's DeformableConvolution"


@pytest.mark.parametrize("device", ["gpu:7", "npu"])
def test_an_absent_device_is_not_replaced_by_another(device: str, ov: Any, tiny_bundle: Path) -> None:
    if device.upper() in ov.Core().available_devices:
        pytest.skip("this machine has one")
    with pytest.raises(BackendError, match=f"finds no {device} on this machine, only .*cpu"):
        Runtime(tiny_bundle, device=device)


def test_bfloat16_is_refused_or_close_to_float32(
    ov: Any, golden: Callable[[str], tuple[Array, Array]], request: pytest.FixtureRequest
) -> None:
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(BackendError, match="doesn't compute in bfloat16, and OpenVINO would silently use float32"):
            Runtime(request.getfixturevalue("tiny_bundle"), precision="bfloat16")
        return
    clip, expected = golden("n2_32x48")
    with Runtime(request.getfixturevalue("full_bundle"), precision="bfloat16") as rt:
        assert rt.describe()["computes_in"] == "bfloat16"
        assert -10 * np.log10(np.mean((rt(clip) - expected) ** 2)) >= 50


def test_signals_arrive_after_runtimes_were_closed_in_the_order_of_opening(tiny_bundle: Path) -> None:
    """OpenVINO's signal stack of a core that is gone would end the process."""
    program = """
import os, signal, sys
from zsm.engine import Runtime
first, second = (Runtime(sys.argv[1], backend="openvino", threads=threads) for threads in (1, 2))
first.close()
del first
second.close()
del second
signal.signal(signal.SIGUSR1, lambda *_: print("arrived"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", program, tiny_bundle], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "arrived\n"), done.stderr


def test_verify_passes(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", str(tiny_bundle), "--device", "cpu", "--backend", "openvino", "--size", "9x8"]
    assert main(arguments) == 0
    assert "7 frames out, float32" in capsys.readouterr().out


def concatenation() -> onnx.ModelProto:
    """Two inputs, concatenated and convolved."""
    rng = np.random.default_rng(0)
    weight = np.zeros((8, 8, 1, 1), np.float32)
    weight[range(8), rng.permutation(8)] = 1  # one product per output: no sum that 16 bits can't hold
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["ab"], "cat", axis=1),
        helper.make_node("Conv", ["ab", "c.weight", "c.bias"], ["y"], "conv"),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, "h", "w"]) for name in ("a", "b")]
    constants = [numpy_helper.from_array(weight, "c.weight"), numpy_helper.from_array(np.ones(8, np.float32), "c.bias")]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", infos, [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_int8_concatenations_keep_their_steps(tiny_bundle: Path) -> None:
    from zsm.engine.backends.openvino import Compiler

    quantised = graphs.quantise(concatenation(), ["conv"], dict.fromkeys(("a", "b", "ab", "y"), 3.0))
    rng = np.random.default_rng(1)
    feed = {name: rng.uniform(-2, 2, (1, 4, 6, 5)).astype(np.float32) for name in ("a", "b")}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (expected,) = ort.InferenceSession(quantised.SerializeToString(), options).run(None, feed)
    compiler = Compiler(Bundle(tiny_bundle), OpenOptions(device=Device.parse("cpu"), threads=1))
    found = compiler.compile("", quantised)(feed)["y"]
    assert np.abs(found - expected).max() <= 1.01 * 3 / 127


def shuffle() -> onnx.ModelProto:
    """A convolution, a shuffle from channels to pixels, and another convolution."""
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.uniform(-0.5, 0.5, shape).astype(np.float32), name)
        for name, shape in {"c.weight": (8, 2, 1, 1), "c.bias": (8,), "d.weight": (2, 2, 1, 1), "d.bias": (2,)}.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "c.weight", "c.bias"], ["c"], "c"),
        helper.make_node("DepthToSpace", ["c"], ["s"], "s", blocksize=2),
        helper.make_node("Conv", ["s", "d.weight", "d.bias"], ["y"], "d"),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, "h", "w"]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("after", "conversions"), [(3.0, 1), (2.0, 2)])
def test_bytes_are_shuffled_as_such(tiny_bundle: Path, after: float, conversions: int) -> None:
    """Between two equal quantisations; where they differ, the second clips and rounds again."""
    from zsm.engine.backends.openvino import Compiler

    quantised = graphs.quantise(shuffle(), ["c", "s", "d"], {"x": 4.0, "c": 3.0, "s": after, "y": 4.0})
    feed = {"x": np.random.default_rng(1).uniform(-4, 4, (1, 2, 6, 5)).astype(np.float32)}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (expected,) = ort.InferenceSession(quantised.SerializeToString(), options).run(None, feed)
    compiled = Compiler(Bundle(tiny_bundle), OpenOptions(device=Device.parse("cpu"), threads=1)).compile("", quantised)
    assert np.abs(compiled(feed)["y"] - expected).max() <= 1.01 * 4 / 127
    layers = [operation.get_rt_info()["layerType"].astype(str) for operation in compiled.get_runtime_model().get_ops()]
    assert layers.count("FakeQuantize") == conversions


def test_the_fastest_of_the_measured_backends_is_chosen(tiny_bundle: Path) -> None:
    def chosen() -> str:
        with Runtime(tiny_bundle, threads=1) as rt:
            return str(rt.describe()["backend"])

    assert chosen() == "onnxruntime"
    measured.remember(Bundle(tiny_bundle), {"onnxruntime": 2.0, "openvino": 1.0})
    assert chosen() == "openvino"
    measured.remember(Bundle(tiny_bundle), {"onnxruntime": 1.0, "openvino": 2.0})
    assert chosen() == "onnxruntime"


def test_measurements_that_cannot_be_remembered_are_not_lost(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path / "file"))
    measured.remember(Bundle(tiny_bundle), {"onnxruntime": 1.0})
    assert "can't be written" in caplog.text
    assert measured.recall(Bundle(tiny_bundle)) == {}


def test_comparing_all_backends(bicubic_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(bicubic_bundle), "--size", "8x8", "--length", "2", "--repeats", "1", "--compare"]
    assert main([*arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results) == 7
    working = {tuple(result["way"].values())[1:]: result for result in results if not result["fault"]}
    assert working["openvino", "cpu", "bundle"]["psnr"] > 100
    assert all(result["seconds"] > 0 and result["peak_mib"] > 50 for result in working.values())
    assert set(measured.recall(Bundle(bicubic_bundle))) == {"onnxruntime", "openvino"}


def test_every_layer_is_measured(bicubic_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bicubic_bundle), "--profile", "--backend", "openvino", "--size", "8x8", "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)
    assert {layer["stage"] for layer in layers} == set(Bundle(bicubic_bundle).manifest.stages)
    assert "Convolution" in {layer["operation"] for layer in layers}


def test_the_limit_of_bfloat16_is_a_psnr(tiny_bundle: Path) -> None:
    expected = np.full((2, 8, 8, 3), 0.5, np.float32)
    error = 10 ** (-50 / 20)
    assert verify.compare("", expected, expected + 0.99 * error, 1.0, psnr=50).works
    assert not verify.compare("", expected, expected + 1.01 * error, 1.0, psnr=50).works


def test_layers_that_differ_are_found(tiny_bundle: Path) -> None:
    module("polygraphy", "polygraphy", "pip install polygraphy")
    from zsm.engine.diagnose.locate import locate

    planes = verify.pattern("float32", 1, Size(8, 8)).transpose(0, 3, 1, 2)
    assert locate(Bundle(tiny_bundle), "extract", {"planes": np.ascontiguousarray(planes)}, "cpu", "openvino") is None
