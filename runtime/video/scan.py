"""What one pass over a source has seen, and how to come back to any of its frames.

Seeking alone can't be trusted: many files give other pixels, or other times, after a seek than when they are decoded
from the beginning. So each frame's time stamp and checksum are kept, and a frame found by seeking must match them.
"""

import io
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from zsm.errors import VideoError
from zsm.runtime.video.source import Entry, Seen, message

STEPS_BACK = (0, 1, 3, 7)
"""How many key frames before the nearest one a search begins, one attempt after the other."""


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """The end of the part that is restored."""

    notes: list[str]
    """What the source had to report by then."""


_LINES: msgspec.json.Decoder[Seen | End] = msgspec.json.Decoder(Seen | End)


class Scan:
    """The frames seen so far, from number 0 on, in memory and in a file if there is one.

    The file has a line for each frame, appended as soon as the frame is seen. Whatever follows the last complete line
    after a crash is dropped. Raises VideoError if the file can't be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.frames: list[Seen] = []
        self.end: End | None = None
        """None until the last frame has been seen."""
        self._path = path
        self._file: Any = io.BytesIO()
        if path is not None:
            try:
                self._file = path.open("a+b", buffering=0)
                self._load()
            except OSError as error:
                raise VideoError(f"can't read {path}: {message(error)}") from error

    def add(self, frame: Seen) -> None:
        """Append the next frame."""
        self._write(frame)
        self.frames.append(frame)

    def finish(self, notes: list[str]) -> None:
        """Record that there are no more frames."""
        self.end = End(notes)
        self._write(self.end)

    def entry(self, first: int, end: int) -> Entry:
        """Describe how to get to the frames from `first` to before `end`, all of which must have been seen."""
        backwards = map(self.frames.__getitem__, range(first, -1, -1))
        stamps = (frame.stamp for frame in backwards if frame.key and frame.stamp is not None)
        keys = list(islice(stamps, STEPS_BACK[-1] + 1))
        return Entry(
            first=first,
            frames=self.frames[first:end],
            keys=[keys[back] for back in STEPS_BACK if back < len(keys)],
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _load(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        length = 0
        with suppress(msgspec.DecodeError):
            for line in content.splitlines(keepends=True):
                if not line.endswith(b"\n") or self.end is not None:
                    break
                found = _LINES.decode(line)
                if isinstance(found, End):
                    self.end = found
                else:
                    self.frames.append(found)
                length += len(line)
        self._file.truncate(length)

    def _write(self, line: Seen | End) -> None:
        if self._path is None:
            return
        try:
            self._file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise VideoError(f"can't write {self._path}: {message(error)}") from error
