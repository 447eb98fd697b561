"""An estimate of the memory that frames of a size need, before it is tried.

A window is played through on a session that computes nothing: its tensors only have sizes, which are added up as they
come and go.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zsm.engine.backends import blocks
from zsm.engine.backends.gpu.graphs import LARGEST
from zsm.engine.bundle.manifest import Bundle, Manifest, TensorSpec
from zsm.engine.bundle.shapes import Size, batch, shape_of, symbols
from zsm.plugins import onnxruntime_library, operator
from zsm.runtime import tiles
from zsm.runtime.work import Whole

if TYPE_CHECKING:
    import onnx

RECORDED = ("extract", "interpolate", "propagate", "reconstruct")
"""The stages of which CUDA graphs are made."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes, by purpose."""

    weights: int
    window: int
    """The most that tensors between the stages take: planes, features, hidden states."""
    activations: int
    """The most that a stage needs besides its inputs and outputs, if each tensor is dropped after its last use.

    All stages together where each keeps its memory between runs, as in ONNX Runtime on a GPU.
    """
    stage: str
    """The stage that needs the most."""
    graphs: int
    """What CUDA graphs keep; they are given up if memory is short."""

    @property
    def total(self) -> int:
        return self.weights + self.window + self.activations + self.graphs


class Estimator:
    """Estimates what a bundle needs on a kind of device.

    What a stage needs is added to the most that tensors take between stages, though it isn't always needed then: the
    allocators can't give the one's memory to the other. Libraries need less where they fuse layers, and more for
    workspaces, other layouts and themselves.
    """

    def __init__(self, bundle: Bundle, kind: str, window: int) -> None:
        """`kind`: `cpu`, where the reconstruction works on blocks, or `cuda`, where memory is kept for reuse."""
        self._bundle = bundle
        self._kind = kind
        self._portable = kind == "cpu" and onnxruntime_library() is None
        self._widened = kind == "cpu" and bundle.manifest.precision == "fp16"
        self._window = window
        self._graphs = cache(self._load)

    def __call__(
        self, size: Size, itemsize: int = 1, *, tiled: bool = False, cuda_graphs: bool = False, arenas: bool = False
    ) -> Memory:
        """Estimate for whole frames of a size, or for tiles of that size; `itemsize`: the bytes of a number.

        `arenas`: each stage keeps its memory between runs.
        """
        manifest = self._bundle.manifest
        on_cpu = self._kind == "cpu"
        session = _CountingSession(manifest, size, partial(self._besides, size=size), batched=not on_cpu)
        dtype = np.dtype({1: np.uint8, 2: np.uint16, 4: np.float32}[itemsize])
        frame = np.empty((0, 0, 3), dtype)
        numbers = range(2 * self._window - 1)
        if tiled:
            for _ in tiles.outputs(session, manifest.network, [frame] * self._window, numbers, dtype):
                pass
        else:
            work = Whole(session, manifest.network, self._window, dtype, "device")
            for _ in range(self._window + 1):  # the next frame comes while a window's are held
                work.add(frame)
            work.begin(numbers, lambda number: True)
            for _ in numbers:
                work.next(wanted=True)
        stage = max(session.stages, key=lambda name: session.stages[name])
        return Memory(
            weights=sum(spec.bytes for spec in manifest.stages.values()),
            window=session.most if on_cpu else session.pooled,
            activations=sum(session.stages.values()) if arenas else session.stages[stage],
            stage=stage,
            graphs=_recorded(manifest, size) if cuda_graphs else 0,
        )

    def _load(self, stage: str) -> "onnx.GraphProto | blocks.Cut":
        import onnx

        model = onnx.load_from_string(self._bundle.read(stage))
        if self._widened:  # CPUs compute in float32, on copies
            for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
                if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
                    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        parts = blocks.cut(model) if self._kind == "cpu" and stage == "reconstruct" else None
        return parts or model.graph

    def _besides(self, stage: str, n: int, size: Size) -> int:
        """The most bytes that a stage needs for n frames besides its inputs and outputs."""
        if not self._bundle.manifest.stages[stage].parameters:
            return 0  # pixels are converted strip by strip
        known = symbols(size, n)
        graph = self._graphs(stage)
        if not isinstance(graph, blocks.Cut):
            live = _live(graph, known, portable=self._portable)
            return live if self._widened else live - _ends(graph, known)
        trunk, tail = graph.trunk.graph, graph.tail.graph
        output = sum(_bytes(value, known) for value in tail.output)
        feature = sum(_bytes(value, known) for value in trunk.output)
        edge = blocks.EDGE + 2 * graph.margin
        block = Size(min(size.width, edge), min(size.height, edge))
        in_trunk = _live(trunk, known) - sum(_bytes(value, known) for value in trunk.input)
        in_tail = _live(tail, symbols(block, n))
        if block == size:
            in_tail -= _ends(tail, known)
        return max(in_trunk - output, feature + in_tail)


class _Tensor:
    """`n` frames' bytes, taken as long as the object exists."""

    def __init__(self, session: "_CountingSession", n: int, size: int, *, of: "_Tensor | None" = None) -> None:
        """`of`: the tensor that this one is a view of."""
        self.n = n
        self.size = size
        self._session = session
        self._of = of
        session.take(size)

    def __del__(self) -> None:
        self._session.give(self.size)


class _CountingSession:
    """A session that computes nothing, and counts."""

    def __init__(self, manifest: Manifest, size: Size, besides: Callable[[str, int], int], *, batched: bool) -> None:
        """`besides`: the bytes that a stage needs for n frames, besides its inputs and outputs."""
        self.batched = batched
        self._manifest = manifest
        self._size = size
        self._besides = cache(besides)
        self._live: Counter[int] = Counter()
        self._most: Counter[int] = Counter()
        self._now = 0
        self.most = 0
        """The most bytes of tensors at any time."""
        self.stages: dict[str, int] = {}
        """What each stage needed besides its inputs and outputs."""

    @property
    def pooled(self) -> int:
        """The bytes of tensors if each one's memory is kept for the next of its size."""
        return sum(size * count for size, count in self._most.items())

    def take(self, size: int) -> None:
        self._live[size] += 1
        self._most[size] = max(self._most[size], self._live[size])
        self._now += size
        self.most = max(self.most, self._now)

    def give(self, size: int) -> None:
        self._live[size] -= 1
        self._now -= size

    def ingest(self, frame: Any) -> _Tensor:
        return self.run(f"ingest_{frame.dtype.name}", {})["planes"]

    def run(self, stage: str, inputs: Mapping[str, _Tensor]) -> dict[str, _Tensor]:
        n = max((tensor.n for tensor in inputs.values()), default=1)
        known = symbols(self._size, n)
        outputs = {spec.name: _Tensor(self, n, _size(spec, known)) for spec in self._manifest.stages[stage].outputs}
        self.stages[stage] = self._besides(stage, n)
        return outputs

    def emit(self, planes: _Tensor, dtype: np.dtype[Any]) -> _Tensor:
        return self.run(f"emit_{dtype.name}", {"planes": planes})["pixels"]

    def zeros_like(self, tensor: _Tensor) -> _Tensor:
        return _Tensor(self, tensor.n, tensor.size)

    def concatenate(self, tensors: Sequence[_Tensor]) -> _Tensor:
        return _Tensor(self, len(tensors), sum(tensor.size for tensor in tensors))

    def split(self, tensor: _Tensor) -> list[_Tensor]:
        return [_Tensor(self, 1, 0, of=tensor) for _ in range(tensor.n)]

    def to_host(self, tensor: _Tensor) -> Callable[[], Any]:
        return lambda: [tensor]

    def export(self, tensor: _Tensor) -> Any:
        return tensor

    def from_host(self, array: Any) -> Any:
        raise NotImplementedError

    def synchronize(self) -> None:
        """Nothing to wait for."""


def _live(graph: "onnx.GraphProto", known: Mapping[str, int], *, portable: bool = False) -> int:
    """The most bytes of a graph's tensors that live at once, each until its last use.

    `portable`: our operator is executed as a function over the standard one.
    """
    weights = {tensor.name for tensor in graph.initializer}
    values = (*graph.input, *graph.output, *graph.value_info)
    sizes = {value.name: _bytes(value, known) for value in values if value.name not in weights}
    makers = {name: node for node in graph.node for name in node.output}
    last_use = {name: number for number, node in enumerate(graph.node) for name in node.input}
    kept = {value.name for value in (*graph.input, *graph.output)}
    live = peak = sum(sizes[value.name] for value in graph.input)
    for number, node in enumerate(graph.node):
        live += sum(sizes.get(name, 0) for name in node.output)
        besides = 0
        if portable and node.op_type == operator.NAME:
            besides = _standard(graph, node, sizes[blocks.unquantised(node.input[1], makers)])
        peak = max(peak, live + besides)
        dropped = {name for name in (*node.input, *node.output) if last_use.get(name, number) == number} - kept
        live -= sum(sizes.get(name, 0) for name in dropped)
    return peak


def _standard(graph: "onnx.GraphProto", node: "onnx.NodeProto", offset_mask: int) -> int:
    """What the standard operator needs in place of ours: offsets and masks split, samples, and their four weights.

    `offset_mask`: the bytes of the offsets and masks.
    """
    taps: int = math.prod(next(attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape"))
    groups = int(next(attribute.i for attribute in node.attribute if attribute.name == "offset_group"))
    places = offset_mask // (3 * taps * groups)  # bytes of one number for each output pixel
    channels = int(next(tensor for tensor in graph.initializer if tensor.name == node.input[2]).dims[1])
    return offset_mask + taps * places * (groups + channels + 8 * groups)


def _ends(graph: "onnx.GraphProto", known: Mapping[str, int]) -> int:
    """Bytes of a graph's inputs and outputs."""
    return sum(_bytes(value, known) for value in (*graph.input, *graph.output))


def _bytes(value: "onnx.ValueInfoProto", known: Mapping[str, int]) -> int:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    extents = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return _size(TensorSpec(name="", dtype=tensor_dtype_to_np_dtype(tensor.elem_type).name, shape=extents), known)


def _size(spec: TensorSpec, known: Mapping[str, int]) -> int:
    return math.prod(shape_of(spec, known)) * np.dtype(spec.dtype).itemsize


def _recorded(manifest: Manifest, size: Size) -> int:
    """Inputs and outputs of the stages that are recorded."""
    total = 0
    for name in set(RECORDED) & set(manifest.stages):
        spec = manifest.stages[name]
        known = symbols(size, batch(manifest, name))
        read, written = (sum(_size(tensor, known) for tensor in tensors) for tensors in (spec.inputs, spec.outputs))
        if read <= LARGEST:
            total += read + written
    return total
