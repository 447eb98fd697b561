"""zsm on a Triton inference server: `write_model` makes a model repository's entry, which the other modules serve."""

from zsm.hosts.triton.repository import write_model

__all__ = ["write_model"]
