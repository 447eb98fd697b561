"""The deformable convolution: its definition as an operator, and its native implementations."""

from zsm.plugins.library import directories, library, load, onnxruntime_library

__all__ = ["directories", "library", "load", "onnxruntime_library"]
