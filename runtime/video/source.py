"""A video file, a pipe or a folder of images as a sequence of pictures with their times."""

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

from zsm.errors import VideoError
from zsm.runtime.video import colour as colours
from zsm.runtime.video import images
from zsm.runtime.video.colour import Codes, Colour

MAX_PIXELS = 2**26
"""Larger input frames are refused: restored, one would take more than 3 GB."""
DEFAULT_RATE = Fraction(25)


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a source is: as its first frame shows it, and as its header announces it."""

    name: str
    size: tuple[int, int]
    """Width and height as displayed, that is after rotation."""
    colour: Colour
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    """Frames per second: exact where the rate is constant, else the average."""
    frames: int | None = None
    """How many frames are expected, as far as the header lets one tell."""
    aspect: Fraction = Fraction(1)
    """The sample aspect ratio, as displayed."""
    mastering: bytes | None = None
    light_level: bytes | None = None


class Picture(Protocol):
    """A frame that has not been converted yet."""

    @property
    def time(self) -> int:
        """When it is shown, in the source's time base."""
        ...

    @property
    def duration(self) -> int:
        """How long it is shown, in the source's time base; 0 where the source doesn't say."""
        ...

    def pixels(self) -> Codes:
        """RGB (h,w,3), uint8 or uint16, upright. VideoError if it can't be decoded."""
        ...


class Source(Protocol):
    """Where frames come from. The first picture is read when a source is made."""

    info: Info

    def pictures(self) -> Iterator[Picture]:
        """All pictures, their times strictly increasing. To be called once."""
        ...

    def notes(self) -> list[str]:
        """What was put up with so far, a sentence each."""
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
    rotation: int

    def pixels(self) -> Codes:
        pixels = colours.to_rgb(self.frame, self.info.colour)
        return np.ascontiguousarray(np.rot90(pixels, self.rotation // 90)) if self.rotation else pixels


class VideoSource:
    """The first video stream of a file or pipe that isn't a cover picture.

    Damage is put up with as far as something can be decoded, and noted. VideoError if nothing can.
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
            self._rotation = round(self._first.rotation / 90) * 90 % 360
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
        """Let `pictures` begin at a key frame at or before `seconds`, on the stream's clock, if one can be found."""
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
            # The file's index misleads, or there is none: begin at the beginning.
            self.container.close()
            self._open()
        else:
            self._first = first

    def pictures(self) -> Iterator[Picture]:
        """All pictures, their times strictly increasing. To be called once."""
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
            yield _Decoded(time, frame.duration or 0, self._same_size(frame, number), self.info, self._rotation)
            previous = time
            number += 1
            frame = next(self._frames, None)
        if self._whole and number < self.stream.frames:
            self._notes.append(f"the file announces {self.stream.frames} frames, {number} could be read")

    def notes(self) -> list[str]:
        """What was put up with so far, a sentence each."""
        sentences = {
            "packets": "{} damaged packets were skipped",
            "corrupt": "{} frames were decoded from damaged data",
            "time": "{} time stamps did not increase and were moved",
        }
        return self._notes + [text.format(self._counts[key]) for key, text in sentences.items() if self._counts[key]]

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def _video_stream(self) -> av.VideoStream:
        streams = [s for s in self.container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{self._name} has no video stream")
        if streams[0].codec_context is None:
            raise VideoError(f"{self._name} is of a codec that can't be decoded here")
        if len(streams) > 1:
            self._notes.append(f"of {len(streams)} video streams only the first is used")
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
        if self._rotation % 180:
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
                f"frame {number}; frames of other sizes than the first's were scaled to it"
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
                f"{self.path} is {pixels.shape[1]}x{pixels.shape[0]}, the images before it are {width}x{height}; "
                "put images of one size into a folder"
            )
        if pixels.dtype != self.source.info.colour.dtype:
            raise VideoError(f"{self.path} is {pixels.dtype}, the images before it are not; give images of one depth")
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
            size=check_size((pixels.shape[1], pixels.shape[0]), str(self._paths[0])),
            colour=colour,
            pixel_format="rgb24" if colour.bits == 8 else "rgb48le",
            time_base=1 / rate,
            rate=rate,
            frames=len(self._paths),
        )

    def pictures(self) -> Iterator[Picture]:
        """All pictures, numbered by their place in the folder."""
        for time, path in enumerate(self._paths):
            yield _Still(time, path, self)

    def notes(self) -> list[str]:
        """Nothing: damaged images are errors."""
        return []

    def close(self) -> None:
        """Nothing stays open."""


def open_source(path: Path, *, rate: Fraction = DEFAULT_RATE) -> VideoSource | FolderSource:
    """A video file or a folder of images (which gets the rate `rate`)."""
    return FolderSource(path, rate=rate) if path.is_dir() else VideoSource(path)


def read_frames(path: str | Path, *, start: int = 0, frames: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video file or of a folder of images, as RGB (h,w,3) uint8.

    Begins with frame number `start` and ends after `frames` frames, if so many follow. Deeper video is
    rounded to 8 bits. Raises VideoError for what can't be read.
    """
    source = open_source(Path(path))
    try:
        stop = None if frames is None else start + frames
        for picture in islice(source.pictures(), start, stop):
            pixels = picture.pixels()
            yield pixels if pixels.dtype == np.uint8 else colours.narrow(pixels)
    finally:
        source.close()


def open_container(
    file: Any, name: str, *, container_format: str | None = None, options: dict[str, str] | None = None
) -> av.container.InputContainer:
    """Open for reading; VideoError with a reason if that is no video, or unreadable."""
    try:
        path = str(file) if isinstance(file, Path) else file
        if isinstance(file, Path) and file.stat().st_size == 0:
            raise VideoError(f"{name} is empty")
        return av.open(path, "r", format=container_format, options=options or {}, metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"can't open {name}: {message(error)}") from error


def check_size(size: tuple[int, int], name: str) -> tuple[int, int]:
    """The size; VideoError if frames of it would need unreasonable memory."""
    if size[0] * size[1] > MAX_PIXELS:
        raise VideoError(f"{name} has frames of {size[0]}x{size[1]}; more than {MAX_PIXELS} pixels aren't supported")
    return size


def message(error: BaseException) -> str:
    """What an error of FFmpeg or of the system says, without codes."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()


def _side_data(frame: av.VideoFrame, kind: SideData) -> bytes | None:
    found: Any = frame.side_data
    return bytes(found[kind]) if kind in found else None


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
        "pixel_format": colours.video_format(match["format"]).name,
        "framerate": match["rate"],
    }
    return VideoSource(file, name="the input pipe", container_format="rawvideo", options=options)


def _rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return Fraction(0)
