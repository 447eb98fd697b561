"""A video file, a pipe or a folder of images as a sequence of timed frames."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray

from zsm.errors import ArgumentError, Error, VideoError
from zsm.runtime.video import colour as colours
from zsm.runtime.video import images
from zsm.runtime.video.colour import Codes, Colour
from zsm.runtime.video.orientation import Orientation, orientation

MAX_PIXELS = 2**26
"""The largest input frame; restored, a larger one would take more than 3 GB."""
DEFAULT_RATE = Fraction(25)


@dataclass(frozen=True, kw_only=True)
class Info:
    """The properties of a source, from its first frame and its header."""

    name: str
    path: Path | None = None
    """None for a pipe."""
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
        """Report the damage tolerated so far, one sentence each."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


@dataclass(frozen=True)
class _Decoded:
    time: int
    duration: int
    frame: av.VideoFrame
    info: Info
    orientation: Orientation

    def pixels(self) -> Codes:
        return self.orientation.apply(colours.to_rgb(self.frame, self.info.colour))


class VideoSource:
    """The first video stream of a file or pipe, cover pictures aside.

    Tolerates damaged input: decodes what it can and records a note. Raises VideoError if nothing can be decoded.
    """

    def __init__(
        self,
        file: Any,
        *,
        name: str | None = None,
        container_format: str | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self._name = name or str(file)
        self._file = file
        self._opening: dict[str, Any] = {"container_format": container_format, "options": options}
        self._counts: Counter[str] = Counter()
        self._notes: list[str] = []
        self._whole = True
        self._open()
        try:
            if self._first is None:
                raise VideoError(f"no frame of {self._name} could be decoded{self._reason()}")
            self._orientation = orientation(_side_data(self._first, SideData.DISPLAYMATRIX))
            self.info = self._describe(self._first)
        except BaseException:
            self.container.close()
            raise

    def _open(self) -> None:
        self.container = open_container(self._file, self._name, **self._opening)
        try:
            self.stream = self._video_stream()
        except BaseException:
            self.container.close()
            raise
        self.stream.thread_type = "AUTO"
        self._frames = self._decode()
        self._first = next(self._frames, None)

    def skip_to(self, seconds: Fraction) -> None:
        """Let `frames` begin at the key frame at or before `seconds` on the stream's clock, if it can be found."""
        if not isinstance(self._file, Path) or self._first is None:
            return
        size = (self._first.width, self._first.height)
        try:
            self.container.seek(round(seconds / self.info.time_base), stream=self.stream)
            self._frames = self._decode()
            first = next(self._frames, None)
        except FFmpegError:
            first = None
        stamp = None if first is None or first.pts is None else first.pts * self.info.time_base
        self._whole = stamp is None or stamp > seconds or (first.width, first.height) != size  # type: ignore[union-attr]
        if self._whole:
            # The file's index is wrong or missing: begin at the beginning.
            self.container.close()
            self._open()
        else:
            self._first = first

    def frames(self) -> Iterator[SourceFrame]:
        """Yield all frames, their times strictly increasing. Call it once."""
        assert self._first is not None
        step = max(1, round(1 / (self.info.rate * self.info.time_base)))
        previous, time = None, 0
        frame: av.VideoFrame | None = self._first
        number = 0
        while frame is not None:
            stamp = frame.pts if frame.pts is not None else frame.dts
            if stamp is None:
                time = 0 if previous is None else previous + step
            elif previous is not None and stamp <= previous:
                self._counts["time"] += 1
                time = previous + 1
            else:
                time = stamp
            self._counts["corrupt"] += frame.is_corrupt
            yield _Decoded(time, frame.duration or 0, self._same_size(frame, number), self.info, self._orientation)
            previous = time
            number += 1
            frame = next(self._frames, None)
        if self._whole and number < self.stream.frames:
            self._notes.append(f"the file announces {self.stream.frames} frames, {number} could be read")

    def notes(self) -> list[str]:
        """Report the damage tolerated so far, one sentence each."""
        sentences = {
            "packets": "{} damaged packets were skipped",
            "corrupt": "{} frames were decoded from damaged data",
            "time": "{} time stamps did not increase and were moved",
        }
        return self._notes + [text.format(self._counts[key]) for key, text in sentences.items() if self._counts[key]]

    def close(self) -> None:
        self.container.close()

    def _video_stream(self) -> av.VideoStream:
        streams = [s for s in self.container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{self._name} has no video stream")
        if streams[0].codec_context is None:
            raise VideoError(f"{self._name} is encoded with a codec that can't be decoded here")
        if len(streams) > 1:
            self._notes.append(f"only the first of {len(streams)} video streams is used")
        return streams[0]

    def _decode(self) -> Iterator[av.VideoFrame]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, ValueError) as error:
                self._notes.append(f"reading stopped early: {message(error)}")
                return
            if packet is None:
                return
            try:
                yield from packet.decode()
            except FFmpegError:
                self._counts["packets"] += 1

    def _describe(self, frame: av.VideoFrame) -> Info:
        size = check_size((frame.width, frame.height), self._name)
        aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        if self._orientation.turns % 2:
            size, aspect = (size[1], size[0]), 1 / aspect
        if frame.interlaced_frame:
            self._notes.append("the video is interlaced; deinterlace it first for a good result")
        if len(frame.format.components) in (2, 4) and not frame.format.has_palette:
            self._notes.append("the alpha channel is dropped")
        rate = self.stream.average_rate or self.stream.guessed_rate or DEFAULT_RATE
        time_base = self.stream.time_base or 1 / rate
        duration = (self.stream.duration or 0) * time_base or Fraction(self.container.duration or 0, av.time_base)
        return Info(
            name=self._name,
            path=self._file if isinstance(self._file, Path) else None,
            size=size,
            colour=colours.describe(frame),
            pixel_format=frame.format.name,
            time_base=time_base,
            rate=rate,
            frames=self.stream.frames or round(duration * rate) or None,
            aspect=aspect,
            mastering=_side_data(frame, SideData.MASTERING_DISPLAY_METADATA),
            light_level=_side_data(frame, SideData.CONTENT_LIGHT_LEVEL),
        )

    def _same_size(self, frame: av.VideoFrame, number: int) -> av.VideoFrame:
        assert self._first is not None
        if (frame.width, frame.height) == (self._first.width, self._first.height):
            return frame
        if not self._counts["sizes"]:
            self._notes.append(
                f"the size changes from {self._first.width}x{self._first.height} to {frame.width}x{frame.height} at "
                f"frame {number}; frames of another size than the first were scaled to it"
            )
        self._counts["sizes"] += 1
        check_size((frame.width, frame.height), self._name)
        return frame.reformat(width=self._first.width, height=self._first.height, interpolation=colours.SCALER)

    def _reason(self) -> str:
        return ": " + "; ".join(self.notes()) if self.notes() else ""


@dataclass(frozen=True)
class _Still:
    time: int
    path: Path
    source: "FolderSource"
    duration: int = 1

    def pixels(self) -> Codes:
        pixels = images.read(self.path)
        if pixels.shape[1::-1] != self.source.info.size:
            width, height = self.source.info.size
            raise VideoError(
                f"{self.path} is {pixels.shape[1]}x{pixels.shape[0]}, but the images before it are {width}x{height}; "
                "all must have the same size"
            )
        if pixels.dtype != self.source.info.colour.dtype:
            raise VideoError(
                f"{self.path} is {pixels.dtype}, but the images before it aren't; all must have the same depth"
            )
        return pixels


class FolderSource:
    """The images of a folder, in natural order, at a constant rate."""

    def __init__(self, folder: Path, *, rate: Fraction = DEFAULT_RATE) -> None:
        self._paths = images.find(folder)
        pixels = images.read(self._paths[0])
        colour = Colour(
            matrix=colours.RGB,
            full_range=True,
            primaries=colours.BT709,
            transfer=colours.SRGB,
            bits=8 if pixels.dtype == np.uint8 else 16,
        )
        self.info = Info(
            name=str(folder),
            path=folder,
            size=check_size((pixels.shape[1], pixels.shape[0]), str(self._paths[0])),
            colour=colour,
            pixel_format="rgb24" if colour.bits == 8 else "rgb48le",
            time_base=1 / rate,
            rate=rate,
            frames=len(self._paths),
        )

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the images; their times are their places in the folder."""
        for time, path in enumerate(self._paths):
            yield _Still(time, path, self)

    def notes(self) -> list[str]:
        """Return nothing, as damaged images are errors."""
        return []

    def close(self) -> None:
        """Do nothing: no file stays open."""


def open_source(path: Path, *, rate: Fraction = DEFAULT_RATE) -> VideoSource | FolderSource:
    """Open a video file or a folder of images (at `rate` frames per second); raises VideoError."""
    return FolderSource(path, rate=rate) if path.is_dir() else VideoSource(path)


def read_frames(path: str | Path, *, start: int = 0, frames: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video file or of a folder of images, as RGB (h,w,3) uint8.

    Begins with frame number `start` and yields at most `frames` frames. Deeper video is rounded to 8 bits. Raises
    VideoError if the source can't be read.
    """
    source = open_source(Path(path))
    try:
        stop = None if frames is None else start + frames
        for frame in islice(source.frames(), start, stop):
            pixels = frame.pixels()
            yield pixels if pixels.dtype == np.uint8 else colours.narrow(pixels)
    finally:
        source.close()


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


def _side_data(frame: av.VideoFrame, kind: SideData) -> bytes | None:
    found: Any = frame.side_data
    return bytes(found[kind]) if kind in found else None


RAW = re.compile(r"(?P<width>\d+)x(?P<height>\d+):(?P<format>\w+):(?P<rate>\d+(?:/\d+|\.\d+)?)")


def open_pipe(file: BinaryIO, raw: str | None = None) -> VideoSource:
    """Open a pipe: raw frames if `raw` describes them (WxH:pixfmt:fps), else y4m or any format FFmpeg recognises.

    Raises ArgumentError for an invalid description, and VideoError if the pipe can't be read.
    """
    if raw is None:
        return VideoSource(file, name="the input pipe")
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
