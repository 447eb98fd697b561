"""Turns a bundle into something that runs.

| module | contains |
|---|---|
| `runtime` | `Runtime`: frames in, frames out |
| `bundle/` | the bundle on disk: manifest, network configuration, tensor shapes |
| `devices` | device names and options |
| `backends/` | one module or package per inference library |
| `memory`, `tiling` | the memory a frame size needs, and the tiles that fit |
| `host` | the host's processor and memory |
| `diagnose/` | benchmark, profile, verify, locate |

Imports run one way: `bundle` <- `devices` <- `host` <- `backends` <- `memory` <- `tiling` <- `runtime` <- `diagnose`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendError,
    BundleError,
    CacheError,
    FrameError,
    OutOfMemoryError,
    PluginError,
    SizeError,
    TileError,
    WindowError,
)

if TYPE_CHECKING:
    from zsm.engine.backends.gpu.frames import DeviceFrame
    from zsm.engine.backends.timed import StageTime
    from zsm.engine.bundle.manifest import Bundle, Manifest
    from zsm.engine.bundle.network import NetworkConfig
    from zsm.engine.runtime import Runtime

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BackendError",
    "Bundle",
    "BundleError",
    "CacheError",
    "DeviceFrame",
    "FrameError",
    "Manifest",
    "NetworkConfig",
    "OutOfMemoryError",
    "PluginError",
    "Runtime",
    "SizeError",
    "StageTime",
    "TileError",
    "WindowError",
]

_LAZY = {
    "Bundle": "bundle.manifest",
    "DeviceFrame": "backends.gpu.frames",
    "Manifest": "bundle.manifest",
    "NetworkConfig": "bundle.network",
    "Runtime": "runtime",
    "StageTime": "backends.timed",
}
"""The module that defines each name; imported when the name is first used."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"zsm.engine.{_LAZY[name]}"), name)
