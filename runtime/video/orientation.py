"""The orientation in which players show a picture: one of eight, from a display matrix."""

import math
import struct
from dataclasses import dataclass

import numpy as np

from zsm.runtime.video.colour import Codes


@dataclass(frozen=True)
class Orientation:
    """Mirror left to right if `mirrored`, then turn anticlockwise by `turns` quarters."""

    mirrored: bool = False
    turns: int = 0

    def apply(self, pixels: Codes) -> Codes:
        """Turn pixels (h,w,3) upright."""
        if self.mirrored:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(np.rot90(pixels, self.turns))


def orientation(matrix: bytes | None) -> Orientation:
    """Find the orientation nearest to FFmpeg's display matrix: nine int32 in rows, of which the first 2x2 matter."""
    if matrix is None or len(matrix) < 36:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack_from("=9i", matrix)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return Orientation(mirrored, round(math.atan2(-b, a) / (math.pi / 2)) % 4)
