"""The finished file: the encoded segments with their times, and everything in the source besides its video."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from errno import ENOSPC
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from zsm.errors import Error, VideoError
from zsm.runtime.video import timestamps as timing
from zsm.runtime.video.passengers import Converted, Copied, Cover, Passage, Track, name
from zsm.runtime.video.sinks import Timeline
from zsm.runtime.video.source import message, open_container

OWN_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "rotate", "duration"}
"""Tags that a muxer writes itself, or that aren't true of the output."""
VIDEO_TAGS = {"language", "title", "handler_name", "timecode"}


@dataclass(frozen=True, kw_only=True)
class Passengers:
    """The streams that are passed through."""

    source: Path
    passages: Mapping[int, Passage]
    """How, by stream index."""
    shift: Fraction = Fraction(0)
    """The source's time, in seconds, that becomes 0."""
    begins: bool = False
    """Whether packets before that are left out."""
    end: Fraction | None = None
    """The output's time, in seconds, at which it ends."""
    stretch: int = 1
    """By what factor the output lasts longer."""
    notes: list[str] = field(default_factory=list)


def assemble(segments: list[Path], target: Path, delay: int, timeline: Timeline, passengers: Passengers | None) -> None:
    """Join the segments, and add the source's other streams; raises VideoError if `target` can't be written.

    If only the other streams are at fault, the restored video is kept beside `target`, and the message says where.
    """
    try:
        _assemble(segments, target, delay, timeline, passengers)
    except Error:
        raise
    except (FFmpegError, ValueError) as error:
        reason = f"can't write {target.name}: {message(error)}"
        if passengers is not None and getattr(error, "errno", None) != ENOSPC:
            reason += _rescue(segments, target.with_name("video.mkv"), delay, timeline)
        raise VideoError(reason) from error


def _rescue(segments: list[Path], target: Path, delay: int, timeline: Timeline) -> str:
    """Try to join the segments alone; return what to add to the error."""
    try:
        _assemble(segments, target, delay, timeline, None)
    except (FFmpegError, ValueError):
        target.unlink(missing_ok=True)
        return ""
    return f"; the complete restored video, without sound and subtitles, is {target}"


def _assemble(
    segments: list[Path], target: Path, delay: int, timeline: Timeline, passengers: Passengers | None
) -> None:
    source = open_container(passengers.source, str(passengers.source)) if passengers else None
    try:
        with av.open(str(target), "w") as container:
            first = av.open(str(segments[0]))
            video = container.add_stream_from_template(first.streams.video[0], opaque=True)
            video.time_base = timeline.time_base
            if target.suffix in (".mp4", ".mov") and video.codec_context.name == "hevc":
                video.codec_context.codec_tag = "hvc1"  # which Apple's players insist on
            packets = _video_packets(segments, video, delay, timeline)
            if source is None or passengers is None:
                container.mux(packets)  # type: ignore[arg-type]
            else:
                _describe(source, container, video, passengers)
                tracks = _tracks(source, container, passengers, _empty(passengers))
                others = _other_packets(source, tracks, passengers)
                for packet in heapq.merge(packets, others, key=_seconds):
                    container.mux(packet)
            first.close()
    finally:
        if source is not None:
            source.close()


def _video_packets(segments: list[Path], output: Any, delay: int, timeline: Timeline) -> Iterator[Any]:
    position = begin = 0
    for segment in segments:
        with av.open(str(segment)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size == 0:
                    continue
                assert packet.pts is not None
                index = begin + round(packet.pts * packet.time_base * 1000)
                packet.pts = timeline.times[index]
                packet.dts = timing.decoding_time(position, delay, timeline.times)
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


def _describe(source: Any, container: Any, video: Any, passengers: Passengers) -> None:
    container.metadata.update(_tags(source.metadata))
    own = source.streams.video[0]
    video.metadata.update({key: value for key, value in own.metadata.items() if key.lower() in VIDEO_TAGS})
    video.disposition = own.disposition
    chapters = [moved for chapter in source.chapters() if (moved := _move(chapter, passengers))]
    if chapters:
        container.set_chapters(chapters)


def _move(chapter: Any, passengers: Passengers) -> Any:
    base = chapter["time_base"] or Fraction(1, 1000)
    begin, end = ((chapter[edge] * base - passengers.shift) * passengers.stretch for edge in ("start", "end"))
    begin = max(begin, Fraction(0))
    end = end if passengers.end is None else min(end, passengers.end)
    if end <= begin:
        return None
    return {**chapter, "start": round(begin / base), "end": round(end / base)}


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        # Matroska's statistics describe the source's streams.
        if key.lower() not in OWN_TAGS and not key.startswith(("_STATISTICS", "BPS", "NUMBER_OF", "DURATION"))
    }


def _tracks(source: Any, container: Any, passengers: Passengers, empty: set[int]) -> dict[int, Track]:
    tracks: dict[int, Track] = {}
    for index, passage in passengers.passages.items():
        stream = source.streams[index]
        if index in empty:
            passengers.notes.append(f"{name(stream)} is left out: there is none of it in the chosen part")
            continue
        track = passage.open(stream, container, passengers.stretch)
        if track is not None:
            track.output.metadata.update(_tags(stream.metadata))
            track.output.disposition = stream.disposition
            tracks[index] = track
    return tracks


def _empty(passengers: Passengers) -> set[int]:
    """The audio streams without a packet in the output. Some containers can't be finished with such a track."""
    kinds = (Copied, Converted)
    with open_container(passengers.source, str(passengers.source)) as source:
        streams = [source.streams[index] for index, how in passengers.passages.items() if isinstance(how, kinds)]
        missing = {stream.index for stream in streams if stream.type == "audio"}
        try:
            for packet in source.demux(streams) if missing else ():
                if packet.size and _is_within(packet, passengers):
                    missing.discard(packet.stream.index)
                if not missing:
                    break
        except FFmpegError:
            pass  # Reported when the file is read again.
    return missing


def _other_packets(source: Any, tracks: dict[int, Track], passengers: Passengers) -> Iterator[Any]:
    covers = {index: how for index, how in passengers.passages.items() if index in tracks and isinstance(how, Cover)}
    for index, cover in covers.items():
        yield from tracks[index].take(cover.packet(), Fraction(0))
    streams = [source.streams[index] for index in tracks if index not in covers]
    if not streams:
        return
    try:
        for packet in source.demux(streams):
            if packet.size and packet.stream.index in tracks and _is_within(packet, passengers):
                yield from _part(tracks, source.streams[packet.stream.index], passengers, packet)
    except FFmpegError as error:
        passengers.notes.append(f"audio and subtitles end early: {message(error)}")
    for stream in streams:
        if stream.index in tracks:
            yield from _part(tracks, stream, passengers)


def _part(tracks: dict[int, Track], stream: Any, passengers: Passengers, packet: Any = None) -> Iterator[Any]:
    """What a packet, or the end, makes ready. A track that fails ends there; the others go on."""
    track = tracks[stream.index]
    try:
        yield from track.finish() if packet is None else track.take(packet, passengers.shift)
    except (FFmpegError, ValueError) as error:
        passengers.notes.append(f"{name(stream)} ends early: {message(error)}")
        del tracks[stream.index]


def _is_within(packet: Any, passengers: Passengers) -> bool:
    if packet.pts is None:
        return True
    moved = (packet.pts * packet.time_base - passengers.shift) * passengers.stretch
    return (moved >= 0 or not passengers.begins) and (passengers.end is None or moved < passengers.end)


def _seconds(packet: Any) -> Fraction:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return Fraction(0) if stamp is None else stamp * packet.time_base
