"""The deformable convolution: its definition as an operator, and its native implementations."""

from zsm.plugins.library import PluginError, directories, library, load, onnxruntime_library

__all__ = ["PluginError", "directories", "library", "load", "onnxruntime_library"]
