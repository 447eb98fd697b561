"""Opening a source: a video file, a folder of images, or a pipe."""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from zsm.errors import ArgumentError
from zsm.runtime.video import colour as colours
from zsm.runtime.video.folder import FolderSource
from zsm.runtime.video.location import Location, locate
from zsm.runtime.video.source import DEFAULT_RATE
from zsm.runtime.video.videofile import VideoSource

RAW = re.compile(r"(?P<width>\d+)x(?P<height>\d+):(?P<format>\w+):(?P<rate>\d+(?:/\d+|\.\d+)?)")


def open_source(
    source: str | Location, *, rate: Fraction = DEFAULT_RATE, stream: int | None = None
) -> VideoSource | FolderSource:
    """Open a video, by path or as `restore` does, or a folder of images at `rate` frames per second.

    `stream` is the index of the video stream to read; by default the one that players choose. Raises VideoError, or
    ArgumentError if there is no such stream.
    """
    location = locate(source) if isinstance(source, str) else source
    if not (isinstance(location, Path) and location.is_dir()):
        return VideoSource(location, stream=stream)
    if stream is not None:
        raise ArgumentError(f"{location} is a folder of images, which has no stream {stream}; leave out --stream")
    return FolderSource(location, rate=rate)


def read_frames(source: str | Location, *, start: int = 0, frames: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video or of a folder of images, as RGB (h,w,3) uint8.

    Begins with frame number `start` and yields at most `frames` frames. Deeper video is rounded to 8 bits. Raises
    VideoError if the source can't be read.
    """
    opened = open_source(source)
    try:
        stop = None if frames is None else start + frames
        for frame in islice(opened.frames(), start, stop):
            pixels = frame.pixels()
            yield pixels if pixels.dtype == np.uint8 else colours.narrow(pixels)
    finally:
        opened.close()


def open_pipe(file: BinaryIO, raw: str | None = None, *, stream: int | None = None) -> VideoSource:
    """Open a pipe: raw frames if `raw` describes them (WxH:pixfmt:fps), else y4m or any format FFmpeg recognises.

    `stream`: as for `open_source`; raw frames have none. Raises ArgumentError for an invalid description or stream, and
    VideoError if the pipe can't be read.
    """
    if raw is None:
        return VideoSource(file, name="the input pipe", stream=stream)
    if stream is not None:
        raise ArgumentError(f"raw frames have no stream {stream}; leave out --stream")
    match = RAW.fullmatch(raw)
    if match is None or not int(match["width"]) or not int(match["height"]) or not _rate(match["rate"]):
        raise ArgumentError(f"invalid --raw {raw}; give WxH:pixfmt:fps, for example 640x360:yuv420p:30000/1001")
    options = {
        "video_size": f"{match['width']}x{match['height']}",
        "pixel_format": colours.video_format(match["format"]).name,
        "framerate": match["rate"],
    }
    return VideoSource(file, name="the input pipe", container_format="rawvideo", options=options)


def _rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return Fraction(0)
