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


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (32, 4), (32, 2)])
def test_fused_kernels_take_the_networks_shapes_in_fp16(core: Core, channels: int, groups: int) -> None:
    if not core.cuda_architectures():
        missing("nvcc", "nvcc is not installed, so the CUDA kernels aren't built")
    shape = Shape.of((2, channels, 270, 480), channels, Attributes(offset_group=groups))
    assert core.cuda_kernels(shape, "float16")[0] in (Kernel.FUSED_RESIDENT, Kernel.FUSED_STREAMED)
    assert core.cuda_kernels(shape, "float32") == [Kernel.PLAIN]


def test_the_workspace_is_little_more_than_the_input(core: Core) -> None:
    if not core.cuda_architectures():
        missing("nvcc", "nvcc is not installed, so the CUDA kernels aren't built")
    shape = Shape.of((2, 64, 270, 480), 64, Attributes(offset_group=8))
    assert 1 < core.cuda_workspace(shape, "float16") / (2 * 64 * 270 * 480 * 2) < 1.03
    assert core.cuda_workspace(shape, "float32") == 0


def test_without_nvcc_and_headers_the_rest_builds_and_says_what_is_missing(
    run: Callable[..., str], tmp_path: Path
) -> None:
    nothing = ("-DCMAKE_FIND_ROOT_PATH=/nonexistent", "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY")
    said = run("cmake", "-S", ".", "-B", tmp_path, "-DZSM_CUDA=OFF", "-DZSM_DOWNLOAD=OFF", *nothing)
    cuda, onnxruntime = (line for line in said.splitlines() if "Skipped" in line)
    assert "CUDA kernels and TensorRT adapter" in cuda
    assert "ONNX Runtime adapter" in onnxruntime
    assert "set onnxruntime_INCLUDE_DIR" in onnxruntime
