"""The other streams of a pipe, kept in a file while the pictures are read: a pipe can be read only once."""

from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from zsm.errors import VideoError
from zsm.runtime.video import tags
from zsm.runtime.video.clock import Followers, time_of
from zsm.runtime.video.passengers import CopiedTrack, is_cover, name, shift
from zsm.runtime.video.source import message

LEAD = Fraction(10)
"""Seconds added to all times: Matroska has none below 0, where sound may begin."""
LAG = 500
"""Packets held back until the pictures' clock has come as far, so that a jump is known."""
VIDEO = 0
"""The index of a track without packets that stands for the pictures, and has their tags."""


class Spool:
    """A Matroska file with everything of a source but its pictures. Raises VideoError if it can't be written."""

    def __init__(self, source: Any, video: Any, offsets: Sequence[Fraction], path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._tracks: dict[int, CopiedTrack] = {}
        self._waiting: deque[Any] = deque()
        self._container: Any = av.open(str(path), "w", format="matroska")
        stand_in = self._container.add_mux_stream("mpeg4", rate=25, width=16, height=16)
        stand_in.metadata.update(tags.carried(video.metadata))
        stand_in.disposition = video.disposition
        self._container.metadata.update(tags.carried(source.metadata))
        self._container.set_chapters([_later(chapter) for chapter in source.chapters()])
        for stream in source.streams:
            if stream.index != video.index:
                self._add(stream)
        followed = [stream for stream in source.streams if stream.index in self._tracks]
        self._followers = Followers(followed, offsets)
        try:
            self._container.start_encoding()
        except (FFmpegError, ValueError) as error:
            raise VideoError(f"can't keep the sound of the input pipe: {message(error)}") from error

    def take(self, packet: Any) -> None:
        """Take a packet of any stream."""
        if packet.size and packet.stream.index in self._tracks:
            self._waiting.append(packet)
        while len(self._waiting) > LAG:
            self._write(self._waiting.popleft())

    def close(self) -> None:
        """Write the rest. Closing it again does nothing."""
        while self._waiting:
            self._write(self._waiting.popleft())
        self._container.close()

    def _add(self, stream: Any) -> None:
        try:
            if stream.type == "attachment":
                filename = stream.metadata.get("filename", "attachment")
                self._container.add_attachment(filename, stream.mimetype or "application/octet-stream", stream.data)
            elif stream.type in ("audio", "subtitle") or is_cover(stream):
                track = CopiedTrack(stream, self._container, 1)
                track.output.metadata.update(tags.carried(stream.metadata))
                track.output.disposition = stream.disposition
                self._tracks[stream.index] = track
            else:
                raise ValueError(f"{stream.type} streams of a pipe aren't copied")
        except (FFmpegError, ValueError) as error:
            self.notes.append(f"{name(stream)} is left out: {message(error)}")

    def _write(self, packet: Any) -> None:
        index = packet.stream.index
        if index not in self._tracks:  # it has failed
            return
        time = time_of(packet)
        if time is not None:
            shift(packet, self._followers.offset(packet, time) + LEAD)
        try:
            self._container.mux(self._tracks[index].take(packet))
        except (FFmpegError, ValueError) as error:
            del self._tracks[index]
            self.notes.append(f"stream {index} of the input pipe ends early: {message(error)}")


def _later(chapter: Any) -> Any:
    lead = round(LEAD / (chapter["time_base"] or Fraction(1, 1000)))
    return {**chapter, "start": chapter["start"] + lead, "end": chapter["end"] + lead}
