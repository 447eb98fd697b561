"""Builds the native code in its variants, and runs the tests that are written in C++."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.native_build import ROOT
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


def library_or_skip(built: Path, name: str) -> Path:
    library = built / "lib" / f"libzsm_{name}.so"
    if not library.exists():
        need: Need = "onnxruntime-headers" if name == "onnxruntime" else "tensorrt-headers"
        missing(need, f"{library.name} isn't built: its headers, or nvcc for TensorRT's, are absent")
    return library


@pytest.mark.parametrize("name", ADAPTERS)
def test_libraries_export_their_interface_and_nothing_else(built: Path, name: str) -> None:
    library = library_or_skip(built, name)
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


@pytest.mark.parametrize("name", ["core", *ADAPTERS])
def test_libraries_call_their_own_functions(built: Path, name: str) -> None:
    """And not those of another version that was loaded before: nothing of ours is left to the dynamic linker."""
    library = library_or_skip(built, name)
    relocations = subprocess.run(["readelf", "--relocs", "--wide", library], text=True, capture_output=True, check=True)
    assert "std" in relocations.stdout or "malloc" in relocations.stdout
    assert "zsm_" not in relocations.stdout


@pytest.mark.parametrize(
    ("nvcc", "codes"),
    [
        ("12.4.131", "75-real;80-real;86-real;89-real;90-real;80-virtual"),
        ("12.8.61", "75-real;80-real;86-real;89-real;90-real;100-real;120-real;80-virtual"),
        ("13.0.88", "75-real;80-real;86-real;89-real;90-real;100-real;120-real;80-virtual"),
    ],
)
def test_gpu_code_that_nvcc_can_make(run: Callable[..., str], tmp_path: Path, nvcc: str, codes: str) -> None:
    script = tmp_path / "architectures.cmake"
    module = ROOT / "cmake" / "ZsmCuda.cmake"
    script.write_text(f'include("{module}")\nzsm_cuda_architectures({nvcc} found)\nmessage("${{found}}")\n')
    assert run("cmake", "-P", script).splitlines()[-1] == codes


@pytest.mark.parametrize(("preset", "strict"), [("release", False), ("test", True)])
def test_warnings_stop_only_developers(preset: str, strict: bool, run: Callable[..., str], tmp_path: Path) -> None:
    run("cmake", "--preset", preset, "-B", tmp_path, "-DZSM_CUDA=OFF", "-DZSM_DOWNLOAD=OFF")
    assert ("-Werror" in (tmp_path / "build.ninja").read_text()) == strict


def test_without_a_static_standard_library(run: Callable[..., str], tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *-static-libstdc++*) exit 1; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    without = (f"-DCMAKE_CXX_COMPILER={compiler}", "-DZSM_CUDA=OFF", "-DZSM_DOWNLOAD=OFF")
    run("cmake", "-G", "Ninja", "-S", ".", "-B", tmp_path / "build", *without)
    rules = (tmp_path / "build" / "build.ninja").read_text()
    assert "-Wl,--version-script" in rules
    assert "-static-libstdc++" not in rules


def test_headers_of_an_old_onnxruntime_are_ignored(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "onnxruntime_c_api.h").write_text("#pragma once\n#define ORT_API_VERSION 17\n")
    given = (f"-Donnxruntime_INCLUDE_DIR={tmp_path}", "-DZSM_CUDA=OFF", "-DZSM_DOWNLOAD=OFF")
    said = run("cmake", "-S", ".", "-B", tmp_path / "build", *given)
    assert f"Ignored: the headers of ONNX Runtime 1.17 in {tmp_path}. 1.18 or later is needed." in said
    assert "Skipped: ONNX Runtime adapter" in said
    (tmp_path / "onnxruntime_c_api.h").write_text("#pragma once\n#define ORT_API_VERSION 18\n")
    said = run("cmake", "-S", ".", "-B", tmp_path / "build", *given)
    assert "ONNX Runtime" not in said


@pytest.mark.parametrize(
    ("there", "configures", "says"),
    [
        ([], ["cmake --preset release -DZSM_CUDA=OFF"], "ONNX Runtime's headers are missing"),
        (["CMakeCache.txt"], ["cmake build/release"], "ONNX Runtime's headers are missing"),
        (["CMakeCache.txt", "lib/libzsm_onnxruntime.so"], [], "The native deformable convolution is used"),
    ],
    ids=["nothing", "without headers", "all"],
)
def test_the_demo_builds_what_changed(there: list[str], configures: list[str], says: str, tmp_path: Path) -> None:
    tools, release = tmp_path / "bin", tmp_path / "build" / "release"
    for folder in (tools, tmp_path / "scripts", release / "lib"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "native.sh", tmp_path / "scripts")
    for name in ("pip", "cmake", "c++"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tools / name).chmod(0o755)
    for name in there:
        (release / name).touch()
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run([tmp_path / "scripts" / "native.sh"], env=environment, check=True, capture_output=True)
    _, *commands = (tmp_path / "build" / "native.log").read_text().splitlines()
    assert commands == [*configures, "cmake --build --preset release"]
    assert says in done.stderr.decode().splitlines()[-1]


def test_headers_that_cannot_be_downloaded_cost_only_their_adapter(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    nowhere = ("-DCMAKE_FIND_ROOT_PATH=/nonexistent", "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY")
    said = run("cmake", "-G", "Ninja", "-S", ".", "-B", tmp_path, "-DZSM_CUDA=OFF", *nowhere)
    assert "The download failed: " in said
    assert "Skipped: ONNX Runtime adapter" in said
    rules = (tmp_path / "build.ninja").read_text()
    assert "libzsm_core.so" in rules
    assert "libzsm_onnxruntime.so" not in rules


def test_without_nvcc_and_headers_the_rest_builds_and_says_what_is_missing(
    run: Callable[..., str], tmp_path: Path
) -> None:
    nothing = ("-DCMAKE_FIND_ROOT_PATH=/nonexistent", "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY")
    said = run("cmake", "-S", ".", "-B", tmp_path, "-DZSM_CUDA=OFF", "-DZSM_DOWNLOAD=OFF", *nothing)
    cuda, onnxruntime = (line for line in said.splitlines() if "Skipped" in line)
    assert "CUDA kernels and TensorRT adapter" in cuda
    assert "ONNX Runtime adapter" in onnxruntime
    assert "set onnxruntime_INCLUDE_DIR" in onnxruntime
