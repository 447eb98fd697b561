"""From a bundle to something that runs."""

from zsm.engine.backends import BackendError
from zsm.engine.bundle import Bundle, BundleError, Manifest
from zsm.engine.network import ConfigError, NetworkConfig
from zsm.engine.runtime import Runtime

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "ConfigError",
    "Manifest",
    "NetworkConfig",
    "Runtime",
]
