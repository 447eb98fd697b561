"""One module or package per inference library, and the choice between them."""

import importlib
import importlib.util
import logging

from zsm.engine.bundle.manifest import Bundle
from zsm.engine.devices import Device, OpenOptions
from zsm.errors import ArgumentTypeError, BackendError
from zsm.runtime import Backend

log = logging.getLogger("zsm")

MODULES = {
    ("onnxruntime", "cpu"): "zsm.engine.backends.onnxruntime",
    ("onnxruntime", "cuda"): "zsm.engine.backends.gpu.onnxruntime",
    ("tensorrt", "cuda"): "zsm.engine.backends.tensorrt.backend",
}
"""The module for each backend and kind of device; each defines `open_bundle(bundle, options)`."""

BACKENDS = tuple(dict.fromkeys(backend for backend, _ in MODULES))


def open_backend(bundle: Bundle, backend: str, options: OpenOptions) -> tuple[Backend, str]:
    """Open a bundle on a device; also returns the reason for the choice of backend, which is logged.

    Never falls back to another device or backend. Raises BackendError.
    """
    name, reason = choose_backend(options.device, backend)
    log.info("%s on %s with %s (%s)", bundle.path, options.device, name, reason)
    module = importlib.import_module(MODULES[name, options.device.kind])
    opened: Backend = module.open_bundle(bundle, options)
    return opened, reason


def choose_backend(device: Device, backend: str) -> tuple[str, str]:
    """Choose a backend by what is installed, without trying whether it works; returns its name and the reason.

    Raises BackendError for a backend that is unknown or doesn't run on the device.
    """
    if not isinstance(backend, str):
        raise ArgumentTypeError(f"backend is {backend!r}; give 'auto' or one of {', '.join(BACKENDS)}")
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"unknown backend {backend!r}; choose auto, {', '.join(BACKENDS)}")
    if backend != "auto":
        if (backend, device.kind) not in MODULES:
            raise BackendError(f"the {backend} backend doesn't run on {device}; give --device cuda:N")
        return backend, "as requested"
    if device.kind == "cpu":
        return "onnxruntime", "the only backend for the CPU"
    if importlib.util.find_spec("tensorrt") is not None:
        return "tensorrt", "TensorRT is installed"
    return "onnxruntime", "TensorRT is not installed"
