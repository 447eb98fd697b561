"""`zsm doctor` on this machine, and with broken libraries."""

import sys
from pathlib import Path
from typing import NoReturn

import pytest
from tests.needs import module

from zsm import doctor
from zsm.doctor import Check, examine
from zsm.engine.backends.gpu import cuda
from zsm.engine.backends.tensorrt import bindings as trt
from zsm.errors import BackendError, CacheError, OutOfMemoryError


def checks() -> dict[str, Check]:
    return {check.name: check for check in examine()}


def test_every_failed_check_says_how_to_fix_it() -> None:
    for check in examine():
        assert check.works or check.fix, check.name


def test_openvino_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    module("openvino", "openvino", "pip install 'zsm[openvino]'")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = checks()["onnxruntime"]
    assert not found.works
    assert not found.needed


def test_without_a_home_the_cache_is_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> NoReturn:
        raise CacheError("there is no place for the cache")

    monkeypatch.setattr(doctor, "cache_folder", fail)
    found = checks()["cache"]
    assert not found.works
    assert "ZSM_CACHE" in found.fix


def test_tensorrt_that_fails_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    trt.tensorrt.cache_clear()
    found = checks()["TensorRT"]
    assert not found.works
    assert "libnvinfer.so.11: cannot open" in found.found


def test_a_plugin_file_that_is_not_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libzsm_onnxruntime.so").write_text("nonsense")
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path))
    found = checks()
    assert "can't be loaded" in found["libzsm_onnxruntime.so"].found
    assert found["libzsm_tensorrt11.so"].found == "not built"
    assert "ZSM_PLUGIN_DIR" in found["libzsm_tensorrt11.so"].fix


def test_a_missing_plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path / "nowhere"))
    assert "which isn't a folder" in checks()["libzsm_onnxruntime.so"].found


def test_cuda_without_a_driver_says_so() -> None:
    module("cuda.bindings.runtime", "cuda-python", "pip install cuda-python")
    try:
        message = f"there is no cuda:{cuda.device_count()}"
    except BackendError:
        message = "driver"
    with pytest.raises(BackendError, match=message):
        cuda.Gpu(99 if message == "driver" else cuda.device_count())


def test_without_cuda_python_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BackendError, match=r"pip install 'zsm\[gpu\]'"):
        cuda.device_count()
    found = next(iter(doctor._cuda()))
    assert not found.works
    assert "--device cuda" in found.fix  # not TensorRT alone


@pytest.mark.gpu
def test_a_gpu_is_named(gpu: cuda.Gpu) -> None:
    assert gpu.name in checks()["cuda-python"].found
    address = gpu.allocate(1 << 20)
    gpu.free(address)
    with pytest.raises(OutOfMemoryError, match=r"MiB are free"):
        gpu.allocate(1 << 50)
