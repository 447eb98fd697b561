"""A missing need skips a test, and fails it where CI requires it."""

import onnxruntime
import pytest
from tests.needs import cuda_provider, missing, module, required


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
    ("value", "outcome"), [("", pytest.skip.Exception), ("onnxruntime-gpu", pytest.fail.Exception)]
)
def test_onnxruntime_without_cuda_is_a_missing_need(
    value: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setenv("ZSM_REQUIRE", value)
    monkeypatch.delenv("ZSM_REQUIRE_GPU", raising=False)
    with pytest.raises(outcome, match="no CUDA provider"):
        cuda_provider()


def test_misspelt_needs_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_REQUIRE", "gpu,ffmpg")
    with pytest.raises(pytest.UsageError, match="unknown ffmpg; choose from"):
        required()
