"""Time per layer on ONNX Runtime."""

import json
from pathlib import Path

import onnx
import pytest

from zsm.cli import main
from zsm.engine import Bundle
from zsm.engine.bundle.shapes import Size
from zsm.engine.diagnose.profile import profile
from zsm.errors import BackendError


def test_every_convolution_is_timed(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    times = profile(bundle, "cpu", "auto", Size(12, 8))
    assert {time.stage for time in times} == set(bundle.manifest.stages)
    nodes = onnx.load_from_string(bundle.read("extract")).graph.node
    measured = [time for time in times if time.stage == "extract"]
    assert sum("Conv" in time.operation for time in measured) == sum(node.op_type == "Conv" for node in nodes)
    assert all(time.milliseconds >= 0 for time in times)
    assert measured == sorted(measured, key=lambda time: -time.milliseconds)


def test_onnxruntime_on_a_gpu_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="doesn't time what a GPU executes"):
        profile(Bundle(tiny_bundle), "cuda:0", "onnxruntime", Size(12, 8))


def test_the_command(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(tiny_bundle), "--profile", "--size", "12x8"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "propagate" in text
    assert "Conv" in text
    assert main([*arguments, "--json"]) == 0
    assert {"stage", "layer", "operation", "milliseconds"} == set(json.loads(capsys.readouterr().out)[0])
