"""From a network in PyTorch to a bundle of ONNX graphs."""

from zsm.export.bundle import Exported, ExportError, Options, export_bundle

__all__ = ["ExportError", "Exported", "Options", "export_bundle"]
