"""Short pieces of real clips, to calibrate on and to measure with: LR frames, and the HR frames that they come from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsm.errors import DataError
from zsm.evaluation import bicubic, metrics
from zsm.runtime import SCALE

if TYPE_CHECKING:
    from zsm.evaluation.layouts import Clip

LENGTH = 7
"""HR frames of a sample: one window of four LR frames, and the three frames between them."""
SPACING = 25
"""Frames from the beginning of one sample to that of the next."""
PER_CLIP = 2
SEARCHED = 1500
"""Frames at the beginning of a clip in which samples are looked for: films fade in."""
LARGEST = (384, 512)
"""Height and width that larger frames are cropped to, in HR pixels."""
SMALLEST = 64
FLAT = 1.0
"""Standard deviation of luma, in 8-bit levels, below which a sample shows nothing."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window."""

    clip: str
    lr: NDArray[np.uint8]
    """(4,h,w,3)."""
    truth: NDArray[np.float64]
    """Luma of the HR frames (7,4h,4w)."""


def read(folder: Path) -> list[Sample]:
    """Read samples from a folder of videos, or of folders of images.

    Raises DataError if there are no clips, or if one is too short, too small or of one colour.
    """
    from zsm.evaluation import layouts  # reads videos, which takes packages that other exports don't need

    return [sample for clip in layouts.find(folder) for sample in _samples(clip)]


def _samples(clip: "Clip") -> list[Sample]:
    """The first pieces that show something."""
    samples, flat = list[Sample](), False
    for hr in _pieces(clip):
        truth = metrics.luma(hr)
        if truth.std() < FLAT:
            flat = True
            continue
        samples.append(Sample(clip=clip.name, lr=bicubic.resize(hr[::2], 1 / SCALE), truth=truth))
        if len(samples) == PER_CLIP:
            break
    if samples:
        return samples
    if flat:
        raise DataError(f"clip {clip.name} shows a single colour, which says nothing about ranges: leave it out")
    raise DataError(f"clip {clip.name} has fewer than {LENGTH} frames, too few for calibration: leave it out")


def _pieces(clip: "Clip") -> Iterator[NDArray[np.uint8]]:
    piece: list[NDArray[np.uint8]] = []
    for number, frame in enumerate(clip.frames(frames=SEARCHED)):
        if number % SPACING < LENGTH:
            piece.append(_cropped(frame, clip.name))
        if len(piece) == LENGTH:
            yield np.stack(piece)
            piece = []


def _cropped(frame: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """The middle of a frame, with sides that are multiples of 16."""
    if min(frame.shape[:2]) < SMALLEST:
        width, height = frame.shape[1], frame.shape[0]
        raise DataError(f"clip {name} is {width}x{height}; calibration needs {SMALLEST}x{SMALLEST} or more")
    sides = [min(side, limit) // 16 * 16 for side, limit in zip(frame.shape[:2], LARGEST, strict=True)]
    top, left = ((whole - side) // 2 for whole, side in zip(frame.shape[:2], sides, strict=True))
    return frame[top : top + sides[0], left : left + sides[1]]
