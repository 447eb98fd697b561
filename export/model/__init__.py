"""The network in PyTorch, and the checkpoints it loads."""

from zsm.export.model.network import Network

__all__ = ["Network"]
