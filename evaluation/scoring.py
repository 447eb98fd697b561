"""Score systems on clips by the paper's protocol (section 4.1).

HR frames are cropped to a multiple of 4. Every other one, shrunk by bicubic, is the input; all are the truth.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isinf, isnan, nan, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsm.engine import host
from zsm.errors import ArgumentError, ArgumentTypeError, DataError
from zsm.evaluation import bicubic, metrics
from zsm.runtime import SCALE

if TYPE_CHECKING:
    # Importing these loads OpenCV and PyAV, which scoring frames in memory doesn't need.
    from zsm.evaluation.degradations import Degradation
    from zsm.evaluation.layouts import Clip

LEAST_SIDE = 12
"""Pixels: the least multiple of 4 that holds SSIM's window of 11."""

# The paper's released script restores windows of 7 frames; a window begins with the last frame of the one before.
_WINDOW_STEP = 6


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How input and truth are made from a clip.

    Raises ArgumentError or ArgumentTypeError for an invalid number of frames or seed.
    """

    frames: int | None = None
    """HR frames to use of each clip, counted from its beginning; None for all."""
    whole_windows: bool = False
    """Use only the frames that fill windows of 7, as the paper's released script does."""
    degradation: "Degradation | None" = None
    """Applied to the LR frames, seeded with `seed` and the clip's name."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames is not None:
            _check_integer("frames", self.frames, 1)
        _check_integer("seed", self.seed, 0)


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ArgumentTypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ArgumentError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One clip's input and truth, RGB uint8."""

    clip: "Clip"
    truth: NDArray[np.uint8]
    """(2N-1,4h,4w,3)."""
    lr: NDArray[np.uint8]
    """The input, (N,h,w,3)."""


@dataclass(frozen=True, kw_only=True)
class System:
    """A system to score."""

    restore: Callable[[Trial], NDArray[Any]]
    """Returns frames with the shape and dtype of the trial's truth."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the report, such as the device; JSON values."""
    check: Callable[["Clip", tuple[int, ...]], None] = lambda clip, shape: None
    """Called for every clip, with the shape of its truth, before any is restored; raises an Error if it won't do."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """PSNR in dB and SSIM, averaged over frames or clips."""

    psnr: float
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One system's scores on one clip."""

    psnr: tuple[float, ...]
    """In dB, per frame."""
    ssim: tuple[float, ...]
    """Per frame."""
    temporal_psnr: float
    """PSNR in dB of the frame-to-frame changes."""

    @property
    def all(self) -> Figures:
        """Means over all frames."""
        return self._over(slice(None))

    @property
    def original(self) -> Figures:
        """Means over the frames whose LR version was the input."""
        return self._over(slice(0, None, 2))

    @property
    def interpolated(self) -> Figures:
        """Means over the frames in between; NaN for a clip of one frame."""
        return self._over(slice(1, None, 2))

    @property
    def windows(self) -> Figures:
        """Means over the frames that fill windows of 7, which are the ones the released script scores."""
        return self._over(slice(whole_windows(len(self.psnr))))

    def _over(self, frames: slice) -> Figures:
        return Figures(psnr=_mean(self.psnr[frames]), ssim=_mean(self.ssim[frames]))


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """All systems' scores on one clip."""

    name: str
    group: str | None
    frames: int
    """Frames scored."""
    size: tuple[int, int]
    """Width and height of the truth."""
    systems: Mapping[str, Scores]
    """By the system's name."""

    @property
    def comparable(self) -> bool:
        """Whether every PSNR is finite. If not, no system's mean includes the clip.

        Only a blank frame is restored without error; the paper leaves out clips with black frames as well.
        """
        return not any(isinf(value) for scores in self.systems.values() for value in scores.psnr)

    @property
    def moving(self) -> bool:
        """Whether every temporal PSNR is finite; it is infinite where nothing moves."""
        return not any(isinf(scores.temporal_psnr) for scores in self.systems.values())


@dataclass(frozen=True, kw_only=True)
class MeanScores:
    """One system's means over clips."""

    all: Figures
    original: Figures
    interpolated: Figures
    windows: Figures
    temporal_psnr: float


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A clip's scores with its frames. Large: drop each one before asking for the next."""

    scores: ClipScores
    trial: Trial
    restored: Mapping[str, NDArray[np.uint8]] = field(repr=False)


def prepare(clip: "Clip", protocol: Protocol) -> Trial:
    """Read a clip, and make input and truth from it. Raises DataError as `trial` does."""
    return trial(clip, clip.read(frames=protocol.frames), protocol)


def trial(clip: "Clip", frames: NDArray[np.uint8], protocol: Protocol) -> Trial:
    """Make input and truth from a clip's frames (T,H,W,3). If T is even, the last frame is left out.

    Raises DataError if the frames are smaller than 12x12.
    """
    count, height, width, _ = _truth_shape(clip, frames.shape, protocol)
    truth = frames[:count, :height, :width]
    lr = np.stack([bicubic.resize(frame, 1 / SCALE) for frame in truth[::2]])
    if protocol.degradation:
        rng = np.random.default_rng([protocol.seed, zlib.crc32(clip.name.encode())])
        lr = protocol.degradation(lr, rng)
    return Trial(clip=clip, truth=truth, lr=lr)


def _truth_shape(clip: "Clip", shape: tuple[int, ...], protocol: Protocol) -> tuple[int, ...]:
    count, height, width, channels = shape
    if min(height, width) < LEAST_SIDE:
        raise DataError(
            f"clip {clip.name} is {width}x{height}, but frames must be at least {LEAST_SIDE}x{LEAST_SIDE}: remove it"
        )
    count = whole_windows(count) if protocol.whole_windows else count - (count + 1) % 2
    return count, height - height % SCALE, width - width % SCALE, channels


def whole_windows(frames: int) -> int:
    """Number of frames, out of a clip's `frames`, that fill windows of 7 sharing their end frames.

    34 frames (Vid4's city) give 31. A clip of fewer than 7 frames is one short window.
    """
    if frames <= _WINDOW_STEP:
        return frames - (frames + 1) % 2
    return (frames - 1) // _WINDOW_STEP * _WINDOW_STEP + 1


def evaluate(clips: Sequence["Clip"], systems: Mapping[str, System], protocol: Protocol) -> Iterator[Scored]:
    """Score every system on every clip, one clip at a time.

    All clips are checked before the first is restored: raises VideoError or DataError for one that can't be used or
    doesn't fit in memory, and whatever a system's `check` raises. Later, raises DataError for output of the wrong shape
    or dtype.
    """
    for clip in clips:
        read = clip.shape(protocol.frames)
        shape = _truth_shape(clip, read, protocol)
        _check_memory(clip, read, shape, len(systems))
        for system in systems.values():
            system.check(clip, shape)
    for clip in clips:
        yield _evaluate(clip, systems, protocol)


def _check_memory(clip: "Clip", read: tuple[int, ...], truth: tuple[int, ...], systems: int) -> None:
    """Raise DataError if memory can't hold a clip, of these shapes as it is read and as it is scored."""
    lr = (truth[0] // 2 + 1) * prod(truth[1:]) // SCALE**2
    # While a clip is read, it is held as a list of frames and as an array.
    needed, free = max(2 * prod(read), prod(read) + lr + systems * prod(truth)), host.free_memory()
    if needed > free:
        raise DataError(
            f"clip {clip.name} takes {needed / 2**30:.1f} GiB of memory, but only {free / 2**30:.1f} are free: "
            "limit the frames of each clip (--frames)"
        )


def _evaluate(clip: "Clip", systems: Mapping[str, System], protocol: Protocol) -> Scored:
    """Score one clip. Within `evaluate`, its frames would be kept until the next clip's have been read."""
    prepared = prepare(clip, protocol)
    return compare(prepared, {name: system.restore(prepared) for name, system in systems.items()})


def compare(trial: Trial, restored: Mapping[str, NDArray[Any]]) -> Scored:
    """Score the frames that several systems restored from one trial, by the systems' names.

    Raises DataError if any differ from the truth in shape or dtype.
    """
    for name, frames in restored.items():
        if frames.shape != trial.truth.shape or frames.dtype != np.uint8:
            raise DataError(
                f"{name} returned {frames.dtype} {frames.shape} for clip {trial.clip.name}: "
                f"expected uint8 {trial.truth.shape}"
            )
    count, height, width, _ = trial.truth.shape
    scores = ClipScores(
        name=trial.clip.name,
        group=trial.clip.group,
        frames=count,
        size=(width, height),
        systems={name: score(frames, trial.truth) for name, frames in restored.items()},
    )
    return Scored(scores=scores, trial=trial, restored=restored)


def score(restored: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Scores:
    """Compare a restored clip with the truth, both (T,H,W,3) uint8."""
    # Luma is computed frame by frame: a whole clip of it, in float64, might not fit into memory.
    pairs = [_compare(metrics.luma(a), metrics.luma(b)) for a, b in zip(restored, truth, strict=True)]
    return Scores(
        psnr=tuple(figures.psnr for figures in pairs),
        ssim=tuple(figures.ssim for figures in pairs),
        temporal_psnr=metrics.temporal_psnr(map(metrics.luma, restored), map(metrics.luma, truth)),
    )


def _compare(a: metrics.Luma, b: metrics.Luma) -> Figures:
    return Figures(psnr=metrics.psnr(a, b), ssim=metrics.ssim(a, b))


def means(clips: Sequence[ClipScores]) -> dict[str, MeanScores]:
    """Each system's means over the comparable clips; the temporal PSNR's only over those of them that move."""
    comparable = [clip for clip in clips if clip.comparable]
    names = clips[0].systems if clips else ()
    return {name: _mean_scores(name, comparable) for name in names}


def _mean_scores(name: str, clips: Sequence[ClipScores]) -> MeanScores:
    scores = [clip.systems[name] for clip in clips]
    return MeanScores(
        all=_mean_figures([one.all for one in scores]),
        original=_mean_figures([one.original for one in scores]),
        interpolated=_mean_figures([one.interpolated for one in scores]),
        windows=_mean_figures([one.windows for one in scores]),
        temporal_psnr=_mean([clip.systems[name].temporal_psnr for clip in clips if clip.moving]),
    )


def _mean_figures(figures: Sequence[Figures]) -> Figures:
    return Figures(psnr=_mean([one.psnr for one in figures]), ssim=_mean([one.ssim for one in figures]))


def _mean(values: Sequence[float]) -> float:
    # A clip of one frame has no interpolated frames and no temporal PSNR; other clips' means leave it out.
    numbers = [value for value in values if not isnan(value)]
    return sum(numbers) / len(numbers) if numbers else nan
