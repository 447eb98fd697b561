"""TensorRT's Python bindings: import, version check, and logging to zsm's logger."""

import hashlib
import importlib
import logging
from collections import deque
from functools import cache
from typing import Any

from zsm.errors import BackendError
from zsm.plugins import load
from zsm.plugins.operator import NAME

OLDEST = (10, 1)
MAJORS = (10, 11)
ADVICE = "install 10.1 to 11 (pip install tensorrt); to run a bundle without TensorRT, give --backend onnxruntime"

log = logging.getLogger("zsm.tensorrt")

errors: deque[str] = deque(maxlen=5)
"""The last errors that TensorRT logged; its functions report none themselves."""


@cache
def tensorrt() -> Any:
    """Import the bindings; raises BackendError, which says what to install."""
    try:
        module = importlib.import_module("tensorrt")
    except ImportError as error:
        raise BackendError(f"TensorRT can't be imported ({error}); {ADVICE}") from error
    check_version(module.__version__)
    return module


def check_version(version: str) -> None:
    """Raise BackendError for an unsupported version of TensorRT."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < OLDEST or major not in MAJORS:
        raise BackendError(f"TensorRT {version} isn't supported; {ADVICE}")


@cache
def logger() -> Any:
    """A logger that passes TensorRT's messages to ours."""
    trt = tensorrt()
    severe = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
    # Errors are in the message of the exception that follows, unless TensorRT recovers. Users can't act on warnings.
    levels = dict.fromkeys((*severe, trt.ILogger.WARNING), logging.INFO)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Forwards TensorRT's messages."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if severity in severe:
                errors.append(message)
            log.log(levels.get(severity, logging.DEBUG), "%s", message)

    return Logger()


def failure(what: str) -> BackendError:
    """An error that ends with the last errors TensorRT logged."""
    said = "; ".join(dict.fromkeys(errors)) or "no reason was logged"
    errors.clear()
    return BackendError(f"{what}: {said}")


def plugin(graph: bytes) -> str:
    """Register the plugin if a graph needs it; returns the SHA-256 of its library, or an empty string."""
    if NAME.encode() not in graph:
        return ""
    return hashlib.sha256(load(tensorrt()).read_bytes()).hexdigest()
