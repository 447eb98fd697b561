"""Finds the native libraries, and registers the plugin with TensorRT.

They are looked for in `$ZSM_PLUGIN_DIR`; if that isn't set, in the installed package (a wheel built with them), then in
the build folder of a checkout.
"""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from zsm.errors import PluginError
from zsm.plugins import operator

VARIABLE = "ZSM_PLUGIN_DIR"
_PACKAGE = Path(__file__).resolve().parent


def directories() -> tuple[Path, ...]:
    """The folders to search, in order. Raises PluginError if `$ZSM_PLUGIN_DIR` isn't a folder."""
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return _PACKAGE / "lib", _PACKAGE.parent / "build" / "release" / "lib"
    if not Path(chosen).is_dir():
        raise PluginError(
            f"{VARIABLE} is {chosen}, which isn't a folder; set it to the one with libzsm_*.so, or unset it"
        )
    return (Path(chosen).resolve(),)


def library(name: str) -> Path | None:
    """The path of a library (core, onnxruntime, tensorrt10, tensorrt11), or None if there is none."""
    files = (folder / f"libzsm_{name}.so" for folder in directories())
    return next((file for file in files if file.is_file()), None)


def onnxruntime_library() -> Path | None:
    """The path for `SessionOptions.register_custom_ops_library`, or None if there is none."""
    return library("onnxruntime")


def load(tensorrt: ModuleType) -> Path:
    """Register the plugin with TensorRT, once per process; returns the library's path.

    `tensorrt` is the imported module: tensorrt, tensorrt_lean or tensorrt_dispatch. Raises PluginError if there is no
    library for its major version, or if TensorRT can't load it.
    """
    name = f"tensorrt{tensorrt.__version__.split('.')[0]}"
    path = library(name)
    if path is None:
        raise PluginError(
            f"no plugin for TensorRT {tensorrt.__version__}: libzsm_{name}.so is not in "
            f"{' or '.join(map(str, directories()))}; build it (docs/profiling.md) or set {VARIABLE}"
        )
    registry = tensorrt.get_plugin_registry()
    if not _registered(registry):
        registry.load_library(str(path))
        if not _registered(registry):
            raise PluginError(f"TensorRT {tensorrt.__version__} can't load {path}; its log says why")
    return path


def _registered(registry: Any) -> bool:
    wanted = (operator.NAME, str(operator.VERSION), operator.DOMAIN)
    return any((c.name, c.plugin_version, c.plugin_namespace) == wanted for c in registry.all_creators)
