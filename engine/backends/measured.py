"""What `zsm bench --compare` measured on this machine, remembered in the cache folder for `--backend auto`."""

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from zsm import files
from zsm.engine import host
from zsm.engine.bundle.manifest import Bundle
from zsm.limits import cores

log = logging.getLogger("zsm")

LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino")


def remember(bundle: Bundle, seconds: Mapping[str, float]) -> None:
    """Store the seconds per output frame that each backend took on the CPU. If that fails, it is logged."""
    try:
        files.write(_file(bundle), json.dumps(seconds))
    except OSError as error:
        log.warning("measurements can't be written: %s; --backend auto won't know them", error)


def recall(bundle: Bundle) -> dict[str, float]:
    """What was measured with this bundle, processor and these versions of the libraries; empty if nothing was."""
    try:
        seconds: dict[str, float] = json.loads(_file(bundle).read_bytes())
    except (OSError, ValueError):
        return {}
    return seconds


def _file(bundle: Bundle) -> Path:
    key = json.dumps([bundle.manifest.to_json(), host.processor(), cores(), *map(_version, LIBRARIES)])
    return files.cache_folder() / "measured" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
