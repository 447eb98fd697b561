"""A video file, or a pipe, as a source of frames."""

import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.error import FFmpegError
from av.sidedata.sidedata import Type

from zsm.errors import ArgumentError, VideoError
from zsm.runtime.video import checksum, images, sidedata, tags
from zsm.runtime.video import colour as colours
from zsm.runtime.video.clock import Clock
from zsm.runtime.video.colour import Codes
from zsm.runtime.video.location import Location, Url, is_elsewhere, name_of
from zsm.runtime.video.orientation import Orientation, orientation
from zsm.runtime.video.passengers import name
from zsm.runtime.video.source import (
    ALPHA_DROPPED,
    DEFAULT_RATE,
    Entry,
    Info,
    Seen,
    SourceFrame,
    changed,
    check_size,
    message,
    open_container,
    raise_if_lost,
)
from zsm.runtime.video.spool import Spool


@dataclass(frozen=True)
class _Decoded:
    time: int
    duration: int
    original: av.VideoFrame
    frame: av.VideoFrame
    """The same, of the size of the first."""
    info: Info
    orientation: Orientation

    @property
    def stamp(self) -> int | None:
        return _stamp(self.original)

    @property
    def key(self) -> bool:
        return self.original.key_frame

    def digest(self) -> int:
        return checksum.crc32(self.original)

    def pixels(self) -> Codes:
        return self.orientation.apply(colours.to_rgb(self.frame, self.info.colour))


class VideoSource:
    """A video stream of a file or pipe: the one that players choose, or number `stream` of the file.

    Tolerates damaged input: decodes what it can and records a note. Raises VideoError if nothing can be decoded, or if
    the connection to a file elsewhere is lost, and ArgumentError if there is no such stream.
    """

    def __init__(
        self,
        file: Location | BinaryIO,
        *,
        name: str | None = None,
        container_format: str | None = None,
        options: dict[str, str] | None = None,
        stream: int | None = None,
    ) -> None:
        self._name = name or name_of(file)
        self._file = file
        self._wanted = stream
        self._opening: dict[str, Any] = {"container_format": container_format, "options": options}
        self._counts: Counter[str] = Counter()
        self._notes: list[str] = []
        """About the file as a whole."""
        self._troubles: list[str] = []
        """Met while reading."""
        self._lost: set[str] = set()
        """What came with the frames and isn't carried along."""
        self._moved = False
        """Whether frames have been read since the file was opened."""
        self._in_use = threading.Lock()
        """Held while the next frame is read."""
        self._closing = self._closed = False
        self._open()
        self.clock = Clock(jumps_ahead=self.clock_jumps)
        try:
            if self._first is None:
                raise VideoError(f"no frame of {self._name} could be decoded{self._reason()}")
            found = sidedata.read(self._first)
            self._orientation = orientation(found.get(Type.DISPLAYMATRIX))
            self.info = self._describe(self._first, found)
            self.timecode = (
                tags.find(self.stream.metadata, "timecode")
                or tags.find(self.container.metadata, "timecode")
                or sidedata.timecode(found)
            )
            """The first frame's SMPTE time code, as the file gives it; or None."""
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._opened = open_container(self._file, self._name, **self._opening)
        self.container = self._opened.container
        if isinstance(self._file, Url):
            self._file = replace(self._file, version=self._opened.file.version)
        try:
            self.stream = self._video_stream()
            self.stream.thread_type = "AUTO"
            self._aside: list[Any] | Spool | None = None
            if self._location is None and len(self.container.streams) > 1:
                self._aside = []
            self._frames = self._decode()
            self._first = next(self._frames, None)
        except BaseException:
            self._opened.close()
            raise

    @property
    def _location(self) -> Location | None:
        """None for a pipe."""
        return self._file if isinstance(self._file, Path) or callable(self._file) else None

    def keep_others(self, path: Path) -> Spool | None:
        """Keep the other streams of a pipe in a file, while frames are read; None if there are none.

        Call it before `frames`. Raises VideoError if the file can't be written.
        """
        if not isinstance(self._aside, list):
            return None
        spool = Spool(self.container, self.stream, self.clock.offsets, path)
        for packet in self._aside:
            spool.take(packet)
        self._aside = spool
        return spool

    def others(self) -> list[str]:
        """Name the other streams."""
        return [name(stream) for stream in self.container.streams if stream.index != self.stream.index]

    def frames(self) -> Iterator[SourceFrame]:
        """Yield all frames, their times strictly increasing. A pipe can be read only once."""
        return self._while_open(self._all())

    def enter(self, entry: Entry) -> Iterator[SourceFrame]:
        """Yield frames that have been seen before; raises VideoError if one is decoded differently now.

        Seeks to the key frame before them. If a frame turns out to be another than before, begins again further back,
        and at worst at the beginning.
        """
        return self._while_open(self._seen(entry))

    def _while_open(self, frames: Iterator[SourceFrame]) -> Iterator[SourceFrame]:
        """Pass frames on until the file is closed, which it isn't while one is read."""
        try:
            while True:
                with self._in_use:
                    if self._closed:
                        raise VideoError(f"{self._name} was closed before all of it was read")
                    frame = next(frames, None)
                if frame is None:
                    return
                yield frame
        finally:
            if self._closing:  # which was left to this reader
                self.close()

    def _all(self) -> Iterator[SourceFrame]:
        if isinstance(self._aside, list):
            self._aside = None
        if self._moved:
            self.clock = Clock(jumps_ahead=self.clock_jumps)
        number = 0
        for number, frame in enumerate(self._from_the_beginning(), start=1):
            time = self._place(_stamp(frame))
            self._counts["corrupt"] += frame.is_corrupt
            self._lost |= sidedata.lost(sidedata.read(frame), (frame.width, frame.height))
            yield self._frame(frame, number - 1, time)
        announced = self._announced()
        if number < announced:
            self._troubles.append(f"the file announces {announced} frames, {number} could be read")

    def _seen(self, entry: Entry) -> Iterator[SourceFrame]:
        done = 0
        for frames in self._attempts(entry):
            for number, frame in enumerate(islice(frames, len(entry.frames))):
                if number < done:
                    continue
                seen = entry.frames[number]
                found = self._frame(frame, entry.first + number, seen.time)
                if not seen.matches(found):
                    break
                yield found
                done += 1
            if done == len(entry.frames):
                return
        raise changed(self._name, entry.first + done)

    def recall(self, frames: Sequence[Seen]) -> None:
        """Set the clock as if these frames, all there are, had been read."""
        for frame in frames:
            self._place(frame.stamp)

    def notes(self) -> list[str]:
        """Report the damage tolerated so far, one sentence each."""
        sentences = {
            "packets": "{} damaged packets were skipped",
            "corrupt": "{} frames were decoded from damaged data",
            "stamps": "{} time stamps did not increase and were moved",
            "jumps": "the clock jumps at {} places; what follows was moved to continue there",
        }
        counts = self._counts | Counter(stamps=self.clock.corrected, jumps=len(self.clock.offsets) - 1)
        counted = [text.format(counts[key]) for key, text in sentences.items() if counts[key]]
        lost = [f"not carried along: {', '.join(sorted(self._lost))}"] if self._lost else []
        return [*self._notes, *self._troubles, *counted, *lost]

    def close(self) -> None:
        """Close the file, or leave that to a reader that hangs in it, in another thread: it may use what this frees."""
        self._closing = True
        if self._in_use.acquire(blocking=False):
            try:
                # A suspended generator and its source keep each other alive, and with them the decoder and its threads.
                self._frames.close()
                self._closed = True
                self._opened.close()
            finally:
                self._in_use.release()

    @property
    def clock_jumps(self) -> bool:
        """Whether the format's clock may jump ahead, as in recorded broadcasts."""
        flag: Any = av.format.Flags.ts_discont
        return bool(self.container.format.flags & flag.value)

    def _announced(self) -> int:
        """The number of frames that the file should have: what its header says, less what an edit list cuts off."""
        if not self.stream.duration or not self.stream.average_rate:
            return self.stream.frames
        lasting = self.stream.duration * self.info.time_base * self.stream.average_rate
        return min(self.stream.frames, round(lasting))

    def _video_stream(self) -> av.VideoStream:
        streams = [s for s in self.container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{self._name} has no video stream")
        if self._wanted is None:
            chosen = max(streams, key=_preference)
        else:
            found = [stream for stream in streams if stream.index == self._wanted]
            if not found:
                numbers = ", ".join(str(stream.index) for stream in streams)
                raise ArgumentError(f"{self._name} has no video stream {self._wanted}; choose {numbers}")
            chosen = found[0]
        if chosen.codec_context is None:
            raise VideoError(f"{self._name} is encoded with a codec that can't be decoded here")
        return chosen

    def _place(self, stamp: int | None) -> int:
        """When the next frame is shown, in the time base."""
        tick = self.info.time_base
        return round(
            self.clock.place(None if stamp is None else stamp * tick, max(tick, 1 / self.info.rate), tick) / tick
        )

    def _from_the_beginning(self) -> Iterator[av.VideoFrame]:
        if self._moved:
            self._opened.close()
            self._counts.clear()
            self._troubles.clear()
            self._lost.clear()
            self._open()
        self._moved = True
        if self._first is not None:
            yield self._first
            yield from self._frames

    def _attempts(self, entry: Entry) -> Iterator[Iterator[av.VideoFrame]]:
        """Decode from ever further back. What begins with the wanted frame's time stamp may still be another frame."""
        for key in entry.keys:
            self._moved = True
            try:
                self.container.seek(key, stream=self.stream)
            except (FFmpegError, OSError):
                continue
            yield self._decode_from(entry.frames[0].stamp)
        yield islice(self._from_the_beginning(), entry.first, None)

    def _decode_from(self, stamp: int | None) -> Iterator[av.VideoFrame]:
        frames = self._frames = self._decode(sought=True)
        for frame in frames:
            found = _stamp(frame)
            if found is None or stamp is None or found > stamp:
                return
            if found == stamp:
                yield frame
                yield from frames
                return

    def _frame(self, frame: av.VideoFrame, number: int, time: int) -> SourceFrame:
        same_size = self._same_size(frame, number)
        return _Decoded(time, frame.duration or 0, frame, same_size, self.info, self._orientation)

    def _decode(self, *, sought: bool = False) -> Generator[av.VideoFrame, None, None]:
        wanted = [self.stream] if self._aside is None else []
        packets: Iterator[Any] = self.container.demux(*wanted)
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError, ValueError) as error:
                if not sought:
                    raise_if_lost(self._location, error)
                self._troubles.append(f"reading stopped early: {message(error)}")
                return
            if packet is None:
                return
            if packet.stream.index != self.stream.index:
                self._put_aside(packet)
                continue
            try:
                yield from packet.decode()
            except FFmpegError:
                self._counts["packets"] += 1

    def _put_aside(self, packet: Any) -> None:
        if isinstance(self._aside, Spool):
            self._aside.take(packet)
        elif self._aside is not None:
            self._aside.append(packet)

    def _describe(self, frame: av.VideoFrame, found: Mapping[Type, bytes]) -> Info:
        size = check_size((frame.width, frame.height), self._name)
        aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        if self._orientation.turns % 2:
            size, aspect = (size[1], size[0]), 1 / aspect
        if frame.interlaced_frame:
            self._notes.append("the video is interlaced; deinterlace it first for a good result")
        # FFmpeg's own VP8 and VP9 decoders skip the alpha channel, which Matroska keeps beside the frames.
        beside = tags.find(self.stream.metadata, "alpha_mode") not in (None, "0")
        if beside or (len(frame.format.components) in (2, 4) and not frame.format.has_palette):
            self._notes.append(ALPHA_DROPPED)
        rate = self.stream.average_rate or self.stream.guessed_rate or DEFAULT_RATE
        time_base = self.stream.time_base or 1 / rate
        duration = (self.stream.duration or 0) * time_base or Fraction(self.container.duration or 0, av.time_base)
        return Info(
            name=self._name,
            location=self._location,
            length=self._length(),
            stream=self.stream.index,
            size=size,
            colour=colours.describe(frame),
            pixel_format=frame.format.name,
            time_base=time_base,
            rate=rate,
            frames=self.stream.frames or round(duration * rate) or None,
            aspect=aspect,
            stereo=sidedata.stereo(found) or tags.find(self.stream.metadata, "stereo_mode"),
            mastering=found.get(Type.MASTERING_DISPLAY_METADATA),
            light_level=found.get(Type.CONTENT_LIGHT_LEVEL),
        )

    def _length(self) -> int | None:
        if isinstance(self._location, Url) and self._location.version is not None:
            return self._location.version.length
        return self.container.size if is_elsewhere(self._location) and self.container.size > 0 else None

    def _same_size(self, frame: av.VideoFrame, number: int) -> av.VideoFrame:
        assert self._first is not None
        if (frame.width, frame.height) == (self._first.width, self._first.height):
            return frame
        if not self._counts["sizes"]:
            self._troubles.append(
                f"the size changes from {self._first.width}x{self._first.height} to {frame.width}x{frame.height} at "
                f"frame {number}; frames of another size than the first were scaled to it"
            )
        self._counts["sizes"] += 1
        check_size((frame.width, frame.height), self._name)
        return frame.reformat(width=self._first.width, height=self._first.height, interpolation=colours.SCALER)

    def _reason(self) -> str:
        if isinstance(self._file, Path):
            with self._file.open("rb") as file:
                if images.is_animated_webp(file.read(64)):
                    return ": animated WebP isn't supported; convert it to another format first"
        hint = "; if the server sends whole files only, download it first" if isinstance(self._location, Url) else ""
        return f": {'; '.join(self.notes())}{hint}" if self.notes() else hint


def _stamp(frame: av.VideoFrame) -> int | None:
    return frame.pts if frame.pts is not None else frame.dts


def _preference(stream: av.VideoStream) -> tuple[bool, int]:
    """Players take the default stream, then the largest; `max` keeps the first of equal ones."""
    context = stream.codec_context
    area = 0 if context is None else context.width * context.height
    return bool(stream.disposition & av.stream.Disposition.default), area
