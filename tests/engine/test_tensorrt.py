"""The TensorRT backend without a GPU: choices, shapes, progress, messages, and the names it calls."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from zsm.cli import main
from zsm.engine import Bundle, Runtime
from zsm.engine.backends.tensorrt import bindings as library
from zsm.engine.backends.tensorrt.backend import best
from zsm.engine.backends.tensorrt.build import BuildOptions, build_engines, engine_stages, parser_input, profile_shapes
from zsm.engine.backends.tensorrt.cache import EngineKey
from zsm.engine.backends.tensorrt.progress import BuildProgress, Progress
from zsm.engine.bundle.shapes import Size, SizeRange
from zsm.errors import ArgumentError, BackendError
from zsm.plugins.operator import make_portable

SMALL, MIDDLE, LARGE = Size(64, 48), Size(480, 270), Size(960, 540)
RANGE = SizeRange(min=SMALL, opt=MIDDLE, max=LARGE)


def key(sizes: SizeRange, **options: Any) -> EngineKey:
    names = ("stage", "graph", "precision", "gpu", "capability", "driver", "cuda", "tensorrt", "plugin")
    return EngineKey(**dict.fromkeys(names, ""), sizes=sizes.to_dict(), options=options)


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    library.tensorrt.cache_clear()


def test_the_engine_made_for_the_size_is_chosen() -> None:
    wide, only = key(RANGE), key(SizeRange.only(MIDDLE))
    assert best([wide, only], MIDDLE) is only
    assert best([wide, only], LARGE) is wide
    assert best([wide, only], Size(961, 540)) is None
    assert best([], MIDDLE) is None
    newer = replace(only, options={"tf32": True})
    assert best([newer, only], MIDDLE) is newer


def test_profiles_hold_shapes_and_the_values_of_sizes(tiny_bundle: Path) -> None:
    manifest = Bundle(tiny_bundle).manifest
    assert profile_shapes(manifest, "ingest_uint8", RANGE) == {
        "pixels": ((1, 48, 64, 3), (1, 270, 480, 3), (1, 540, 960, 3))
    }
    width = manifest.network.width
    hidden = profile_shapes(manifest, "propagate", RANGE)["hidden"]
    assert hidden == ((2, width, 48, 64), (2, width, 272, 480), (2, width, 540, 960))
    assert profile_shapes(manifest, "emit_uint8", RANGE)["size"] == ((192, 256), (1080, 1920), (2160, 3840))


def test_stages_with_16_bit_integers_are_not_built(tiny_bundle: Path) -> None:
    manifest = Bundle(tiny_bundle).manifest
    left = {t.dtype for name in engine_stages(manifest) for t in manifest.stages[name].inputs}
    assert left == {"uint8", "float32", "int64"}
    assert len(manifest.stages) - len(engine_stages(manifest)) == 2


def test_functions_are_removed_for_the_parser(tiny_bundle: Path) -> None:
    model = make_portable(onnx.load_from_string(Bundle(tiny_bundle).read("propagate")))
    stripped = onnx.load_from_string(parser_input(model.SerializeToString()))
    assert (len(model.functions), len(stripped.functions)) == (1, 0)
    assert [node.op_type for node in stripped.graph.node] == [node.op_type for node in model.graph.node]


def test_progress_adds_up_nested_phases() -> None:
    said: list[Progress] = []
    now = 0.0
    progress = BuildProgress({"a": 1.0, "b": 3.0}, said.append, lambda: now)
    progress.stage("a")
    progress.phase_start("build", None, 2)
    progress.phase_start("tactics", "build", 10)
    now = 5.0
    progress.step_complete("tactics", 3)
    assert said[-1].fraction == pytest.approx(0.25 * 0.4 / 2)
    assert said[-1].remaining == pytest.approx(5 * 0.95 / 0.05)
    progress.phase_finish("tactics")
    progress.step_complete("build", 0)
    assert said[-1].fraction == pytest.approx(0.125)
    progress.phase_finish("build")
    progress.stage("b")
    assert (said[-1].stage, said[-1].fraction) == ("b", 0.25)
    progress.finish()
    assert (said[-1].fraction, said[-1].remaining) == (1.0, 0.0)
    fractions = [each.fraction for each in said]
    assert fractions == sorted(fractions)


@pytest.mark.parametrize("version", ["8.6.1", "10.0.1", "12.0.0"])
def test_unsupported_versions(version: str) -> None:
    with pytest.raises(BackendError, match=rf"TensorRT {version} isn't supported; install 10.1 to 11"):
        library.check_version(version)


@pytest.mark.parametrize("version", ["10.1.0", "10.14.1.48", "11.4.0.106"])
def test_supported_versions(version: str) -> None:
    library.check_version(version)


@pytest.mark.usefixtures("no_tensorrt")
def test_without_tensorrt_the_message_says_what_to_do(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"TensorRT can't be imported.*pip install tensorrt.*--backend onnxruntime"):
        Runtime(tiny_bundle, device="cuda:0", backend="tensorrt")
    with pytest.raises(BackendError, match="TensorRT can't be imported"):
        build_engines(Bundle(tiny_bundle), "cuda:0", BuildOptions(sizes=RANGE), print)


def test_the_choice_depends_on_what_is_installed(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Runtime(tiny_bundle, threads=1) as rt:
        assert rt.describe()["backend"] == "onnxruntime"
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    library.tensorrt.cache_clear()
    with pytest.raises(BackendError, match=r"libnvinfer\.so\.11 is missing"):
        Runtime(tiny_bundle, device="cuda:0")


def test_tensorrt_is_for_gpus(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"tensorrt backend doesn.t run on cpu"):
        Runtime(tiny_bundle, backend="tensorrt")
    with pytest.raises(ArgumentError, match=r"engines are for GPUs, not for cpu"):
        build_engines(Bundle(tiny_bundle), "cpu", BuildOptions(sizes=RANGE), print)
    with pytest.raises(ArgumentError, match="workspace must be at least 1 MiB, got 0"):
        BuildOptions(sizes=RANGE, workspace=0)


@pytest.mark.usefixtures("no_tensorrt")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--min", "64x64", "--opt", "32x64", "--max", "64x64"), "the widths are 64, 32, 64"),
        (("--size", "480x270", "--device", "cpu"), "not for cpu"),
    ],
)
def test_zsm_build_rejects_invalid_arguments(
    arguments: tuple[str, ...], message: str, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(tiny_bundle), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("owner", "names"),
    [
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "create_execution_context num_io_tensors get_tensor_name get_tensor_mode get_tensor_dtype"),
        ("ICudaEngine", "device_memory_size_v2 get_tensor_format"),
        (
            "IExecutionContext",
            "set_device_memory set_input_shape set_tensor_address get_tensor_shape infer_shapes execute_async_v3",
        ),
        ("ExecutionContextAllocationStrategy", "USER_MANAGED"),
        ("TensorIOMode", "OUTPUT"),
        ("ILogger", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE log"),
    ],
)
def test_the_functions_that_run_engines_exist(tensorrt: ModuleType, owner: str, names: str) -> None:
    assert [name for name in names.split() if not hasattr(getattr(tensorrt, owner), name)] == []


@pytest.mark.tensorrt
def test_messages_of_tensorrt_reach_our_log(tensorrt: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    library.errors.clear()
    with caplog.at_level(logging.INFO, "zsm.tensorrt"):
        library.logger().log(tensorrt.ILogger.ERROR, "out of luck")
    assert [(r.name, r.levelname, r.message) for r in caplog.records] == [("zsm.tensorrt", "INFO", "out of luck")]
    assert str(library.failure("it failed")) == "it failed: out of luck"
    assert tensorrt.nptype(tensorrt.DataType.UINT8) == np.uint8
