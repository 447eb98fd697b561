"""Compare a device with ONNX Runtime on the CPU: stage by stage, then a whole window."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsm.engine.backends import open_backend
from zsm.engine.bundle.manifest import OUTPUT_SIZE, Bundle, Manifest, Precision
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import ChosenPrecision, Device, OpenOptions
from zsm.runtime import SCALE, Backend, Pixels, Session
from zsm.runtime.backend import DevicePixels, Tensor
from zsm.runtime.stream import stream

Array = NDArray[Any]

Differing = Callable[[str, Mapping[str, Array], str], None]
"""Called with a stage that differs, its inputs, and the backend's name."""

WINDOW = 4
FRAMES = {"uint8": 1, "uint16": 1, "float32": WINDOW}
"""Frames per dtype. The integer types only matter to the first and last stage, so one frame will do."""

LIMITS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}
"""The largest acceptable relative error: the RMS of the error over the RMS of the reference."""
BFLOAT16_LIMIT = 2e-2
"""The same for arithmetic in bfloat16."""
BFLOAT16_PSNR = 50.0
"""The least PSNR of frames computed in bfloat16, in dB."""
INT8_LIMIT = 5e-2
"""The same for a bundle with int8 layers, where a different order of additions may round to the next step."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A tensor computed on the device, compared with the one that the CPU computed from the same inputs."""

    what: str
    """The stage and its output, or the window."""
    max_abs: float
    relative: float
    """RMS of the error over RMS of the reference."""
    psnr: float
    """In dB; the peak is 1, or the largest value of an integer type."""
    limit: float
    """The largest acceptable relative error."""

    @property
    def works(self) -> bool:
        """Whether the error is within the limit, which a different order of additions doesn't exceed."""
        return self.relative <= self.limit


def limit_for(manifest: Manifest, precision: ChosenPrecision = "bundle") -> float:
    """The largest acceptable relative error of a bundle that is computed in a precision."""
    if manifest.quantisation is not None:
        return INT8_LIMIT
    return BFLOAT16_LIMIT if precision == "bfloat16" else LIMITS[manifest.precision]


def verify(
    bundle: Bundle,
    device: str,
    backend: str,
    size: Size,
    differing: Differing = lambda stage, inputs, backend: None,
    *,
    precision: ChosenPrecision = "bundle",
) -> Iterator[Comparison]:
    """Compare every output of every stage on random frames, then a whole window of four.

    Builds missing engines. Calls `differing` for each stage that differs. Raises BackendError if the device doesn't
    work at all.
    """
    expected, _ = open_backend(bundle, "onnxruntime", OpenOptions(device=Device.parse("cpu")))
    options = OpenOptions(device=Device.parse(device), precision=precision, build=True)
    found, _ = open_backend(bundle, backend, options)
    limit = limit_for(bundle.manifest, precision)
    psnr = BFLOAT16_PSNR if precision == "bfloat16" and bundle.manifest.quantisation is None else 0.0
    windows = []
    for dtype, count in FRAMES.items():
        frames = pattern(dtype, count, size)
        session = found.open(size.height, size.width)
        recorder = Recorder(expected, batched=session.batched)
        expected_frames = _outputs(recorder, bundle, frames)
        for stage, call in recorder.calls.items():
            if call.between and dtype != "float32":
                continue
            result = call.repeat(session)
            compared = [compare(f"{stage} {name}", value, result[name], limit) for name, value in call.outputs.items()]
            yield from compared
            if not all(each.works for each in compared):
                differing(stage, call.inputs, found.describe()["backend"])
        windows.append((dtype, expected_frames, _outputs(found, bundle, frames)))
    for dtype, expected_frames, found_frames in windows:
        yield compare(f"{len(expected_frames)} frames out, {dtype}", expected_frames, found_frames, limit, psnr)
    found.close()
    expected.close()


def compare(what: str, expected: Array, found: Array, limit: float, psnr: float = 0.0) -> Comparison:
    """Measure the difference between two arrays. NaN and infinity count as an infinite error.

    `limit`: the largest acceptable relative error; `psnr`: the least acceptable PSNR, in dB.
    """
    white = np.iinfo(expected.dtype).max if np.issubdtype(expected.dtype, np.integer) else 1
    reference = expected.astype(np.float64) / white
    error = found.astype(np.float64) / white - reference
    rms = float(np.sqrt(np.mean(error**2)))
    if not math.isfinite(rms):
        rms = math.inf
    scale = float(np.sqrt(np.mean(reference**2)))
    if psnr:
        limit = min(limit, 10 ** (-psnr / 20) / max(scale, 1e-9))
    if white > 1:
        limit = max(limit, 0.51 / white / max(scale, 1e-9))  # values halfway between may be rounded either way
    return Comparison(
        what=what,
        max_abs=float(np.abs(error).max()),
        relative=rms / scale if scale else rms,
        psnr=-20 * math.log10(rms) if rms else math.inf,
        limit=limit,
    )


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a stage: its inputs and outputs, on the host."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    repeat: Callable[[Session], dict[str, Array]]
    """Repeat the call in another session and return its outputs."""
    between: bool = False
    """Whether the stage is neither the first nor the last, so that the dtype of the frames doesn't matter to it."""


class Recorder:
    """A backend whose sessions record the last call of each stage."""

    def __init__(self, inner: Backend, *, batched: bool) -> None:
        """`batched` as in the sessions in which the calls will be repeated."""
        self._inner = inner
        self._batched = batched
        self.calls: dict[str, Call] = {}

    def open(self, height: int, width: int) -> "RecordingSession":
        inner = self._inner.open(height, width)
        return RecordingSession(inner, self.calls, (SCALE * height, SCALE * width), batched=self._batched)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class RecordingSession:
    """A session that records the last call of each stage."""

    def __init__(self, inner: Session, calls: dict[str, Call], output_size: tuple[int, int], *, batched: bool) -> None:
        self.batched = batched
        self._inner = inner
        self._calls = calls
        self._output_size = np.array(output_size, np.int64)

    def ingest(self, frame: Pixels | DevicePixels) -> Tensor:
        assert isinstance(frame, np.ndarray)
        planes = self._inner.ingest(frame)
        self._calls[f"ingest_{frame.dtype.name}"] = Call(
            inputs={"pixels": frame[None]},
            outputs={"planes": self._inner.to_host(planes)()},
            repeat=lambda session: {"planes": session.to_host(session.ingest(frame))()},
        )
        return planes

    def run(self, stage: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = self._inner.run(stage, inputs)
        given = {name: self._inner.to_host(tensor)() for name, tensor in inputs.items()}

        def repeat(session: Session) -> dict[str, Array]:
            again = session.run(stage, {name: session.from_host(array) for name, array in given.items()})
            return {name: session.to_host(tensor)() for name, tensor in again.items()}

        made = {name: self._inner.to_host(tensor)() for name, tensor in outputs.items()}
        self._calls[stage] = Call(inputs=given, outputs=made, repeat=repeat, between=True)
        return outputs

    def emit(self, planes: Tensor, dtype: np.dtype[Any]) -> Tensor:
        pixels = self._inner.emit(planes, dtype)
        given = self._inner.to_host(planes)()

        def repeat(session: Session) -> dict[str, Array]:
            return {"pixels": session.to_host(session.emit(session.from_host(given), dtype))()}

        self._calls[f"emit_{dtype.name}"] = Call(
            inputs={"planes": given, OUTPUT_SIZE: self._output_size},
            outputs={"pixels": self._inner.to_host(pixels)()},
            repeat=repeat,
        )
        return pixels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _outputs(backend: Any, bundle: Bundle, frames: Array) -> Array:
    return np.stack(list(stream(backend, frames, network=bundle.network, window=WINDOW, overlap=1)))


def pattern(dtype: str, count: int, size: Size) -> Array:
    """A clip (count,h,w,3): 4x4 blocks of random colours that move sideways. On white noise, offsets mean nothing."""
    chance = np.random.default_rng(0)
    coarse = chance.random((size.height // 4 + 3, size.width // 4 + 3 + count, 3), np.float32)
    fine = np.repeat(np.repeat(coarse, 4, 0), 4, 1)
    clip = np.stack([fine[: size.height, 3 * i : 3 * i + size.width] for i in range(count)])
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    return (clip * np.float32(white)).astype(dtype)
