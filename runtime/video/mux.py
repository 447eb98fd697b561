"""The finished file: the encoded segments with their times, and everything in the source besides its pictures."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from errno import ENOSPC
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from zsm.errors import Error, VideoError
from zsm.runtime.video import matroska, tags
from zsm.runtime.video import timestamps as timing
from zsm.runtime.video.clock import Followers, time_of
from zsm.runtime.video.location import name_of
from zsm.runtime.video.passengers import Converted, Copied, Cover, Passengers, Track, name, shift
from zsm.runtime.video.sinks import Timeline
from zsm.runtime.video.source import message, open_container, raise_if_lost


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the output's video stream says besides its frames."""

    timeline: Timeline
    delay: int
    """The most frames by which a packet is out of order."""
    aspect: Fraction
    """The sample aspect ratio."""
    timecode: str | None = None
    """The first frame's SMPTE time code."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How the source's times become the output's. All times are in seconds."""

    zero: Fraction = Fraction(0)
    """The source's time that becomes 0."""
    offsets: Sequence[Fraction] = (Fraction(0),)
    """What to add to the source's times before: one number, and one more for each jump of its clock."""
    begins: bool = False
    """Whether packets before 0 are left out."""
    end: Fraction | None = None
    """The output's time at which it ends."""
    stretch: int = 1
    """By what factor the output lasts longer."""

    def holds(self, time: Fraction) -> bool:
        """Whether a packet at this time, counted from `zero`, belongs to the output."""
        moved = time * self.stretch
        return (moved >= 0 or not self.begins) and (self.end is None or moved < self.end)


@dataclass(frozen=True, kw_only=True)
class Others:
    """What joins the pictures: the passengers, and how their times change."""

    passengers: Passengers
    course: Course
    notes: list[str] = field(default_factory=list)


def assemble(segments: list[Path], target: Path, picture: Picture, others: Others | None) -> None:
    """Join the segments, and add the source's other streams; raises VideoError if `target` can't be written.

    If only the other streams are at fault, the restored video is kept beside `target`, and the message says where.
    """
    try:
        _assemble(segments, target, picture, others)
    except Error:
        raise
    except (FFmpegError, ValueError) as error:
        reason = f"can't write {target.name}: {message(error)}"
        if others is not None and getattr(error, "errno", None) != ENOSPC:
            reason += _rescue(segments, target.with_name("video.mkv"), picture)
        raise VideoError(reason) from error


def _rescue(segments: list[Path], target: Path, picture: Picture) -> str:
    """Try to join the segments alone; return what to add to the error."""
    try:
        _assemble(segments, target, picture, None)
    except (FFmpegError, ValueError):
        target.unlink(missing_ok=True)
        return ""
    return f"; the complete restored video, without sound and subtitles, is {target}"


def _assemble(segments: list[Path], target: Path, picture: Picture, others: Others | None) -> None:
    opened = open_container(others.passengers.source, name_of(others.passengers.source)) if others else None
    source = opened.container if opened else None
    options = dict(others.passengers.tags.options) if others else {}
    in_header = picture.aspect != 1 and target.suffix in (".mkv", ".webm")
    try:
        with av.open(str(target), "w", options=options) as container:
            first = av.open(str(segments[0]))
            video = container.add_stream_from_template(first.streams.video[0], opaque=True)
            video.time_base = picture.timeline.time_base
            video.codec_context.sample_aspect_ratio = picture.aspect
            if target.suffix in (".mp4", ".mov") and video.codec_context.name == "hevc":
                video.codec_context.codec_tag = "hvc1"  # which Apple's players insist on
            if picture.timecode is not None:
                video.metadata["timecode"] = picture.timecode
            packets = _video_packets(segments, video, picture)
            if source is None or others is None:
                _reserve(video, in_header)
                container.mux(packets)  # type: ignore[arg-type]
            else:
                _describe(source, container, video, others)
                _reserve(video, in_header)
                for packet in heapq.merge(packets, _other_packets(source, container, others), key=_seconds):
                    container.mux(packet)
            first.close()
    finally:
        if opened is not None:
            opened.close()
    if in_header:
        matroska.write_aspect(target, picture.aspect)


def _reserve(video: Any, in_header: bool) -> None:
    if in_header:
        video.metadata["title"] = matroska.reserve(video.metadata.get("title", ""))


def _video_packets(segments: list[Path], output: Any, picture: Picture) -> Iterator[Any]:
    timeline = picture.timeline
    position = begin = 0
    for segment in segments:
        with av.open(str(segment)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size == 0:
                    continue
                assert packet.pts is not None
                index = begin + round(packet.pts * packet.time_base * 1000)
                packet.pts = timeline.times[index]
                packet.dts = timing.decoding_time(position, picture.delay, timeline.times)
                packet.duration = _duration(max(index, position), timeline)
                packet.time_base = timeline.time_base
                packet.stream = output
                position += 1
                yield packet
        begin = position


def _duration(index: int, timeline: Timeline) -> int:
    """A frame's duration. MP4 takes the track's end from the packet that is decoded last."""
    following = index + 1
    if following == len(timeline.times):
        return timeline.last_duration
    return timeline.times[following] - timeline.times[index]


def _describe(source: Any, container: Any, video: Any, others: Others) -> None:
    container.metadata.update(others.passengers.tags.file)
    video.metadata.update(others.passengers.tags.video)
    video.disposition = others.passengers.disposition
    chapters = [moved for chapter in source.chapters() if (moved := _move(chapter, others.course))]
    if chapters:
        container.set_chapters(chapters)


def _move(chapter: Any, course: Course) -> Any:
    base = chapter["time_base"] or Fraction(1, 1000)
    begin, end = ((chapter[edge] * base - course.zero) * course.stretch for edge in ("start", "end"))
    begin = max(begin, Fraction(0))
    end = end if course.end is None else min(end, course.end)
    if end <= begin:
        return None
    return {**chapter, "start": round(begin / base), "end": round(end / base)}


def _other_packets(source: Any, container: Any, others: Others) -> Iterator[Any]:
    """Add the other streams to the output, and yield their packets. The streams are added before the first packet."""
    passages = others.passengers.passages
    tracks: dict[int, Track] = {}
    absent = _absent(others)
    for index, passage in passages.items():
        stream = source.streams[index]
        if index in absent:
            others.notes.append(f"{name(stream)} is left out: there is none of it in the chosen part")
            continue
        track = passage.open(stream, container, others.course.stretch)
        if track is not None:
            track.output.metadata.update(tags.carried(stream.metadata))
            track.output.disposition = stream.disposition
            tracks[index] = track
    return _read(source, tracks, others)


def _absent(others: Others) -> set[int]:
    """The audio streams without a packet in the output. Some containers can't be finished with such a track."""
    passengers = others.passengers
    kinds = (Copied, Converted)
    with open_container(passengers.source, name_of(passengers.source)) as source:
        streams = [source.streams[index] for index, how in passengers.passages.items() if isinstance(how, kinds)]
        absent = {stream.index for stream in streams if stream.type == "audio"}
        try:
            for packet in _moved(source, streams, others.course) if absent else ():
                absent.discard(packet.stream.index)
                if not absent:
                    break
        except (FFmpegError, OSError) as error:
            raise_if_lost(passengers.source, error)  # anything else is reported when the file is read again
    return absent


def _read(source: Any, tracks: dict[int, Track], others: Others) -> Iterator[Any]:
    passages = others.passengers.passages
    covers = {index: how for index, how in passages.items() if index in tracks and isinstance(how, Cover)}
    for index, cover in covers.items():
        yield from tracks[index].take(cover.packet())
    streams = [source.streams[index] for index in tracks if index not in covers]
    if not streams:
        return
    try:
        for packet in _moved(source, streams, others.course):
            if packet.stream.index in tracks:
                yield from _part(tracks, source.streams[packet.stream.index], others, packet)
    except (FFmpegError, OSError) as error:
        raise_if_lost(others.passengers.source, error)
        others.notes.append(f"audio and subtitles end early: {message(error)}")
    for stream in streams:
        if stream.index in tracks:
            yield from _part(tracks, stream, others)


def _moved(source: Any, streams: list[Any], course: Course) -> Iterator[Any]:
    """Yield the packets that belong to the output, their times counted from its 0, but not stretched yet."""
    followers = Followers(streams, course.offsets)
    for packet in source.demux(streams):
        if not packet.size:
            continue
        time = time_of(packet)
        if time is not None:
            by = followers.offset(packet, time) - course.zero
            if not course.holds(time + by):
                continue
            shift(packet, by)
        yield packet


def _part(tracks: dict[int, Track], stream: Any, others: Others, packet: Any = None) -> Iterator[Any]:
    """What a packet, or the end, makes ready. A track that fails ends there; the others go on."""
    track = tracks[stream.index]
    try:
        yield from track.finish() if packet is None else track.take(packet)
    except (FFmpegError, ValueError) as error:
        others.notes.append(f"{name(stream)} ends early: {message(error)}")
        del tracks[stream.index]


def _seconds(packet: Any) -> Fraction:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return Fraction(0) if stamp is None else stamp * packet.time_base
