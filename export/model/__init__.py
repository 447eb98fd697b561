"""The network in PyTorch, and the checkpoints it loads."""

from zsm.engine.bundle.network import NetworkConfig
from zsm.export.model.network import Network

__all__ = ["Network", "NetworkConfig"]
