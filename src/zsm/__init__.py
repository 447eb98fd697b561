"""Space-time video super-resolution: 4x the resolution, 2x the frame rate.

import zsm

with zsm.Runtime("compact") as rt:
    video = rt(clip)  # (N,H,W,3) -> (2N-1,4H,4W,3)
"""

import os
import sys
from typing import TYPE_CHECKING, Any

from zsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendError,
    BundleError,
    CacheError,
    ClusterError,
    DataError,
    Error,
    FrameError,
    OutOfMemoryError,
    OutputError,
    PluginError,
    SizeError,
    StoppedError,
    TileError,
    TrainingError,
    VideoError,
    WindowError,
)

if TYPE_CHECKING:
    from zsm.engine import Runtime

# ONNX Runtime and OpenVINO would send usage events. They look for this when they are first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = "0.1.0"
__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BackendError",
    "BundleError",
    "CacheError",
    "ClusterError",
    "DataError",
    "Error",
    "FrameError",
    "OutOfMemoryError",
    "OutputError",
    "PluginError",
    "Runtime",
    "SizeError",
    "StoppedError",
    "TileError",
    "TrainingError",
    "VideoError",
    "WindowError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # `import zsm` stays fast: NumPy and the inference libraries are loaded with the Runtime.
    if name == "Runtime":
        from zsm.engine import Runtime

        return Runtime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
