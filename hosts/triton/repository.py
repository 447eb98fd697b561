"""Writes a model into a Triton model repository."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from zsm import __version__, files
from zsm.engine import Bundle
from zsm.engine.backends import choose_backend
from zsm.engine.devices import ChosenPrecision, Device, OpenOptions
from zsm.engine.tiling import Tiling
from zsm.errors import ArgumentError, OutputError
from zsm.runtime import windows
from zsm.runtime.arguments import at_least

FRAMES, RESTORED = "FRAMES", "RESTORED"
"""The input's and the output's name."""

BUNDLE = "bundle"
"""The bundle's folder, beside `model.py`."""

Dtype = Literal["uint8", "uint16", "float32"]
DTYPES: dict[Dtype, str] = {"uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "float32": "TYPE_FP32"}

MODEL = """\
from zsm.hosts.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""

CONFIG = """\
# Written by zsm {version}. A sequence is a video, a request its next frames (N,H,W,3), and the answer the outputs
# (M,4H,4W,3) that became final with them; there are none if M is 0.
backend: "python"
max_batch_size: 0
input [ {{ name: "{frames}" data_type: {dtype} dims: [ -1, -1, -1, 3 ] optional: true }} ]
output [ {{ name: "{restored}" data_type: {dtype} dims: [ -1, -1, -1, 3 ] }} ]
sequence_batching {{
  # Counted from the arrival of the sequence's last request, so the time it waits and is computed is included.
  max_sequence_idle_microseconds: {idle}
  oldest {{ max_candidate_sequences: {streams} }}
  control_input [
    {{ name: "START" control [ {{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "END" control [ {{ kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "SEQUENCE" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} ] }}
  ]
}}
instance_group [ {{ count: {instances} {kind} }} ]
"""

PARAMETER = 'parameters {{ key: "{name}" value {{ string_value: {value} }} }}\n'


def write_model(
    bundle: str | Path,
    repository: str | Path,
    *,
    name: str = "zsm",
    dtype: Dtype = "uint8",
    instances: int = 1,
    streams: int = 16,
    idle: int = 3600,
    device: str = "cpu",
    backend: str = "auto",
    precision: ChosenPrecision = "bundle",
    window: int = 4,
    overlap: int = 1,
    tile: str | None = "auto",
    memory: str | int | None = None,
    threads: int | None = None,
) -> Path:
    """Write a model that holds a `zsm.Runtime` into a Triton model repository, and return its folder.

    `bundle` is copied. `dtype`: of the frames. `instances`: processes with a Runtime each; each has up to `streams`
    videos open at once, and more wait. A video whose last request came in `idle` seconds ago is dropped, even if that
    request is still being computed. The other arguments are those of the Runtime. The server's Python needs zsm.

    The folder is complete or absent. Raises BundleError if there is no bundle, OutputError if the folder exists or
    can't be written, and ArgumentError, ArgumentTypeError or BackendError for an invalid argument.
    """
    opened = Bundle(bundle)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ArgumentError(f"invalid model name {name!r}; give letters, digits, '_', '-' and '.'")
    if dtype not in DTYPES:
        raise ArgumentError(f"invalid dtype {dtype!r}; choose from {', '.join(DTYPES)}")
    window, overlap = windows.check(window, overlap)
    where = Device.parse(device)
    choose_backend(opened, backend, OpenOptions(device=where, precision=precision, threads=threads))
    Tiling(opened, where, lambda: 0, window=window, overlap=overlap, tile=tile, memory=memory)
    target = Path(repository) / name
    if target.exists():
        raise OutputError(f"{target} already exists; give another name, or delete it")
    config = CONFIG.format(
        version=__version__,
        frames=FRAMES,
        restored=RESTORED,
        dtype=DTYPES[dtype],
        streams=at_least(1, "streams", streams),
        idle=at_least(1, "idle", idle) * 1_000_000,
        instances=at_least(1, "instances", instances),
        kind=f"kind: KIND_GPU gpus: [ {where.index} ]" if where.kind == "cuda" else "kind: KIND_CPU",
    )
    options = {"backend": backend, "precision": precision, "window": window, "overlap": overlap, "tile": tile or "off"}
    options |= {"memory": memory, "threads": threads, "device": device if where.on_host else None}
    given = {key: json.dumps(str(value)) for key, value in options.items() if value is not None}
    parameters = [PARAMETER.format(name=key, value=value) for key, value in given.items()]
    with files.staging(target) as folder:
        (folder / "config.pbtxt").write_text(config + "".join(parameters))
        version = folder / "1"
        version.mkdir()
        (version / "model.py").write_text(MODEL)
        shutil.copytree(opened.path, version / BUNDLE)
        folder.rename(target)
    return target


def runtime_options(parameters: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `zsm.Runtime` among a model's parameters; others are Triton's own."""
    texts = ("device", "backend", "precision", "tile", "memory")
    options: dict[str, Any] = {name: parameters[name] for name in texts if name in parameters}
    options |= {name: int(parameters[name]) for name in ("window", "overlap", "threads") if name in parameters}
    return options | ({"tile": None} if options.get("tile") == "off" else {})
