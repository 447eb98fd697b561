"""A missing need skips a test, and fails it where CI requires it."""

import inspect
import sys
from collections.abc import Callable

import onnxruntime
import pytest
from tests.engine import test_engines, test_frames, test_onnxruntime_cuda
from tests.needs import missing, module, required


@pytest.mark.parametrize("value", ["", "ffmpeg,nvcc"])
def test_a_need_that_is_not_required_is_skipped(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_REQUIRE", value)
    monkeypatch.delenv("ZSM_REQUIRE_GPU", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no GPU here"):
        missing("gpu", "no GPU here")


@pytest.mark.parametrize("value", ["gpu", "ffmpeg,gpu", "all"])
def test_a_required_need_fails(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_REQUIRE", value)
    with pytest.raises(pytest.fail.Exception, match="no GPU here"):
        missing("gpu", "no GPU here")


def test_one_switch_requires_what_gpu_tests_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZSM_REQUIRE", raising=False)
    monkeypatch.setenv("ZSM_REQUIRE_GPU", "1")
    assert {"gpu", "tensorrt", "onnxruntime-gpu"} <= required()
    assert "ffmpeg" not in required()


def test_a_module_that_is_not_installed_is_a_missing_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_REQUIRE", "cupy")
    with pytest.raises(pytest.fail.Exception, match="no_such_module is not installed: pip install it"):
        module("no_such_module", "cupy", "pip install it")


@pytest.mark.parametrize(
    "test",
    [
        test_engines.test_on_the_gpu,
        test_onnxruntime_cuda.test_on_the_gpu,
        test_frames.test_torch_s_frames_stay_on_the_gpu,
    ],
)
@pytest.mark.parametrize(("required", "outcome"), [("0", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_gpu_tests_skip_without_their_library_or_fail_if_required(
    test: Callable[..., None], required: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.delenv("ZSM_REQUIRE", raising=False)
    monkeypatch.setenv("ZSM_REQUIRE_GPU", required)
    with pytest.raises(outcome, match="pip install"):
        test(**dict.fromkeys(inspect.signature(test).parameters))


def test_misspelt_needs_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_REQUIRE", "gpu,ffmpg")
    with pytest.raises(pytest.UsageError, match="unknown ffmpg; choose from"):
        required()
