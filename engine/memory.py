"""An estimate of the memory that frames of a size need, before it is tried."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zsm.engine.backends import blocks
from zsm.engine.backends.gpu.graphs import LARGEST
from zsm.engine.bundle.manifest import Bundle, Manifest, TensorSpec
from zsm.engine.bundle.shapes import Size, batch, shape_of, symbols

if TYPE_CHECKING:
    import onnx

RECORDED = ("extract", "interpolate", "propagate", "reconstruct")
"""The stages of which CUDA graphs are made."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes, by purpose."""

    weights: int
    window: int
    """Tensors that live as long as a window: features, hidden states and planes of its frames."""
    activations: int
    """The most that one stage needs, when each tensor is dropped after its last use."""
    stage: str
    """That stage."""
    graphs: int
    """What CUDA graphs keep; they are given up if memory is short."""

    @property
    def total(self) -> int:
        return self.weights + self.window + self.activations + self.graphs


def estimate(bundle: Bundle, size: Size, window: int, *, cuda_graphs: bool = False, blockwise: bool = False) -> Memory:
    """Estimate the memory that frames of a size need, from the tensors of the bundle's graphs.

    `blockwise`: the reconstruction works on blocks, as on the CPU. Libraries need less where they fuse layers, and more
    for workspaces, other layouts and themselves.
    """
    manifest = bundle.manifest
    peaks = {name: _peak(bundle, name, size, blockwise) for name, spec in manifest.stages.items() if spec.parameters}
    stage = max(peaks, key=lambda name: peaks[name])
    return Memory(
        weights=sum(spec.bytes for spec in manifest.stages.values()),
        window=_window(manifest, size, window),
        activations=peaks[stage],
        stage=stage,
        graphs=_graphs(manifest, size) if cuda_graphs else 0,
    )


def _peak(bundle: Bundle, stage: str, size: Size, blockwise: bool) -> int:
    """The most bytes that live at once within a stage, its inputs and outputs included."""
    import onnx

    model = onnx.load_from_string(bundle.read(stage))
    known = symbols(size, batch(bundle.manifest, stage))
    parts = blocks.cut(model) if blockwise and stage == "reconstruct" else None
    if parts is None:
        return _live(model.graph, known)
    edge = blocks.EDGE + 2 * parts.margin
    block = Size(min(size.width, edge), min(size.height, edge))
    tail = _live(parts.tail.graph, symbols(block, 1))
    if block != size:
        tail += sum(_bytes(value, known) for value in (*parts.tail.graph.input, *parts.tail.graph.output))
    return max(_live(parts.trunk.graph, known), tail)


def _live(graph: "onnx.GraphProto", known: Mapping[str, int]) -> int:
    """The most bytes of a graph's tensors that live at once, each until its last use."""
    weights = {tensor.name for tensor in graph.initializer}
    values = (*graph.input, *graph.output, *graph.value_info)
    sizes = {value.name: _bytes(value, known) for value in values if value.name not in weights}
    last_use = {name: number for number, node in enumerate(graph.node) for name in node.input}
    kept = {value.name for value in (*graph.input, *graph.output)}
    live = peak = sum(sizes[value.name] for value in graph.input)
    for number, node in enumerate(graph.node):
        live += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, live)
        dropped = {name for name in (*node.input, *node.output) if last_use.get(name, number) == number} - kept
        live -= sum(sizes.get(name, 0) for name in dropped)
    return peak


def _bytes(value: "onnx.ValueInfoProto", known: Mapping[str, int]) -> int:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    extents = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    dtype = tensor_dtype_to_np_dtype(tensor.elem_type)
    return math.prod(shape_of(TensorSpec(name="", dtype=dtype.name, shape=extents), known)) * dtype.itemsize


def _window(manifest: Manifest, size: Size, window: int) -> int:
    """Planes and levels of the frames, features between them, hidden states, and the recurrence's own tensors."""
    feature = _sum(manifest, "extract", size, "level1")
    directions = manifest.network.directions
    frames = window * (_sum(manifest, "ingest_float32", size) + _sum(manifest, "extract", size))
    gaps = window * feature
    states = directions * (2 * window - 1) * feature
    recurrence = 4 * directions * feature  # one step: feature, cell, and the new state and cell
    return frames + gaps + states + recurrence


def _graphs(manifest: Manifest, size: Size) -> int:
    """Inputs and outputs of the stages that are recorded."""
    total = 0
    for name in set(RECORDED) & set(manifest.stages):
        spec = manifest.stages[name]
        known = symbols(size, batch(manifest, name))
        read, written = (
            sum(math.prod(shape_of(t, known)) * np.dtype(t.dtype).itemsize for t in tensors)
            for tensors in (spec.inputs, spec.outputs)
        )
        if read <= LARGEST:
            total += read + written
    return total


def _sum(manifest: Manifest, stage: str, size: Size, output: str | None = None) -> int:
    """Bytes of a stage's outputs, or of one of them, for one frame."""
    item = 2 if manifest.precision == "fp16" else 4
    outputs = manifest.stages[stage].outputs
    return sum(item * math.prod(shape_of(t, symbols(size, 1))) for t in outputs if output in (None, t.name))
