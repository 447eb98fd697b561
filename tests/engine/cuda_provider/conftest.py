"""ONNX Runtime's CUDA provider on libraries that stand in for CUDA's; see stubs.py."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engine.cuda_provider import stubs
from tests.needs import missing

from zsm.engine.backends.gpu.onnxruntime import load_cuda

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "build" / "cuda-provider"
PACKAGES = FOLDER / "packages"
"""Where `make test-cuda-provider` installs onnxruntime-gpu, without CUDA."""


@pytest.fixture(scope="session")
def provider() -> Path:
    """The provider's library."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None or not Path(found.origin).is_relative_to(PACKAGES):
        missing("cuda-provider", "onnxruntime-gpu is not in use: run make test-cuda-provider")
    if not shutil.which("nvcc"):
        missing("nvcc", "nvcc is not installed: it has the headers that the stand-ins for CUDA need")
    return Path(found.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"


@pytest.fixture(scope="session")
def journal(provider: Path) -> stubs.Journal:
    """The stand-ins' journal. The code under test finds them where pip installs CUDA."""
    nvidia = PACKAGES / "nvidia"
    stubs.build(provider, nvidia, FOLDER)
    ctypes.CDLL(str(FOLDER / stubs.DRIVER), ctypes.RTLD_GLOBAL)
    load_cuda()
    return stubs.Journal(nvidia / stubs.RUNTIME)


@pytest.fixture(scope="session")
def operator(journal: stubs.Journal) -> Path:
    """The folder of our operator, built to call CUDA's runtime in a shared library: the stand-in."""
    headers = os.environ.get("ZSM_ONNXRUNTIME_INCLUDE_DIR")
    if not headers:
        missing("onnxruntime-headers", "ZSM_ONNXRUNTIME_INCLUDE_DIR is not set, so our operator isn't built")
    settings = {
        "CMAKE_CUDA_ARCHITECTURES": "90-real",
        "CMAKE_CUDA_RUNTIME_LIBRARY": "Shared",
        "CMAKE_SKIP_BUILD_RPATH": "ON",
        "onnxruntime_INCLUDE_DIR": headers,
    }
    build = FOLDER / "build"
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    definitions = [f"-D{name}={value}" for name, value in settings.items()]
    subprocess.run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, *definitions], check=True, env=tools)
    subprocess.run(["cmake", "--build", build, "--target", "zsm_onnxruntime"], check=True, env=tools)
    return build / "lib"
