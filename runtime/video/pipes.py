"""Uncompressed video from a pipe."""

import re
from fractions import Fraction
from typing import BinaryIO

from zsm.runtime.video.encoders import video_format
from zsm.runtime.video.errors import VideoError
from zsm.runtime.video.reader import VideoSource

RAW = re.compile(r"(?P<width>\d+)x(?P<height>\d+):(?P<format>\w+):(?P<rate>\d+(?:/\d+|\.\d+)?)")


def open_pipe(file: BinaryIO, raw: str | None = None) -> VideoSource:
    """Video from a pipe: raw frames as `raw` says (WxH:pixfmt:fps), else y4m or what can be recognised."""
    if raw is None:
        return VideoSource(file, name="the input pipe")
    match = RAW.fullmatch(raw)
    if match is None or not int(match["width"]) or not int(match["height"]) or not _rate(match["rate"]):
        raise VideoError(f"--raw {raw} isn't understood; give WxH:pixfmt:fps, for example 640x360:yuv420p:30000/1001")
    options = {
        "video_size": f"{match['width']}x{match['height']}",
        "pixel_format": video_format(match["format"]).name,
        "framerate": match["rate"],
    }
    return VideoSource(file, name="the input pipe", container_format="rawvideo", options=options)


def _rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return Fraction(0)
