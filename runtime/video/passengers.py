"""Audio, subtitles, attachments and covers: whether each can be copied, has to be converted, or is left out.

That is decided before the first frame is restored, by writing a small file with each of them and reading it back: many
containers refuse a stream only when their trailer is written.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any, Protocol

import av
from av.error import FFmpegError

from zsm.runtime.video import tags
from zsm.runtime.video.audio import AudioForm, ConvertedTrack, choose_form, is_named
from zsm.runtime.video.location import Location, name_of
from zsm.runtime.video.source import message, open_container, raise_if_lost
from zsm.runtime.video.tags import Tags

SAMPLES = {"audio": 24, "subtitle": 4, "video": 1}
"""How many packets of a stream are tried."""
SECONDS = Fraction(1, 4)
"""How much sound is tried at least, whatever its packets hold: the tempo filter gives nothing for less than 0.1 s."""
MOST_SAMPLES = 1000
COVER_TYPES = {"mjpeg": "jpeg"}
"""The names of image formats in MIME types, where they differ from FFmpeg's."""


class Track(Protocol):
    """A stream of the output."""

    output: Any

    def take(self, packet: Any) -> Iterator[Any]:
        """Take a packet of the source, its times counted from the output's 0; yield those that become ready."""
        ...

    def finish(self) -> Iterator[Any]:
        """Yield the remaining packets."""
        ...


class CopiedTrack:
    """A stream whose packets are copied, with new times."""

    def __init__(self, stream: Any, container: av.container.OutputContainer, stretch: int) -> None:
        self.output = container.add_stream_from_template(stream, opaque=True)
        self._stretch = stretch
        self._previous: int | None = None
        self._step = 1 if stream.type == "audio" else 0
        """The least distance of decoding times: muxers refuse packets out of order."""

    def take(self, packet: Any) -> Iterator[Any]:
        """Yield the packet, at its time in the output."""
        packet.pts = None if packet.pts is None else packet.pts * self._stretch
        packet.dts = packet.pts if packet.dts is None else packet.dts * self._stretch
        packet.duration *= self._stretch
        if self._previous is not None:
            least = self._previous + self._step
            packet.dts = least if packet.dts is None else max(packet.dts, least)
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        self._previous = packet.dts
        packet.stream = self.output
        yield packet

    def finish(self) -> Iterator[Any]:
        """Yield nothing: no packet is held back."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class Copied:
    """Audio or subtitles copied as they are."""

    def open(self, stream: Any, container: Any, stretch: int) -> Track:
        return CopiedTrack(stream, container, stretch)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Audio that is encoded again."""

    form: AudioForm

    def open(self, stream: Any, container: Any, stretch: int) -> Track:
        return ConvertedTrack(stream, container, self.form, stretch)


@dataclass(frozen=True, kw_only=True)
class Cover:
    """A picture in a track of its own."""

    data: bytes

    def open(self, stream: Any, container: Any, stretch: int) -> Track:
        return CopiedTrack(stream, container, 1)

    def packet(self) -> Any:
        """The picture, to be copied."""
        packet = av.Packet(self.data)
        packet.pts = packet.dts = 0
        packet.time_base = Fraction(1, 1000)
        packet.is_keyframe = True
        return packet


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A file within the file."""

    name: str
    mime_type: str
    data: bytes

    def open(self, stream: Any, container: Any, stretch: int) -> None:
        container.add_attachment(self.name, self.mime_type, self.data)


Passage = Copied | Converted | Cover | Attached


@dataclass(frozen=True, kw_only=True)
class Passengers:
    """Everything that is passed on from a file, beside its pictures."""

    source: Location
    passages: Mapping[int, Passage]
    """How each stream is passed on, by its index."""
    tags: Tags
    disposition: int
    """FFmpeg's flags of the video stream: default, forced, ..."""


def plan(source: Location, video: int, muxer: str, stretch: int) -> tuple[Passengers, list[str]]:
    """Decide what becomes of everything besides the pictures of stream `video`; return it with notes.

    `muxer` is FFmpeg's name of the output's format; `stretch` the factor by which the output lasts longer.
    """
    passages: dict[int, Passage] = {}
    notes: list[str] = []
    with open_container(source, name_of(source)) as opened:
        samples = _sample(opened, source)
        chosen, lost = tags.plan(opened.metadata, opened.streams[video].metadata, muxer)
        if lost:
            notes.append(f"tags that {muxer} can't hold are left out: {', '.join(lost)}")
        for stream in opened.streams:
            if stream.index == video or _is_timecode(stream):
                continue
            trial = _Trial(stream, samples.get(stream.index, []), muxer, stretch)
            try:
                passages[stream.index] = trial.decide()
            except (ValueError, FFmpegError) as error:
                notes.append(f"{name(stream)} is left out: {message(error)}")
            else:
                notes += trial.notes
        flags = opened.streams[video].disposition
    return Passengers(source=source, passages=passages, tags=chosen, disposition=flags), notes


def _is_timecode(stream: Any) -> bool:
    """Whether a stream is QuickTime's time code, which the muxer writes again from the video's tag."""
    return stream.type == "data" and "timecode" in stream.metadata


def is_cover(stream: Any) -> bool:
    """Whether a stream is a cover picture rather than a video."""
    return stream.type == "video" and bool(stream.disposition & av.stream.Disposition.attached_pic)


def name(stream: Any) -> str:
    """Name a stream for people."""
    codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
    if is_cover(stream):
        return f"cover picture {stream.index} ({codec})"
    return f"{stream.type} stream {stream.index} ({codec})"


def _sample(source: Any, location: Location) -> dict[int, list[Any]]:
    """Read the first packets of each stream. Reads on to the end for audio of which there is none."""
    samples: dict[int, list[Any]] = {
        stream.index: [] for stream in source.streams if stream.type in ("audio", "subtitle") or is_cover(stream)
    }
    missing = {index for index in samples if source.streams[index].type != "subtitle"}
    if not missing:
        return samples
    try:
        for packet in source.demux([source.streams[index] for index in samples]):
            found = samples[packet.stream.index]
            if packet.size and not _is_enough(found):
                found.append(packet)
                if _is_enough(found):
                    missing.discard(packet.stream.index)
            if not missing:
                break
    except (FFmpegError, OSError) as error:
        raise_if_lost(location, error)  # anything else is reported when the file is read again
    return samples


def _is_enough(packets: list[Any]) -> bool:
    if not packets or len(packets) < SAMPLES[packets[0].stream.type]:
        return False
    seconds = sum((packet.duration or 0) * packet.time_base for packet in packets)
    return packets[0].stream.type != "audio" or seconds >= SECONDS or len(packets) >= MOST_SAMPLES


@dataclass
class _Trial:
    """One stream, tried in an output of its own."""

    stream: Any
    samples: list[Any]
    muxer: str
    stretch: int

    def __post_init__(self) -> None:
        self.notes: list[str] = []

    def decide(self) -> Passage:
        """Raises ValueError or FFmpegError, with the reason, if the stream has to be left out."""
        if self.stream.type == "audio":
            return self._audio()
        if self.stream.type == "subtitle":
            return self._held(Copied())
        if self.stream.type == "attachment":
            filename = self.stream.metadata.get("filename", "attachment")
            return self._attachment(filename, self.stream.mimetype or "application/octet-stream", self.stream.data)
        if is_cover(self.stream):
            return self._cover()
        if self.stream.type == "video":
            raise ValueError("one video stream is restored; choose another with --stream")
        raise ValueError(f"{self.stream.type} streams aren't copied")

    def _audio(self) -> Passage:
        if not self.samples:
            raise ValueError("it is announced, but the file has none of it")
        why = "played at half speed, pitch kept"
        if self.stretch == 1:
            try:
                return self._held(Copied())
            except (ValueError, FFmpegError) as error:
                why = message(error)
        frame = self._decoded()
        form = choose_form(frame, self.muxer)
        self._write(Converted(form=form))
        changes = [f"{frame.sample_rate} Hz to {form.rate} Hz"] if form.rate != frame.sample_rate else []
        if is_named(frame.layout) and form.layout != frame.layout.name:
            changes.append(f"{frame.layout.name} to {form.layout}")
        what = f"{form.codec} ({', '.join(changes)})" if changes else form.codec
        self.notes.append(f"{name(self.stream)} is converted to {what}: {why}")
        return Converted(form=form)

    def _decoded(self) -> Any:
        """The first frame that can be decoded."""
        decoder = self.stream.codec_context
        if decoder is None:
            raise ValueError("its codec is unknown")
        try:
            for packet in chain(map(_copy, self.samples), [None]):
                try:
                    frames = decoder.decode(packet)
                except FFmpegError:
                    continue
                if frames and frames[0].sample_rate and frames[0].layout.nb_channels:
                    return frames[0]
        finally:
            decoder.flush_buffers()
        raise ValueError("it can't be decoded")

    def _cover(self) -> Passage:
        if not self.samples:
            raise ValueError("it is empty")
        data = bytes(self.samples[0])
        if self.muxer != "matroska":
            return self._held(Cover(data=data))
        codec = self.stream.codec_context.name if self.stream.codec_context is not None else "unknown"
        kind = COVER_TYPES.get(codec, codec)
        filename = self.stream.metadata.get("filename", f"cover.{'jpg' if kind == 'jpeg' else kind}")
        return self._attachment(filename, self.stream.metadata.get("mimetype", f"image/{kind}"), data)

    def _attachment(self, filename: str, mime_type: str, data: bytes) -> Passage:
        if self.muxer != "matroska":
            raise ValueError(f"{self.muxer} can't hold attachments")
        return self._held(Attached(name=filename, mime_type=mime_type, data=data))

    def _held(self, passage: Passage) -> Passage:
        codec = self.stream.codec_context.name if self.stream.codec_context is not None else ""
        if self.muxer == "mp4" and codec.startswith("pcm_"):
            raise ValueError("few players know PCM in mp4")
        try:
            self._write(passage)
        except (ValueError, FFmpegError) as error:
            raise ValueError(f"{self.muxer} can't hold it") from error
        return passage

    def _write(self, passage: Passage) -> None:
        """Write a file, header to trailer, and read it back; raises ValueError or FFmpegError if that fails."""
        file = io.BytesIO()
        with av.open(file, "w", format=self.muxer) as container:
            track = passage.open(self.stream, container, self.stretch)
            if track is None:
                container.add_stream("aac", rate=48000, layout="mono")  # attachments need company
                container.start_encoding()
                return
            track.output.disposition = self.stream.disposition
            wanted = tags.carried(self.stream.metadata)
            track.output.metadata.update(wanted)
            container.start_encoding()
            self._fill(container, track, passage)
        file.seek(0)
        with av.open(file, "r") as written:
            held: list[Any] = [stream for stream in written.streams if stream.type == self.stream.type]
            if not held or (held[0].type == "audio" and not held[0].codec_context.sample_rate):
                raise ValueError("it can't be read back")
            lost = [] if isinstance(passage, Cover) else tags.missing(wanted, held[0].metadata)
        if lost:
            self.notes.append(f"tags of {name(self.stream)} that {self.muxer} can't hold: {', '.join(lost)}")

    def _fill(self, container: Any, track: Track, passage: Passage) -> None:
        if isinstance(passage, Cover):
            container.mux(track.take(passage.packet()))
            return
        begin = next((packet.pts * packet.time_base for packet in self.samples if packet.pts is not None), Fraction(0))
        try:
            for packet in self.samples:
                copied = _copy(packet)
                shift(copied, -begin)
                container.mux(track.take(copied))
            container.mux(track.finish())
        finally:
            if isinstance(passage, Converted):
                self.stream.codec_context.flush_buffers()


def shift(packet: Any, by: Fraction) -> None:
    """Move a packet in time, in seconds."""
    ticks = round(by / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks


def _copy(packet: Any) -> Any:
    copied = av.Packet(bytes(packet))
    copied.pts, copied.dts, copied.duration = packet.pts, packet.dts, packet.duration
    copied.time_base, copied.is_keyframe = packet.time_base, packet.is_keyframe
    return copied
