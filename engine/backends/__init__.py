"""What executes stages: one module an inference library."""

from zsm.engine.backends.base import BACKENDS, CLOSED, BackendError, Device, Place, open_backend
from zsm.engine.backends.timed import StageTime, TimedBackend

__all__ = ["BACKENDS", "CLOSED", "BackendError", "Device", "Place", "StageTime", "TimedBackend", "open_backend"]
