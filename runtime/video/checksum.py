"""A checksum of decoded pictures."""

import zlib
from functools import cache

import av
import numpy as np


def crc32(frame: av.VideoFrame) -> int:
    """CRC-32 of the visible pixels: the ends of lines in memory may hold anything."""
    widths = _line_widths(frame.format.name, frame.width, frame.height)
    value = 0
    for plane, width in zip(frame.planes, widths, strict=False):
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
        value = zlib.crc32(np.ascontiguousarray(lines[:, :width]).data, value)
    return value


@cache
def _line_widths(name: str, width: int, height: int) -> list[int]:
    """The visible bytes of a line, for each plane that holds a component; palettes follow without an entry."""
    layout = av.VideoFormat(name, width, height)
    planes = sorted({component.plane for component in layout.components})
    if len(planes) == 1:
        return [-(-width * layout.padded_bits_per_pixel // 8)]
    return [sum(c.width * -(-c.bits // 8) for c in layout.components if c.plane == plane) for plane in planes]
