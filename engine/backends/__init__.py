"""What executes stages: one module an inference library."""

from zsm.engine.backends.base import BACKENDS, BackendError, Device, open_backend

__all__ = ["BACKENDS", "BackendError", "Device", "open_backend"]
