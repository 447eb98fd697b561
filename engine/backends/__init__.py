"""One module or package per inference library, and the choice between them."""

import importlib
import importlib.util
import logging

from zsm.engine.backends import measured
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.devices import OpenOptions
from zsm.errors import ArgumentTypeError, BackendError
from zsm.runtime import Backend

log = logging.getLogger("zsm")

MODULES = {
    ("onnxruntime", "cpu"): "zsm.engine.backends.onnxruntime",
    ("onnxruntime", "cuda"): "zsm.engine.backends.gpu.onnxruntime",
    ("openvino", "cpu"): "zsm.engine.backends.openvino",
    ("openvino", "gpu"): "zsm.engine.backends.openvino",
    ("openvino", "npu"): "zsm.engine.backends.openvino",
    ("tensorrt", "cuda"): "zsm.engine.backends.tensorrt.backend",
}
"""The module for each backend and kind of device; each defines `open_bundle(bundle, options)`."""

BACKENDS = tuple(dict.fromkeys(backend for backend, _ in MODULES))


def open_backend(bundle: Bundle, backend: str, options: OpenOptions) -> tuple[Backend, str]:
    """Open a bundle on a device; also returns the reason for the choice of backend, which is logged.

    Never falls back to another device, backend or precision. Raises BackendError.
    """
    name, reason = choose_backend(bundle, backend, options)
    log.info("%s on %s with %s (%s)", bundle.path, options.device, name, reason)
    try:
        module = importlib.import_module(MODULES[name, options.device.kind])
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        extra = "gpu" if options.device.kind == "cuda" else {"onnxruntime": "cpu"}.get(name, name)
        raise BackendError(f"{name} isn't installed: pip install 'zsm[{extra}]'") from error
    opened: Backend = module.open_bundle(bundle, options)
    return opened, reason


def choose_backend(bundle: Bundle, backend: str, options: OpenOptions) -> tuple[str, str]:
    """Choose a backend by what is installed, without trying whether it works; returns its name and the reason.

    Raises BackendError for a backend that is unknown, or doesn't run on the device or in the precision.
    """
    if not isinstance(backend, str):
        raise ArgumentTypeError(f"backend is {backend!r}; give 'auto' or one of {', '.join(BACKENDS)}")
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"unknown backend {backend!r}; choose auto, {', '.join(BACKENDS)}")
    device = options.device
    name, reason = _automatic(bundle, options) if backend == "auto" else (backend, "as requested")
    if (name, device.kind) not in MODULES:
        kinds = " or ".join(kind for known, kind in MODULES if known == name)
        raise BackendError(f"the {name} backend doesn't run on {device}, but on {kinds}; give another --device")
    if options.precision == "bfloat16" and name != "openvino":
        raise BackendError(f"the {name} backend computes in the bundle's precision only; for bfloat16, choose openvino")
    return name, reason


def _automatic(bundle: Bundle, options: OpenOptions) -> tuple[str, str]:
    device = options.device
    if device.kind == "cuda":
        if importlib.util.find_spec("tensorrt") is not None:
            return "tensorrt", "TensorRT is installed"
        return "onnxruntime", "TensorRT is not installed"
    if device.kind != "cpu":
        return "openvino", f"the only backend for {device}"
    if options.precision == "bfloat16":
        return "openvino", "the only backend that computes in bfloat16"
    if importlib.util.find_spec("openvino") is None:
        return "onnxruntime", "OpenVINO is not installed"
    if importlib.util.find_spec("onnxruntime") is None:
        return "openvino", "ONNX Runtime is not installed"
    seconds = measured.recall(bundle)
    if not seconds:
        return "onnxruntime", "the default on a CPU; zsm bench --compare measures whether OpenVINO is faster"
    fastest = min(seconds, key=lambda name: seconds[name])
    return fastest, f"the fastest when zsm bench --compare measured {', '.join(seconds)} here"
