"""The network run over samples, with some of its stages replaced."""

import io
import tempfile
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from zsm.engine.backends.arrays import ArraySession, Stage
from zsm.engine.backends.onnxruntime import open_stage
from zsm.engine.bundle.manifest import Bundle
from zsm.evaluation import metrics
from zsm.export.int8.samples import Sample
from zsm.runtime import network

Scores = dict[str, float]
"""Y-PSNR in dB by clip: the mean over all frames of its samples."""

HIGHEST = 50.0
"""dB; what is closer to the truth, such as a dark picture, counts as this: the difference can't be seen."""

Models = Mapping[str, ModelProto]
"""Graphs by stage."""

Sessions = Mapping[str, Stage]

Visit = Callable[[str, str, NDArray[np.float32]], None]
"""Called with a stage, a tensor's name, and its values."""

ORDER = ("extract", "interpolate", "propagate", "reconstruct")

DTYPE = np.dtype(np.uint8)


@dataclass(frozen=True)
class _Window:
    """What the stages before the reconstruction compute for one sample."""

    frames: list[network.Features]
    gaps: list[NDArray[np.float32]]
    hidden: list[network.Hidden]


class Trials:
    """Runs a float32 bundle over samples, with any of its stages replaced.

    What the stages before the first replaced one compute is kept from the first run, in a file in the bundle's folder.
    """

    def __init__(self, bundle: Bundle, samples: Sequence[Sample]) -> None:
        """Raises OSError if the file can't be written."""
        self._network = bundle.network
        self.samples = samples
        self.models = {
            name: onnx.load_from_string(bundle.read(name)) for name in ORDER if name in bundle.manifest.stages
        }
        pixels = {name: onnx.load_from_string(bundle.read(name)) for name in ("ingest_uint8", "emit_uint8")}
        self._sessions = self._opened({**self.models, **pixels})
        with tempfile.TemporaryFile(dir=bundle.path) as file:  # what is mapped outlives it
            self._known = [
                _stored(self._window(self._session(sample, self._sessions), sample, None, 0), file)
                for sample in samples
            ]

    def psnr(self, replaced: Models) -> Scores:
        """Score the network with some stages replaced."""
        sessions = ChainMap(self._opened(replaced), dict(self._sessions))
        first = min((ORDER.index(name) for name in replaced), default=len(ORDER))
        scores: dict[str, list[float]] = defaultdict(list)
        for sample, known in zip(self.samples, self._known, strict=True):
            session = self._session(sample, sessions)
            window = self._window(session, sample, known, first)
            for hidden, truth in zip(window.hidden, sample.truth, strict=True):
                pixels = network.reconstruct(session, self._network, hidden, DTYPE)[0]
                psnr = metrics.psnr(metrics.luma(pixels), metrics.luma(truth))
                scores[sample.clip].append(min(psnr, HIGHEST))
        return {clip: mean(each) for clip, each in scores.items()}

    def observe(self, tensors: Mapping[str, set[str]], visit: Visit) -> None:
        """Run the unquantised network, and visit these tensors of each stage at each of its executions."""
        exposed = {stage: _exposed(self.models[stage], names) for stage, names in tensors.items()}
        sessions = ChainMap(self._opened(exposed), dict(self._sessions))
        for sample in self.samples:
            height, width = sample.lr.shape[1:3]
            session = _Observed(sessions, height, width, self.models, tensors, visit)
            for hidden in self._window(session, sample, None, 0).hidden:
                network.reconstruct(session, self._network, hidden, DTYPE)

    def _opened(self, models: Models) -> dict[str, Stage]:
        return {name: open_stage(name, model.SerializeToString(), threads=None) for name, model in models.items()}

    def _session(self, sample: Sample, sessions: Sessions) -> ArraySession:
        return ArraySession(sessions, *sample.lr.shape[1:3])

    def _window(self, session: ArraySession, sample: Sample, known: _Window | None, first: int) -> _Window:
        """Compute all up to the hidden states, taking what stages before number `first` compute from `known`."""
        if known and first > ORDER.index("propagate"):
            return known
        frames = known.frames if known and first > 0 else [network.extract(session, frame) for frame in sample.lr]
        gaps = known.gaps if known and first > 1 else [network.interpolate(session, a, b) for a, b in pairwise(frames)]
        return _Window(frames, gaps, network.window(session, self._network, frames, gaps))


def _stored(window: _Window, file: BinaryIO) -> _Window:
    """The same window, with its arrays in a file: their memory can be given back, as they can be read again."""
    begin = file.seek(0, io.SEEK_END)
    for array in _arrays(window):
        file.write(array.tobytes())
    file.flush()
    # One map for all arrays, as each takes a file descriptor.
    mapped: NDArray[np.float32] = np.memmap(file, np.float32, "r", begin)

    def store(array: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal mapped
        found, mapped = mapped[: array.size].reshape(array.shape), mapped[array.size :]
        return found

    frames = [
        network.Features(store(frame.planes), {name: store(level) for name, level in frame.levels.items()})
        for frame in window.frames
    ]
    gaps = [store(gap) for gap in window.gaps]
    hidden = [
        network.Hidden(tuple(map(store, each.states)), store(each.previous), store(each.following))
        for each in window.hidden
    ]
    return _Window(frames, gaps, hidden)


def _arrays(window: _Window) -> Iterator[NDArray[np.float32]]:
    for frame in window.frames:
        yield frame.planes
        yield from frame.levels.values()
    yield from window.gaps
    for hidden in window.hidden:
        yield from (*hidden.states, hidden.previous, hidden.following)


class _Observed(ArraySession):
    """A session whose stages have further outputs, which are shown to `visit` and not to the caller."""

    def __init__(
        self, stages: Sessions, height: int, width: int, models: Models, tensors: Mapping[str, set[str]], visit: Visit
    ) -> None:
        super().__init__(stages, height, width)
        self._outputs = {stage: {value.name for value in model.graph.output} for stage, model in models.items()}
        self._tensors = tensors
        self._visit = visit

    def run(self, stage: str, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        outputs = super().run(stage, inputs)
        for name, values in {**inputs, **outputs}.items():
            if name in self._tensors.get(stage, ()):
                self._visit(stage, name, values)
        return {name: values for name, values in outputs.items() if name in self._outputs.get(stage, outputs)}


def _exposed(model: ModelProto, names: set[str]) -> ModelProto:
    """A copy of a graph with these tensors as further outputs."""
    copied = ModelProto()
    copied.CopyFrom(model)
    known = {value.name for value in (*copied.graph.input, *copied.graph.output)}
    copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in sorted(names - known))
    return copied
