"""Crops of the region that moves most, for the report, and a labelled sheet of pictures, for the demo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

_DARK = 24


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle in HR pixels."""

    x: int
    y: int
    width: int
    height: int

    def of(self, frame: Frame) -> Frame:
        """Crop a frame (H,W,3) to the region; a view."""
        return frame[self.y : self.y + self.height, self.x : self.x + self.width]

    def drawn_on(self, frame: Frame) -> Frame:
        """Return a copy of the frame with the region outlined."""
        thickness = max(1, round(frame.shape[1] / 320))
        corners = (self.x, self.y), (self.x + self.width - 1, self.y + self.height - 1)
        return np.asarray(cv2.rectangle(frame.copy(), *corners, (255, 196, 0), thickness), np.uint8)


def moving_region(frames: Sequence[Frame] | Frame, width: int, height: int) -> Region:
    """Find the region with the most moving detail in a few consecutive frames (H,W,3): the hardest to restore.

    It maximizes the change from frame to frame times the sharpness (Laplacian). No larger than the frame.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    full_height, full_width = grey[0].shape[:2]
    interest = np.zeros((full_height, full_width), np.float32)
    for before, after in pairwise(grey):
        interest += cv2.absdiff(before, after) * np.abs(cv2.Laplacian(after, cv2.CV_32F))
    width, height = min(width, full_width), min(height, full_height)
    sums = cv2.boxFilter(interest, cv2.CV_32F, (width, height), anchor=(0, 0), normalize=False)
    inside = np.asarray(sums)[: full_height - height + 1, : full_width - width + 1]
    y, x = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return Region(x=int(x), y=int(y), width=width, height=height)


def enlarged(frame: Frame, scale: int = 4) -> Frame:
    """Repeat every pixel `scale` by `scale` times, which shows an LR frame as it is."""
    return np.ascontiguousarray(frame.repeat(scale, axis=0).repeat(scale, axis=1))


def sheet(rows: Mapping[str, Mapping[str, Frame]], *, width: int) -> Frame:
    """Arrange labelled frames in titled rows, each frame scaled to `width` pixels.

    All rows have the same labels, which are drawn above the first.
    """
    labels = next(iter(rows.values()))
    bands = [_side_by_side([_text(label, width, 34, 0.6, (255, 255, 255)) for label in labels])]
    for title, frames in rows.items():
        pictures = _side_by_side([_scaled(frame, width) for frame in frames.values()])
        bands += [_text(title, pictures.shape[1], 28, 0.45, (190, 190, 190)), pictures]
    return np.vstack(bands)


def png(frame: Frame) -> bytes:
    """Encode an RGB frame as PNG."""
    return _encoded(".png", frame, [])


def jpeg(frame: Frame, quality: int = 88) -> bytes:
    """Encode an RGB frame as JPEG."""
    return _encoded(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encoded(suffix: str, frame: Frame, options: Sequence[int]) -> bytes:
    _, data = cv2.imencode(suffix, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def _scaled(frame: Frame, width: int) -> Frame:
    height = round(frame.shape[0] * width / frame.shape[1])
    # Enlarging repeats pixels, because smooth interpolation would hide differences.
    how = cv2.INTER_NEAREST if width > frame.shape[1] else cv2.INTER_AREA
    return np.asarray(cv2.resize(frame, (width, height), interpolation=how), np.uint8)


def _side_by_side(pictures: Sequence[Frame]) -> Frame:
    gap = np.full((len(pictures[0]), 6, 3), _DARK, np.uint8)
    return np.hstack([part for picture in pictures for part in (picture, gap)][:-1])


def _text(text: str, width: int, height: int, scale: float, colour: tuple[int, int, int]) -> Frame:
    strip = np.full((height, width, 3), _DARK, np.uint8)
    place = (8, height - 10)
    cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return strip
