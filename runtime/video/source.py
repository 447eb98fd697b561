"""What a source of frames is: its properties, its frames, and how files are opened."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av
import msgspec
from av.error import FFmpegError

from zsm.errors import Error, VideoError
from zsm.runtime.video.colour import Codes, Colour
from zsm.runtime.video.location import Location, is_elsewhere, name_of

MAX_PIXELS = 2**26
"""The largest input frame; restored, a larger one would take more than 3 GB."""
DEFAULT_RATE = Fraction(25)
ALPHA_DROPPED = "the alpha channel is dropped"


@dataclass(frozen=True, kw_only=True)
class Info:
    """The properties of a source, from its first frame and its header."""

    name: str
    location: Location | None = None
    """None for a pipe."""
    length: int | None = None
    """The bytes that a URL or a function gives; None if unknown, and for other sources."""
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

    @property
    def stamp(self) -> int | None:
        """The source's own time stamp, before it was made to increase."""
        ...

    @property
    def key(self) -> bool:
        """Whether decoding may be able to begin here."""
        ...

    def digest(self) -> int:
        """CRC-32 of the visible pixels as decoded."""
        ...

    def pixels(self) -> Codes:
        """Convert to RGB (h,w,3), uint8 or uint16, upright; raises VideoError if it can't be decoded."""
        ...


class Seen(msgspec.Struct, frozen=True, array_like=True, tag="frame"):
    """What is remembered of a frame."""

    time: int
    stamp: int | None
    duration: int
    key: bool
    digest: int
    scene: bool
    """Whether a new scene begins with it."""

    def matches(self, frame: SourceFrame) -> bool:
        """Whether a frame decoded later is the same."""
        return self.stamp == frame.stamp and self.digest == frame.digest()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How to come back to a run of frames: `first`, counted from the source's beginning, and those after it."""

    first: int
    frames: Sequence[Seen]
    keys: Sequence[int] = ()
    """Time stamps of key frames to seek to, each further back than the one before."""


class Source(Protocol):
    """Where frames come from. The first frame is read when a source is opened."""

    info: Info

    def frames(self) -> Iterator[SourceFrame]:
        """Yield all frames, their times strictly increasing. A pipe can be read only once."""
        ...

    def enter(self, entry: Entry) -> Iterator[SourceFrame]:
        """Yield frames that have been seen before; raises VideoError if one is decoded differently now."""
        ...

    def recall(self, frames: Sequence[Seen]) -> None:
        """Take over what an earlier pass over the whole source has seen, in place of reading it again."""
        ...

    def notes(self) -> list[str]:
        """Report the damage tolerated and what was ignored so far, one sentence each."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


@dataclass(frozen=True)
class OpenFile:
    """A container open for reading. Leaving the context closes it."""

    container: av.container.InputContainer
    file: Any = None
    """The file under it if it was opened for it: PyAV doesn't close the files it is given."""

    def close(self) -> None:
        self.container.close()
        if self.file is not None:
            with suppress(Exception):  # nothing was written
                self.file.close()

    def __enter__(self) -> av.container.InputContainer:
        return self.container

    def __exit__(self, *error: object) -> None:
        self.close()


def open_container(
    file: Location | BinaryIO, name: str, *, container_format: str | None = None, options: dict[str, str] | None = None
) -> OpenFile:
    """Open a file for reading; raises VideoError, with the reason, if it isn't a video or can't be read."""
    opened: Any = None
    try:
        given: Any = file
        if isinstance(file, Path):
            if file.stat().st_size == 0:
                raise VideoError(f"{name} is empty")
            given = str(file.absolute())  # FFmpeg would take a relative name with a colon for a URL
        elif callable(file):
            with _only_oserror():
                opened = file()
            given = _Guarded(opened)
        else:
            given = _Guarded(file)
        container: av.container.InputContainer = av.open(
            given, "r", format=container_format, options=options or {}, metadata_errors="replace"
        )
        return OpenFile(container, opened)
    except BaseException as error:
        if opened is not None:
            with suppress(Exception):
                opened.close()
        _raise_if_interrupted(error)
        if isinstance(error, FFmpegError | OSError | ValueError) and not isinstance(error, Error):
            raise VideoError(f"can't open {name}: {message(error)}") from error
        raise


class _Guarded:
    """A file that raises nothing but OSError, and no more than once: PyAV prints every error after the first."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begun = False
        self._failed = False

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end, and after an error."""
        if self._failed:
            return b""
        with self._once():
            data = bytes(self._file.read(size))
            if not data and not self._begun:
                raise OSError("it is empty")
            self._begun = True
            return data

    def seek(self, offset: int, whence: int) -> Any:
        """Go to a place; -1 after an error."""
        if self._failed:
            return -1
        with self._once():
            return self._file.seek(offset, whence)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    @contextmanager
    def _once(self) -> Iterator[None]:
        try:
            with _only_oserror():
                yield
        except OSError:
            self._failed = True
            raise


@contextmanager
def _only_oserror() -> Iterator[None]:
    """Turn all exceptions of somebody else's file into OSError: others would be taken for damage, or for our own.

    Also Ctrl-C, which PyAV would swallow; `raise_if_lost` raises it again.
    """
    try:
        yield
    except OSError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def raise_if_lost(location: Location | None, error: BaseException) -> None:
    """Raise VideoError if a source elsewhere can't be read to its end: what has been read isn't taken for the whole.

    Raises KeyboardInterrupt if Ctrl-C broke off reading.
    """
    _raise_if_interrupted(error)
    if isinstance(error, OSError) and is_elsewhere(location):
        raise VideoError(
            f"reading {name_of(location)} failed: {message(error)}; check the connection, or download the file first"
        ) from None


def _raise_if_interrupted(error: BaseException) -> None:
    if isinstance(error.__cause__, KeyboardInterrupt):
        raise error.__cause__


def check_size(size: tuple[int, int], name: str) -> tuple[int, int]:
    """Return the size; raises VideoError if frames of it would need too much memory."""
    if size[0] * size[1] > MAX_PIXELS:
        raise VideoError(f"{name} has frames of {size[0]}x{size[1]}; more than {MAX_PIXELS} pixels aren't supported")
    return size


def message(error: BaseException) -> str:
    """The text of an error from FFmpeg or the system, without its number."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()


def changed(name: str, number: int) -> VideoError:
    """The error for a frame that was decoded differently when it was seen first."""
    return VideoError(
        f"frame {number} of {name} was decoded differently before; if the file hasn't changed, it is damaged and "
        "can't be decoded the same twice: repair it, or convert it first"
    )
