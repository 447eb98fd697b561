"""From a bundle to something that runs."""

from zsm.engine.network import NetworkConfig

__all__ = ["NetworkConfig"]
