"""What some tests need and a machine may lack.

A test whose need is missing is skipped. `ZSM_REQUIRE` lists needs, separated by commas, that make it fail instead, so
that CI notices when a job has lost what it is there to test; `all` stands for every need. `ZSM_REQUIRE_GPU=1` requires
whatever the GPU tests need.
"""

import importlib
import os
from typing import Any, Literal, NoReturn, get_args

import pytest

Need = Literal[
    "compiler",
    "compute-sanitizer",
    "cuda-provider",
    "cuda-python",
    "cupy",
    "ffmpeg",
    "gpu",
    "nvcc",
    "onnxruntime-gpu",
    "onnxruntime-headers",
    "openvino",
    "polygraphy",
    "pycuda",
    "ray",
    "reference-data",
    "tensorrt",
    "tensorrt-builder",
    "tensorrt-headers",
    "torch-cuda",
    "torchvision",
    "triton",
    "vapoursynth",
]


GPU: tuple[Need, ...] = (
    "compute-sanitizer",
    "cuda-python",
    "cupy",
    "gpu",
    "nvcc",
    "onnxruntime-gpu",
    "onnxruntime-headers",
    "pycuda",
    "tensorrt",
    "tensorrt-headers",
    "torch-cuda",
    "torchvision",
)
"""The needs of tests marked `gpu`."""


def required() -> set[str]:
    """The needs that the environment requires. Raises pytest.UsageError if one is unknown."""
    names = set(filter(None, os.environ.get("ZSM_REQUIRE", "").split(",")))
    if os.environ.get("ZSM_REQUIRE_GPU") == "1":
        names |= set(GPU)
    if unknown := names - {"all", *get_args(Need)}:
        raise pytest.UsageError(f"ZSM_REQUIRE: unknown {', '.join(sorted(unknown))}; choose from {get_args(Need)}")
    return set(get_args(Need)) if "all" in names else names


def missing(need: Need, why: str) -> NoReturn:
    """Skip the test, or fail it if `need` is required."""
    if need in required():
        pytest.fail(f"required by ZSM_REQUIRE, but {why}", pytrace=False)
    pytest.skip(why)


def module(name: str, need: Need, install: str) -> Any:
    """Import an optional module; `install` is the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(need, f"{name} is not installed: {install}")


def torch_cuda() -> None:
    """Skip the test, or fail it, if torch finds no GPU."""
    if not importlib.import_module("torch").cuda.is_available():
        missing("torch-cuda", "torch finds no GPU")


def cuda_provider() -> None:
    """Skip the test, or fail it, without ONNX Runtime's CUDA provider."""
    install = "pip install onnxruntime-gpu"
    if "CUDAExecutionProvider" not in module("onnxruntime", "onnxruntime-gpu", install).get_available_providers():
        missing("onnxruntime-gpu", f"ONNX Runtime has no CUDA provider: {install}")
