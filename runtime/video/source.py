"""What a source of frames is: its properties, its frames, and how files are opened."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.error import FFmpegError

from zsm.errors import Error, VideoError
from zsm.runtime.video.colour import Codes, Colour

MAX_PIXELS = 2**26
"""The largest input frame; restored, a larger one would take more than 3 GB."""
DEFAULT_RATE = Fraction(25)
ALPHA_DROPPED = "the alpha channel is dropped"


@dataclass(frozen=True, kw_only=True)
class Info:
    """The properties of a source, from its first frame and its header."""

    name: str
    path: Path | None = None
    """None for a pipe."""
    stream: int = 0
    """The index of the video stream in the file."""
    size: tuple[int, int]
    """Width and height as displayed, after rotation."""
    colour: Colour
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    """Frames per second; the average if the rate varies."""
    frames: int | None = None
    """The number of frames that the header announces."""
    aspect: Fraction = Fraction(1)
    """The sample aspect ratio, as displayed."""
    stereo: str | None = None
    """How a frame holds the views of two eyes, as Matroska names it: `left_right`, `top_bottom`, ..."""
    mastering: bytes | None = None
    light_level: bytes | None = None


class SourceFrame(Protocol):
    """A frame that has not been converted to RGB yet."""

    @property
    def time(self) -> int:
        """Presentation time, in the source's time base."""
        ...

    @property
    def duration(self) -> int:
        """Duration in the source's time base; 0 if the source doesn't say."""
        ...

    def pixels(self) -> Codes:
        """Convert to RGB (h,w,3), uint8 or uint16, upright; raises VideoError if it can't be decoded."""
        ...


class Source(Protocol):
    """Where frames come from. The first frame is read when a source is opened."""

    info: Info

    def frames(self) -> Iterator[SourceFrame]:
        """Yield all frames, their times strictly increasing. Call it once."""
        ...

    def notes(self) -> list[str]:
        """Report the damage tolerated and what was ignored so far, one sentence each."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


def open_container(
    file: Any, name: str, *, container_format: str | None = None, options: dict[str, str] | None = None
) -> av.container.InputContainer:
    """Open a file for reading; raises VideoError, with the reason, if it isn't a video or can't be read."""
    try:
        # FFmpeg would take a relative name with a colon for a URL.
        path = str(file.absolute()) if isinstance(file, Path) else file
        if isinstance(file, Path) and file.stat().st_size == 0:
            raise VideoError(f"{name} is empty")
        return av.open(path, "r", format=container_format, options=options or {}, metadata_errors="replace")
    except Error:
        raise
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"can't open {name}: {message(error)}") from error


def check_size(size: tuple[int, int], name: str) -> tuple[int, int]:
    """Return the size; raises VideoError if frames of it would need too much memory."""
    if size[0] * size[1] > MAX_PIXELS:
        raise VideoError(f"{name} has frames of {size[0]}x{size[1]}; more than {MAX_PIXELS} pixels aren't supported")
    return size


def message(error: BaseException) -> str:
    """The text of an error from FFmpeg or the system, without its number."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
