"""Short pieces of real clips, to calibrate on and to measure with: LR frames, and the HR frames that they come from."""

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
"""At most; one if there are more than half of `MOST` clips."""
MOST = 64
"""Samples, as the network runs over all of them for every block; of more clips, some are left out."""
SEARCHED = 1500
"""Frames at the beginning of a clip in which samples are looked for: films fade in."""
LARGEST = (384, 512)
"""Height and width that larger frames are cropped to, in HR pixels."""
SMALLEST = 64
FLAT = 1.0
"""Standard deviation of luma, in 8-bit levels, below which a frame shows nothing."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window."""

    clip: str
    lr: NDArray[np.uint8]
    """(4,h,w,3)."""
    truth: NDArray[np.uint8]
    """The HR frames (7,4h,4w,3)."""


def read(folder: Path) -> list[Sample]:
    """Read samples from a folder of videos, or of folders of images.

    Raises DataError if there are no clips, or if some are too short, too small or of one colour.
    """
    from zsm.evaluation import layouts  # reads videos, which takes packages that other exports don't need

    clips = layouts.find(folder)
    chosen = [clips[number * len(clips) // MOST] for number in range(MOST)] if len(clips) > MOST else clips
    samples, unusable = list[Sample](), list[str]()
    for clip in chosen:
        try:
            samples += _samples(clip, 1 if len(chosen) > MOST // 2 else PER_CLIP)
        except DataError as error:
            unusable.append(str(error))
    if unusable:
        raise DataError("; ".join(unusable))
    return samples


def _samples(clip: "Clip", most: int) -> list[Sample]:
    """The first pieces of which every frame shows something."""
    samples, piece = list[Sample](), list[NDArray[np.uint8]]()
    begin = frames = 0
    for number, frame in enumerate(clip.frames(frames=SEARCHED)):
        frames = number + 1
        if number < begin:
            continue
        cropped = _cropped(frame, clip.name)
        piece = [*piece, cropped] if metrics.luma(cropped).std() >= FLAT else []
        if len(piece) == LENGTH:
            lr = bicubic.resize(np.stack(piece[::2]), 1 / SCALE)
            samples.append(Sample(clip=clip.name, lr=lr, truth=np.stack(piece)))
            if len(samples) == most:
                break
            piece, begin = [], frames + SPACING - LENGTH
    if samples:
        return samples
    if frames < LENGTH:
        raise DataError(f"clip {clip.name} has fewer than {LENGTH} frames, too few for calibration: leave it out")
    raise DataError(f"clip {clip.name} has no {LENGTH} frames in a row that show more than one colour: leave it out")


def _cropped(frame: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """The middle of a frame, with sides that are multiples of 16."""
    if min(frame.shape[:2]) < SMALLEST:
        width, height = frame.shape[1], frame.shape[0]
        raise DataError(f"clip {name} is {width}x{height}; calibration needs {SMALLEST}x{SMALLEST} or more")
    sides = [min(side, limit) // 16 * 16 for side, limit in zip(frame.shape[:2], LARGEST, strict=True)]
    top, left = ((whole - side) // 2 for whole, side in zip(frame.shape[:2], sides, strict=True))
    return frame[top : top + sides[0], left : left + sides[1]]
