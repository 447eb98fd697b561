"""Finding the native libraries, and registering TensorRT's.

They are looked for in the folder that `ZSM_PLUGIN_DIR` names; without it, in the installed package (a wheel that
was built with them) and then in the build folder of a checkout.
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
    """Where libraries are looked for, first to last.

    Raises PluginError if ZSM_PLUGIN_DIR names no folder.
    """
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return _PACKAGE / "lib", _PACKAGE.parent / "build" / "release" / "lib"
    if not Path(chosen).is_dir():
        raise PluginError(f"{VARIABLE} is {chosen}, which is no folder; name one with libzsm_*.so, or unset it")
    return (Path(chosen).resolve(),)


def library(name: str) -> Path | None:
    """The library of that name (core, onnxruntime, tensorrt10, tensorrt11), or None if it isn't there."""
    files = (folder / f"libzsm_{name}.so" for folder in directories())
    return next((file for file in files if file.is_file()), None)


def onnxruntime_library() -> Path | None:
    """The library for `SessionOptions.register_custom_ops_library`, or None if it isn't there."""
    return library("onnxruntime")


def load(tensorrt: ModuleType) -> Path:
    """Register the plugin with TensorRT, once a process; returns the library it comes from.

    `tensorrt` is the imported module: tensorrt, tensorrt_lean or tensorrt_dispatch. Raises PluginError if there is
    no library for its major version, or if it can't be loaded.
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
