"""One module or package per inference library, and the choice between them."""

import importlib
import importlib.util
import logging

from zsm.engine.bundle.manifest import Bundle
from zsm.engine.devices import Device, Place
from zsm.errors import BackendError
from zsm.runtime import Backend

log = logging.getLogger("zsm")

MODULES = {
    ("onnxruntime", "cpu"): "zsm.engine.backends.onnxruntime",
    ("onnxruntime", "cuda"): "zsm.engine.backends.gpu.onnxruntime",
    ("tensorrt", "cuda"): "zsm.engine.backends.tensorrt.backend",
}
"""The module for each backend and kind of device; each defines `open_bundle(bundle, place)`."""

BACKENDS = tuple(dict.fromkeys(backend for backend, _ in MODULES))


def open_backend(bundle: Bundle, backend: str, where: Place) -> tuple[Backend, str]:
    """Open a bundle's stages where asked; also why with this backend, as the log says. Never fall back."""
    name, reason = choose_backend(where.device, backend)
    log.info("%s on %s with %s (%s)", bundle.path, where.device, name, reason)
    module = importlib.import_module(MODULES[name, where.device.kind])
    opened: Backend = module.open_bundle(bundle, where)
    return opened, reason


def choose_backend(device: Device, backend: str) -> tuple[str, str]:
    """The backend to take on a device, and why. This looks at what is installed, not at what works."""
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"unknown backend {backend!r}; choose auto, {', '.join(BACKENDS)}")
    if backend != "auto":
        if (backend, device.kind) not in MODULES:
            raise BackendError(f"the {backend} backend doesn't run on {device}; give --device cuda:N")
        return backend, "as asked"
    if device.kind == "cpu":
        return "onnxruntime", "the one for the cpu"
    if importlib.util.find_spec("tensorrt") is not None:
        return "tensorrt", "TensorRT is installed"
    return "onnxruntime", "TensorRT is not installed"
