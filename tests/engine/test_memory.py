"""The estimate of memory against what a backend allocates, and trtexec's commands."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsm.cli import main
from zsm.engine import Bundle
from zsm.engine.backends.gpu.backend import DeviceBackend
from zsm.engine.backends.tensorrt.trtexec import commands
from zsm.engine.bundle.shapes import Size, SizeRange
from zsm.engine.memory import Estimator
from zsm.errors import BundleError
from zsm.runtime.stream import stream

Open = Callable[..., DeviceBackend]


@pytest.mark.parametrize("window", [3, 5])
def test_a_window_takes_what_was_estimated(window: int, tiny_bundle: Path, host_backend: Open, host_gpu: Any) -> None:
    size = Size(32, 24)
    backend = host_backend(tiny_bundle, host_gpu)
    frames = np.zeros((2 * window, size.height, size.width, 3), np.uint8)
    for _ in stream(backend, frames, network=Bundle(tiny_bundle).network, window=window, overlap=1):
        pass
    assert host_gpu.bytes == pytest.approx(Estimator(Bundle(tiny_bundle), "cuda", window)(size).window, rel=0.02)


@pytest.mark.parametrize("fixture", ["tiny_bundle", "bicubic_bundle"])
def test_graphs_take_what_was_estimated(
    fixture: str, host_backend: Open, request: pytest.FixtureRequest, host_gpu: Any
) -> None:
    bundle = Bundle(request.getfixturevalue(fixture))
    size = Size(32, 24)
    taken = []
    for cuda_graphs in (False, True):
        gpu = type(host_gpu)()
        backend = host_backend(bundle.path, gpu, cuda_graphs=cuda_graphs)
        frames = np.zeros((7, size.height, size.width, 3), np.uint8)
        for _ in stream(backend, frames, network=bundle.network, window=4, overlap=1):
            pass
        taken.append(gpu.bytes)
    without, with_graphs = (Estimator(bundle, "cuda", 4)(size, cuda_graphs=on) for on in (False, True))
    assert without.graphs == 0
    assert taken[1] - taken[0] == pytest.approx(with_graphs.graphs, rel=0.05)
    assert with_graphs.total - without.total == with_graphs.graphs


def test_activations_grow_with_the_frame_and_the_largest_stage_is_named(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    small, large = (Estimator(bundle, "cuda", 4)(Size(32 * scale, 24 * scale)) for scale in (1, 2))
    assert large.activations == 4 * small.activations
    assert large.window == 4 * small.window
    assert large.weights == small.weights == sum(stage.bytes for stage in bundle.manifest.stages.values())
    # Before the last convolution of the reconstruction two maps of 8 channels at 4x live at once.
    assert small.stage == "reconstruct"
    output = 3 * 16 * 32 * 24 * 4  # lives between stages
    assert small.activations + output >= 2 * 8 * 16 * 32 * 24 * 4


def test_zsm_info_prints_the_estimate(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_bundle), "--memory", "--size", "960x540"]) == 0
    text = capsys.readouterr().out
    total = Estimator(Bundle(tiny_bundle), "cuda", 4)(Size(960, 540)).total
    assert f"{total / 2**20:,.0f} MiB" in text


def test_trtexec_gets_shapes_types_and_the_plugin(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libzsm_tensorrt11.so").touch()
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path))
    sizes = SizeRange(min=Size(64, 48), opt=Size(480, 270), max=Size(960, 540))
    found = commands(Bundle(tiny_bundle), sizes)
    assert "ingest_uint16" not in found
    propagate = shlex.split(found["propagate"])
    assert propagate[0] == "trtexec"
    assert {"--stronglyTyped", "--noTF32", f"--dynamicPlugins={tmp_path}/libzsm_tensorrt11.so"} <= set(propagate)
    assert "--optShapes=feature:2x8x272x480,hidden:2x8x272x480,cell:2x8x272x480" in propagate
    assert Path(propagate[1].removeprefix("--onnx=")).is_file()
    emit = found["emit_uint8"]
    assert "--maxShapes=planes:1x3x2160x3840,size:2160x3840" in emit
    assert "dynamicPlugins" not in emit
    assert not re.search(r"--(fp16|int8|best)", "".join(found.values()))


def test_portable_bundles_are_not_for_trtexec(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    bundle.manifest = replace(bundle.manifest, portable=True)
    with pytest.raises(BundleError, match="--portable"):
        commands(bundle, SizeRange.only(Size(64, 48)))
