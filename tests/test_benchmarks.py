"""What the GPU benchmarks can be held to without a GPU: what they compare, refuse and save."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from zsm.engine import Bundle

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def deform_conv(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.deform_conv")


def test_both_lower_bounds_are_named_so_that_a_slow_gather_does_not_flatter(deform_conv: ModuleType) -> None:
    medians = {"fused resident linear": 60.0, "plain linear": 900.0, "gather only": 50.0, "torchvision": 1200.0}
    found = deform_conv.comparison(deform_conv.Size(480, 270), "float16", medians, 3000.0)
    traffic = 480 * 270 * 2 * (64 + 216 + 64) / 3000e9 * 1e6  # x, offset_mask and the output, at 3 TB/s
    assert found["lower_bounds_us"] == {"traffic": pytest.approx(traffic, abs=0.01), "gather only": 50}
    assert found["times_lower_bounds"] == {"traffic": pytest.approx(60 / traffic, abs=0.01), "gather only": 1.2}
    assert found["times_faster_than"] == {"torchvision": 20}


def test_measurements_are_saved_one_by_one(
    deform_conv: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*_: object) -> Iterator[dict[str, Any]]:
        yield {"size": "8x8", "dtype": "float32", "name": "first", "us": [1, 2, 3], "error": None}
        raise RuntimeError("the GPU has fallen off the bus")

    monkeypatch.setattr(deform_conv, "on_cpu", measure)
    monkeypatch.setattr(sys, "argv", ["deform_conv.py", "--out", str(tmp_path / "out.json"), "--lines"])
    with pytest.raises(RuntimeError, match="fallen off the bus"):
        deform_conv.main()
    assert [run["name"] for run in json.loads((tmp_path / "out.json").read_text())["runs"]] == ["first"]
    assert json.loads(capsys.readouterr().out)["us"] == [1, 2, 3]


def test_another_operator_is_not_measured_in_place_of_ours(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--bundle", "models/compact", "--lines"]
    command += ["--sizes", "16x16", "--frames", "4", "--rounds", "1", "--out", str(tmp_path / "out.json")]
    command += ["--contestants", "onnxruntime", "onnxruntime-plain"]
    environment = {**os.environ, "ZSM_PLUGIN_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=True)
    ours, plain = map(json.loads, done.stdout.splitlines())
    assert "would run ONNX function" in ours["failed"]
    assert plain["milliseconds"]["median"] > 0
    saved = json.loads((tmp_path / "out.json").read_text())
    assert set(saved["sizes"]["16x16"]) == {"onnxruntime", "onnxruntime-plain"}
    assert saved["precision"] == "fp32"  # the bundle's; of those exported, fp16 is the default


def test_a_wrong_size_is_one_message() -> None:
    command = [sys.executable, "benchmarks/pytorch.py", "--size", "480"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("invalid size '480'; write WxH, as in 480x270\n")


def test_an_interrupted_quantisation_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    network = importlib.import_module("benchmarks.network")
    out = tmp_path / "bundle-int8"
    out.mkdir()
    (out / "manifest.json").write_text("{")
    network.quantise(ROOT / "models/compact", out)
    bundle = Bundle(out)
    assert all(bundle.read(stage) for stage in bundle.manifest.stages)
