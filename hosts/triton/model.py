"""The model that Triton's Python backend loads: `1/model.py` in the repository imports it from here."""

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # exists within the server only
from numpy.typing import NDArray

from zsm.engine import Runtime
from zsm.errors import Error
from zsm.hosts.triton.repository import BUNDLE, FRAMES, RESTORED, runtime_options
from zsm.hosts.triton.streams import Streams

USED = b"used_dltensor"
"""DLPack's name for a capsule whose tensor was taken over."""


class TritonPythonModel:
    """Frames in, the outputs that became final out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle; called once for each instance, in a process of its own."""
        config = json.loads(args["model_config"])
        options = runtime_options({name: value["string_value"] for name, value in config["parameters"].items()})
        if args["model_instance_kind"] == "GPU":
            options["device"] = f"cuda:{args['model_instance_device_id']}"
        self._runtime = Runtime(Path(args["model_repository"]) / args["model_version"] / BUNDLE, **options)
        self._streams = Streams(self._runtime, config["sequence_batching"]["oldest"]["max_candidate_sequences"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, each of another sequence."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Release what the Runtime holds."""
        self._runtime.close()

    def _answer(self, request: Any) -> Any:
        sequence, start, end = (int(_input(request, name)[0]) for name in ("SEQUENCE", "START", "END"))
        frames = _input(request, FRAMES)
        try:
            outputs = self._streams.push(sequence, frames, start=bool(start), end=bool(end))
            # Triton refuses tensors without elements.
            return triton.InferenceResponse([_tensor(RESTORED, np.stack(outputs))] if outputs else [])
        except (Error, MemoryError) as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error)))


# Through DLPack, as servers up to 2.51 exchange empty arrays with NumPy 2.


def _input(request: Any, name: str) -> Any:
    """An input as an array; empty if it was left out."""
    tensor = triton.get_input_tensor_by_name(request, name)
    return () if tensor is None else np.from_dlpack(tensor)


def _tensor(name: str, array: NDArray[Any]) -> Any:
    capsule = array.__dlpack__()
    tensor = triton.Tensor.from_dlpack(name, capsule)
    # Triton gives a used capsule a name that NumPy doesn't recognise, so that NumPy prints an error when it is freed.
    ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), USED)
    return tensor
