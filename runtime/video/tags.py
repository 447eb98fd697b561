"""Tags of a file and of its streams: which are passed on, and which of those a format can't hold."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import av
from av.error import FFmpegError

OWN = {
    "alpha_mode",
    "compatible_brands",
    "duration",
    "encoder",
    "major_brand",
    "minor_version",
    "rotate",
    "stereo_mode",
    "timecode",
    "vendor_id",
}
"""Tags that a muxer writes itself, that aren't true of the output, or that are treated on their own."""
STATISTICS = ("_STATISTICS", "BPS", "NUMBER_OF", "DURATION")
"""How Matroska's tags about the source's streams begin."""
APPLE = "com.apple.quicktime."
CARRIERS = {"webm": "vp8"}
"""A codec that a format holds without further description, by format; MPEG-4 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The tags of the output, and the muxer's options that they need."""

    file: Mapping[str, str] = field(default_factory=dict)
    video: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


def carried(metadata: Mapping[str, str]) -> dict[str, str]:
    """Leave out the tags that aren't passed on."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in OWN and not key.startswith(STATISTICS) and value not in ("", "und")
    }


def find(metadata: Mapping[str, str], key: str) -> str | None:
    """Find a tag by its name in small letters; formats differ in case."""
    return next((value for name, value in metadata.items() if name.lower() == key), None)


def missing(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The tags that weren't kept. Some formats change case and the form of values."""
    kept = {key.lower() for key in found}
    return [key for key in wanted if key.lower() not in kept]


def plan(file: Mapping[str, str], video: Mapping[str, str], muxer: str) -> tuple[Tags, list[str]]:
    """Choose tags and options for an output, and name the tags that will be lost."""
    wanted = Tags(file=carried(file), video=carried(video))
    lost = _lost(wanted, muxer)
    if lost and (muxer == "mov" or (muxer == "mp4" and any(key.startswith(APPLE) for key in wanted.file))):
        # Free keys, which a phone's footage has; in mp4 they take the place of the usual ones, which players know.
        free = Tags(file=wanted.file, video=wanted.video, options={"movflags": "use_metadata_tags"})
        lost_then = _lost(free, muxer)
        if len(lost_then) < len(lost):
            return free, lost_then
    return wanted, lost


def _lost(tags: Tags, muxer: str) -> list[str]:
    """Write a small file with the tags, and name those that can't be read back."""
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=muxer, options=dict(tags.options)) as container:
            video: Any = container.add_mux_stream(CARRIERS.get(muxer, "mpeg4"), rate=25, width=16, height=16)
            container.metadata.update(tags.file)
            video.metadata.update(tags.video)
            packet = av.Packet(bytes(16))
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = video, 0, 0, True
            container.mux(packet)
        file.seek(0)
        with av.open(file, "r") as written:
            lost = missing(tags.file, written.metadata)
            return lost + missing(tags.video, written.streams[0].metadata | written.metadata)
    except (FFmpegError, ValueError):
        return []  # The result is reported when the output is written.
