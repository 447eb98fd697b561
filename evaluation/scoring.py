"""Clips and systems -> figures, by the paper's protocol (section 4.1).

HR frames are cropped to a multiple of 4, shrunk by bicubic; the odd ones (1, 3, 5, ...) go in, all come out.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isinf, isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsm.errors import DataError
from zsm.evaluation import bicubic, metrics
from zsm.evaluation.degradations import Degradation
from zsm.evaluation.layouts import Clip
from zsm.runtime import SCALE

# The released script restores windows of 7 frames, each beginning on the frame the last one ended with.
_WINDOW_STEP = 6


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a clip becomes input and truth.

    frames: HR frames taken of each clip, from its beginning; None takes all.
    whole_windows: take only frames that fill windows of 7, as the paper's released script does.
    degradation: done to the LR frames, drawn from `seed` and the clip's name.
    """

    frames: int | None = None
    whole_windows: bool = False
    degradation: Degradation | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise DataError(f"cannot score {self.frames} frames of a clip: give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One clip, ready: `truth` (2N-1,4h,4w,3) and the system's input `lr` (N,h,w,3), RGB uint8."""

    clip: Clip
    truth: NDArray[np.uint8]
    lr: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class System:
    """What is scored.

    restore: gives frames of the shape and type of the trial's truth.
    facts: what a report says of the system; JSON values.
    """

    restore: Callable[[Trial], NDArray[Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Means over frames, or over clips: PSNR in dB, SSIM."""

    psnr: float
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One system on one clip: figures of every frame, and the PSNR in dB of frame-to-frame changes."""

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    temporal_psnr: float

    @property
    def all(self) -> Figures:
        """Over all frames."""
        return self._over(slice(None))

    @property
    def original(self) -> Figures:
        """Over the frames that the system saw in low resolution."""
        return self._over(slice(0, None, 2))

    @property
    def interpolated(self) -> Figures:
        """Over the frames in between; not numbers for a clip of one frame."""
        return self._over(slice(1, None, 2))

    @property
    def windows(self) -> Figures:
        """Over the frames that fill windows of 7: the released script leaves out the rest."""
        return self._over(slice(whole_windows(len(self.psnr))))

    def _over(self, frames: slice) -> Figures:
        return Figures(psnr=_mean(self.psnr[frames]), ssim=_mean(self.ssim[frames]))


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """Every system's scores on one clip of `frames` scored frames of `size` (width, height)."""

    name: str
    group: str | None
    frames: int
    size: tuple[int, int]
    systems: Mapping[str, Scores]

    @property
    def comparable(self) -> bool:
        """Whether every PSNR is finite; else the clip is in no mean, of any system.

        A frame restored without error is a blank one: the paper, too, leaves out clips with black frames.
        """
        return not any(isinf(value) for scores in self.systems.values() for value in scores.psnr)

    @property
    def moving(self) -> bool:
        """Whether every system's temporal figure is finite: it isn't where nothing moves."""
        return not any(isinf(scores.temporal_psnr) for scores in self.systems.values())


@dataclass(frozen=True, kw_only=True)
class MeanScores:
    """A system's means over the clips' means."""

    all: Figures
    original: Figures
    interpolated: Figures
    windows: Figures
    temporal_psnr: float


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A clip's scores, with the frames they are of; large, so let go of each before taking the next."""

    scores: ClipScores
    trial: Trial
    restored: Mapping[str, NDArray[np.uint8]] = field(repr=False)


def prepare(clip: Clip, protocol: Protocol) -> Trial:
    """Read a clip and make the input of it."""
    return trial(clip, clip.read(frames=protocol.frames), protocol)


def trial(clip: Clip, frames: NDArray[np.uint8], protocol: Protocol) -> Trial:
    """Make the input of a clip's frames (T,H,W,3). Of an even number of them, the last is left out."""
    count, height, width, _ = frames.shape
    if height < SCALE or width < SCALE:
        raise DataError(f"clip {clip.name} is {width}x{height}: frames must be 4x4 or larger")
    count = whole_windows(count) if protocol.whole_windows else count - (count + 1) % 2
    truth = frames[:count, : height - height % SCALE, : width - width % SCALE]
    lr = np.stack([bicubic.resize(frame, 1 / SCALE) for frame in truth[::2]])
    if protocol.degradation:
        rng = np.random.default_rng([protocol.seed, zlib.crc32(clip.name.encode())])
        lr = protocol.degradation(lr, rng)
    return Trial(clip=clip, truth=truth, lr=lr)


def whole_windows(frames: int) -> int:
    """How many of a clip's frames fill windows of 7 that share their end frames.

    34 frames (Vid4's city) give 31: three are left out. A clip of fewer than 7 is one short window.
    """
    if frames <= _WINDOW_STEP:
        return frames - (frames + 1) % 2
    return (frames - 1) // _WINDOW_STEP * _WINDOW_STEP + 1


def evaluate(clips: Iterable[Clip], systems: Mapping[str, System], protocol: Protocol) -> Iterator[Scored]:
    """Score every system on every clip, yielding clip by clip."""
    for clip in clips:
        prepared = prepare(clip, protocol)
        yield compare(prepared, {name: system.restore(prepared) for name, system in systems.items()})


def compare(trial: Trial, restored: Mapping[str, NDArray[Any]]) -> Scored:
    """Score what several systems, by name, made of one trial."""
    for name, frames in restored.items():
        if frames.shape != trial.truth.shape or frames.dtype != np.uint8:
            raise DataError(
                f"{name} gave {frames.dtype} {frames.shape} for clip {trial.clip.name}: "
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
    """Compare two clips (T,H,W,3) uint8."""
    # Luma frame by frame, as it is needed: in float64 a whole clip of it could fill the memory.
    pairs = [_compare(metrics.luma(a), metrics.luma(b)) for a, b in zip(restored, truth, strict=True)]
    return Scores(
        psnr=tuple(figures.psnr for figures in pairs),
        ssim=tuple(figures.ssim for figures in pairs),
        temporal_psnr=metrics.temporal_psnr(map(metrics.luma, restored), map(metrics.luma, truth)),
    )


def _compare(a: metrics.Luma, b: metrics.Luma) -> Figures:
    return Figures(psnr=metrics.psnr(a, b), ssim=metrics.ssim(a, b))


def means(clips: Sequence[ClipScores]) -> dict[str, MeanScores]:
    """Each system's means over the clips that are comparable (the temporal figure: and moving)."""
    taken = [clip for clip in clips if clip.comparable]
    names = clips[0].systems if clips else ()
    return {name: _mean_scores(name, taken) for name in names}


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
    # A clip of one frame has no interpolated frames and no changes: it says nothing about them.
    numbers = [value for value in values if not isnan(value)]
    return sum(numbers) / len(numbers) if numbers else nan
