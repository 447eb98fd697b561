"""Exports a PyTorch network as a bundle of ONNX graphs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsm.export.bundle import Exported, Options, export_bundle, export_weights

__all__ = ["Exported", "Options", "export_bundle", "export_weights"]


def __getattr__(name: str) -> Any:
    # Fetching weights needs no torch; everything named here does.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zsm.export import bundle

    return getattr(bundle, name)
