"""Builds the native code in its variants, and runs the tests that are written in C++."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.needs import Need, missing

from zsm.plugins.native import Attributes, Core, Kernel, Shape

ADAPTERS = {
    "onnxruntime": {"RegisterCustomOps"},
    "tensorrt10": {"getCreators", "setLoggerFinder"},
    "tensorrt11": {"getCreators", "setLoggerFinder"},
}


def run_test(folder: Path, name: str) -> None:
    program = folder / "bin" / f"{name}_test"
    if not program.exists():
        missing("tensorrt-headers", f"{name}_test isn't built: it needs nvcc, and ZSM_TENSORRT_INCLUDE_DIRS")
    # CUDA reserves address space that AddressSanitizer guards unless told not to.
    environment = os.environ | {"ASAN_OPTIONS": "protect_shadow_gap=0"}
    done = subprocess.run([program], text=True, capture_output=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.mark.parametrize("name", ["core", "kernels", "tensorrt10", "tensorrt11"])
def test_cpp(built: Path, name: str) -> None:
    run_test(built, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["core", "kernels", "tensorrt10", "tensorrt11"])
def test_cpp_with_sanitizers(build: Callable[[str], Path], name: str) -> None:
    run_test(build("sanitize"), name)


@pytest.mark.parametrize("name", ADAPTERS)
def test_libraries_export_their_interface_and_nothing_else(built: Path, name: str) -> None:
    library = built / "lib" / f"libzsm_{name}.so"
    if not library.exists():
        need: Need = "onnxruntime-headers" if name == "onnxruntime" else "tensorrt-headers"
        missing(need, f"{library.name} isn't built: its headers, or nvcc for TensorRT's, are absent")
    listing = subprocess.run(["nm", "-D", "--defined-only", library], text=True, capture_output=True, check=True)
    symbols = {line.split()[-1] for line in listing.stdout.splitlines()}
    assert {symbol for symbol in symbols if not symbol.startswith("zsm_")} == ADAPTERS[name]
    assert "zsm_deform_conv2d_cuda" in symbols


def test_fused_kernels_take_the_networks_shape_in_fp16_channels_last(core: Core) -> None:
    if not core.cuda_architectures():
        missing("nvcc", "nvcc is not installed, so the CUDA kernels aren't built")
    shape = Shape.of((1, 64, 270, 480), 64, Attributes(offset_group=8))
    assert Kernel.FUSED_128_STREAMED in core.cuda_kernels(shape, "float16", channels_last=True)
    assert core.cuda_kernels(shape, "float16", channels_last=False) == [Kernel.PLAIN]
    assert core.cuda_kernels(shape, "float32", channels_last=True) == [Kernel.PLAIN]


def test_without_nvcc_and_headers_the_rest_builds_and_says_what_is_missing(
    run: Callable[..., str], tmp_path: Path
) -> None:
    nothing = ("-DCMAKE_FIND_ROOT_PATH=/nonexistent", "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY")
    said = run("cmake", "-S", ".", "-B", tmp_path, "-DZSM_CUDA=OFF", *nothing)
    cuda, onnxruntime = (line for line in said.splitlines() if "Skipped" in line)
    assert "CUDA kernels and TensorRT adapter" in cuda
    assert "ONNX Runtime adapter" in onnxruntime
    assert "set onnxruntime_INCLUDE_DIR" in onnxruntime
