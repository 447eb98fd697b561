"""The finished file: the encoded segments with their times, and everything in the source besides its video."""

import heapq
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from zsm.errors import Error, VideoError
from zsm.runtime.video import timestamps as timing
from zsm.runtime.video.audio import ConvertedTrack
from zsm.runtime.video.sinks import Timeline
from zsm.runtime.video.source import message, open_container

OWN_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "rotate", "duration"}
"""Tags that a muxer writes itself, or that aren't true of the output."""
VIDEO_TAGS = {"language", "title", "handler_name", "timecode"}


@dataclass(frozen=True, kw_only=True)
class Passengers:
    """The streams that are passed through."""

    source: Path
    shift: Fraction = Fraction(0)
    """The source's time, in seconds, that becomes 0."""
    begins: bool = False
    """Whether packets before that are left out."""
    end: Fraction | None = None
    """The output's time, in seconds, at which it ends."""
    stretch: int = 1
    """By what factor the output lasts longer."""
    notes: list[str] = field(default_factory=list)


class CopiedTrack:
    """A stream whose packets are copied, with new times."""

    def __init__(self, stream: Any, container: av.container.OutputContainer, stretch: int) -> None:
        self.output = container.add_stream_from_template(stream, opaque=True)
        self._stretch = stretch

    def take(self, packet: Any, shift: Fraction) -> Iterator[Any]:
        """Yield the packet, `shift` seconds earlier."""
        ticks = round(shift / packet.time_base)
        packet.pts = None if packet.pts is None else (packet.pts - ticks) * self._stretch
        packet.dts = None if packet.dts is None else (packet.dts - ticks) * self._stretch
        packet.duration *= self._stretch
        packet.stream = self.output
        yield packet

    def finish(self) -> Iterator[Any]:
        """Yield nothing: no packet is held back."""
        yield from ()


def assemble(segments: list[Path], target: Path, delay: int, timeline: Timeline, passengers: Passengers | None) -> None:
    """Join the segments, and add the source's other streams; raises VideoError if `target` can't be written."""
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
                tracks = _tracks(source, container, passengers)
                others = _other_packets(source, tracks, passengers)
                for packet in heapq.merge(packets, others, key=_seconds):
                    container.mux(packet)
            first.close()
    except Error:
        raise
    except (FFmpegError, ValueError) as error:
        raise VideoError(f"can't write {target.name}: {message(error)}") from error
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


def _tracks(source: Any, container: Any, passengers: Passengers) -> dict[int, Any]:
    tracks: dict[int, Any] = {}
    for stream in source.streams:
        try:
            track = _track(stream, container, passengers)
        except (ValueError, FFmpegError) as error:
            passengers.notes.append(f"{_name(stream)} is left out: {message(error)}")
            continue
        if track is not None:
            track.output.metadata.update(_tags(stream.metadata))
            track.output.disposition = stream.disposition
            tracks[stream.index] = track
    return tracks


def _track(stream: Any, container: Any, passengers: Passengers) -> Any:
    if stream.type == "attachment":
        if container.format.name != "matroska":
            raise ValueError(f"{container.format.name} can't hold attachments")
        name = stream.metadata.get("filename", "attachment")
        container.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)
        return None
    if stream.type == "audio":
        if passengers.stretch == 1 and _accepts(container, stream):
            return CopiedTrack(stream, container, 1)
        track = ConvertedTrack(stream, container, passengers.stretch)
        why = "played at half speed, pitch kept" if passengers.stretch > 1 else f"{container.format.name} can't hold it"
        passengers.notes.append(f"{_name(stream)} is converted to {track.codec}: {why}")
        return track
    if stream.type == "subtitle":
        if not _accepts(container, stream):
            raise ValueError(f"{container.format.name} can't hold it")
        return CopiedTrack(stream, container, passengers.stretch)
    if stream.type == "data":
        raise ValueError("data streams aren't copied")
    return None


def _accepts(container: Any, stream: Any) -> bool:
    """Whether a container can hold such a stream. Some refuse only when their header is written."""
    try:
        with av.open(io.BytesIO(), "w", format=container.format.name) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


def _name(stream: Any) -> str:
    codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
    return f"{stream.type} stream {stream.index} ({codec})"


def _other_packets(source: Any, tracks: dict[int, Any], passengers: Passengers) -> Iterator[Any]:
    streams = [source.streams[index] for index in tracks]
    if not streams:
        return
    try:
        for packet in source.demux(streams):
            if packet.size == 0:
                continue
            time = None if packet.pts is None else packet.pts * packet.time_base
            if time is not None and not _is_within(time, passengers):
                continue
            yield from tracks[packet.stream.index].take(packet, passengers.shift)
    except FFmpegError as error:
        passengers.notes.append(f"audio and subtitles end early: {message(error)}")
    for track in tracks.values():
        yield from track.finish()


def _is_within(time: Fraction, passengers: Passengers) -> bool:
    moved = (time - passengers.shift) * passengers.stretch
    return (moved >= 0 or not passengers.begins) and (passengers.end is None or moved < passengers.end)


def _seconds(packet: Any) -> Fraction:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return Fraction(0) if stamp is None else stamp * packet.time_base
