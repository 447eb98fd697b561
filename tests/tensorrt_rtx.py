"""NVIDIA's ONNX parser and builder without a GPU, as the module `tensorrt`.

TensorRT builds engines on GPUs only. TensorRT for RTX, in the package `onnxruntime-ep-nv-tensorrt-rtx-cu13`, has the
same parser, builder and plugin registry, and also builds on a CPU. It is on PyPI without Python bindings, but those of
TensorRT 11 work on it once tests/plugins/native/rtx.cc has given it the names of TensorRT 11's libraries.

It can't load or run an engine without a GPU. Its `ITensor` lacks some functions of TensorRT 11's, so calls of the later
ones go astray. `allowed_formats`, the only one that we use, is therefore a Python property here, which keeps a record.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

from tests.needs import missing, module

from zsm.engine.backends.tensorrt import bindings

INSTALL = "pip install 'zsm[tensorrt-builder]'"
THEIRS = ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
OURS = ("libtensorrt_rtx.so", "libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")


def package() -> Path:
    """The folder of TensorRT for RTX."""
    found = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if found is None or found.origin is None:
        missing("tensorrt-builder", f"TensorRT for RTX is not installed: {INSTALL}")
    return Path(found.origin).parent


@cache
def load(libraries: Path) -> ModuleType:
    """Import TensorRT's bindings on TensorRT for RTX; `libraries` is the folder of what rtx.cc becomes."""
    for file in (*(next(package().glob(name)) for name in THEIRS), *(libraries / name for name in OURS)):
        ctypes.CDLL(str(file))
    tensorrt: ModuleType = module("tensorrt_bindings", "tensorrt-builder", INSTALL)
    tensorrt.ITensor.allowed_formats = property(fset=lambda tensor, formats: asked.append((tensor.name, formats)))
    return tensorrt


asked: list[tuple[str, int]] = []
"""Every assignment to `allowed_formats`: the tensor's name, and the formats as bits."""


logger = cache(bindings.logger.__wrapped__)
"""Makes our logger for TensorRT, once: TensorRT keeps a process's first logger for good."""
