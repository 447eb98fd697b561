"""Sessions whose tensors are NumPy arrays, for libraries that read and write the host's memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from zsm.engine.backends import blocks
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.devices import CLOSED
from zsm.errors import BackendError, FrameError
from zsm.runtime import Pixels
from zsm.runtime.backend import DevicePixels
from zsm.runtime.network import SCALE

Array = NDArray[Any]

Stage = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Executes a stage: inputs by name to outputs by name. The outputs are new arrays."""


def open_stages(bundle: Bundle, open_part: Callable[[str, bytes], Stage]) -> dict[str, Stage]:
    """Open all stages of a bundle. `open_part` opens an ONNX graph, given the stage's name and the graph."""
    return {name: _open_stage(name, bundle.read(name), open_part) for name in bundle.manifest.stages}


def _open_stage(name: str, content: bytes, open_part: Callable[[str, bytes], Stage]) -> Stage:
    parts = blocks.cut(onnx.load_from_string(content)) if name == "reconstruct" else None
    if parts is None:
        return open_part(name, content)
    trunk, tail = (open_part(name, part.SerializeToString()) for part in (parts.trunk, parts.tail))
    return _blockwise(trunk, tail, parts)


def _blockwise(trunk: Stage, tail: Stage, parts: blocks.Cut) -> Stage:
    """A reconstruction in two parts, the second of which works on blocks of the frame."""
    tail_inputs = [value.name for value in parts.tail.graph.input]
    output = parts.tail.graph.output[0].name

    def execute(inputs: Mapping[str, Array]) -> dict[str, Array]:
        known = trunk({name: array for name, array in inputs.items() if name not in tail_inputs})
        tensors = {**inputs, **known}
        given = {name: tensors[name] for name in tail_inputs}
        return {output: blocks.run(lambda part: tail(part)[output], given, parts.margin)}

    return execute


def failure(stage: str, shapes: Mapping[str, Any], error: Exception) -> BackendError:
    """The error for a stage whose execution failed."""
    given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return BackendError(f"stage {stage} failed on {given}: {error}")


STRIP = 128
"""Rows of an output that are converted to pixels at a time."""


class ArraySession:
    """The stages for frames of one size."""

    batched = False  # a core has enough to do with one frame, and a batch needs twice the memory

    def __init__(self, stages: Mapping[str, Stage], height: int, width: int) -> None:
        self._stages = stages
        self._height, self._width = SCALE * height, SCALE * width

    def ingest(self, frame: Pixels | DevicePixels) -> Array:
        """Convert a frame (h,w,3) to planes (1,3,H,W)."""
        pixels = np.ascontiguousarray(frame)
        return self.run(f"ingest_{pixels.dtype.name}", {"pixels": pixels[None]})["planes"]

    def run(self, stage: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Execute a stage."""
        if not self._stages:
            raise BackendError(CLOSED)
        try:
            return self._stages[stage](inputs)
        except Exception as error:
            raise failure(stage, {name: array.shape for name, array in inputs.items()}, error) from error

    def emit(self, planes: Array, dtype: np.dtype[Any]) -> Array:
        """Convert planes (1,3,4H,4W) to pixels (1,4h,4w,3)."""
        pixels = np.empty((1, self._height, self._width, 3), dtype)
        for top in range(0, self._height, STRIP):
            rows = slice(top, min(top + STRIP, self._height))
            strip = {
                "planes": np.ascontiguousarray(planes[:, :, rows]),
                "size": np.array([rows.stop - rows.start, self._width], np.int64),
            }
            pixels[:, rows] = self.run(f"emit_{dtype.name}", strip)["pixels"]
        return pixels

    def zeros_like(self, tensor: Array) -> Array:
        return np.zeros_like(tensor)

    def concatenate(self, tensors: Sequence[Array]) -> Array:
        return np.concatenate(tensors)

    def split(self, tensor: Array) -> list[Array]:
        return [tensor[i : i + 1] for i in range(len(tensor))]

    def from_host(self, array: Array) -> Array:
        return array.copy()

    def to_host(self, tensor: Array) -> Callable[[], Array]:
        return lambda: tensor

    def export(self, tensor: Array) -> DevicePixels:
        """Raises FrameError: the caller has host memory only."""
        raise FrameError("outputs can't stay on a device: this Runtime is on the CPU; leave out to='device'")

    def synchronize(self) -> None:
        """Nothing to wait for: `run` returns when the work is done."""
