"""What executes stages: one module an inference library."""

from zsm.engine.backends.base import BACKENDS, BackendError, Device, open_backend
from zsm.engine.backends.timed import TimedBackend

__all__ = ["BACKENDS", "BackendError", "Device", "TimedBackend", "open_backend"]
