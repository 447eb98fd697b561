"""Where restored frames go: a video file made of segments, a folder of images, or a pipe."""

import re
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.error import FFmpegError

from zsm import files
from zsm.errors import Error, StoppedError, VideoError
from zsm.runtime.video import colour, encoders, images, pipeline
from zsm.runtime.video.colour import Codes
from zsm.runtime.video.resume import Segment, Workspace
from zsm.runtime.video.source import message

INDEX_BASE = Fraction(1, 1000)
"""Segments number their frames, in Matroska's milliseconds; the finished file gets the real times."""

IMAGE_NAME = re.compile(r"\d{6,}\.png")
"""The names that a FolderSink gives its images."""

MOST_DELAY = 64
"""In frames; more than any encoder reorders."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When the output's frames are shown."""

    times: list[int]
    time_base: Fraction
    last_duration: int


Gap = tuple[int, int | None]
"""The outputs from one number to before another, or to the end."""


class Sink(Protocol):
    """A destination of frames."""

    done: int
    """The number of frames it holds already, from the run that is being resumed."""

    def gaps(self, total: int | None) -> list[Gap]:
        """List the outputs that are missing, of `total` or of an unknown number."""
        ...

    def use(self, builds: Mapping[str, str]) -> None:
        """Tell which engines make the next outputs; raises VideoError if other builds made those from before."""
        ...

    def write(self, number: int, pixels: Codes) -> None:
        """Take an output, each in its turn; raises StoppedError if a stop was asked for and the run can be resumed."""
        ...

    def check_stop(self) -> None:
        """Raise StoppedError if a stop was asked for."""
        ...

    def finish(self, timeline: Timeline) -> None:
        """Make the complete result appear under its name."""
        ...

    def abandon(self) -> None:
        """Drop whatever is unfinished, after an error."""
        ...


class SegmentSink:
    """Encodes to files of `length` frames each, which `assemble` joins at the end.

    Every segment gets a fresh encoder, so that the frames don't depend on where a run was interrupted.
    """

    def __init__(
        self,
        workspace: Workspace,
        plan: encoders.Plan,
        length: int,
        stop: threading.Event,
        assemble: Callable[[list[Path], Path, int, Timeline], None],
    ) -> None:
        self._workspace = workspace
        self.plan = plan
        self._length = length
        self._stop = stop
        self._assemble = assemble
        self._open: SegmentWriter | None = None
        self._number = 0
        self.done = sum(segment.frames for segment in workspace.journal.segments.values())

    @property
    def finished(self) -> Collection[int]:
        """The numbers of the segments that are there."""
        return self._workspace.journal.segments.keys()

    def gaps(self, total: int | None) -> list[Gap]:
        """List the runs of outputs that lie in no finished segment."""
        found: list[Gap] = []
        begin = 0
        for number in sorted(self._workspace.journal.segments):
            if begin < number * self._length:
                found.append((begin, number * self._length))
            begin = (number + 1) * self._length
        return found if total is not None and begin >= total else [*found, (begin, total)]

    def use(self, builds: Mapping[str, str]) -> None:
        self._workspace.use(builds)

    def write(self, number: int, pixels: Codes) -> None:
        with _explained(self._workspace.folder):
            if self._open is None:
                self._number = number // self._length
                self._open = SegmentWriter(self._workspace.folder / "segment.part", self.plan)
            self._open.write(pixels)
            if self._open.frames == self._length:
                self._close_segment()
                self.check_stop()

    def check_stop(self) -> None:
        if self._stop.is_set():
            raise StoppedError(_stopped(self._workspace))

    def put(self, number: int, segment: Segment, content: bytes) -> None:
        """Take a segment that was encoded elsewhere; raises VideoError if other builds of engines made the others."""
        self.use(segment.builds)
        with _explained(self._workspace.folder):
            files.write(self._workspace.segment(number), content)
        self._enter(number, segment)

    def finish(self, timeline: Timeline) -> None:
        with _explained(self._workspace.folder):
            if self._open is not None:
                self._close_segment()
            segments = self._workspace.journal.segments
            result = self._workspace.folder / f"result{self._workspace.target.suffix.lower()}"
            paths = [self._workspace.segment(number) for number in sorted(segments)]
            self._assemble(paths, result, max(segment.delay for segment in segments.values()), timeline)
            self._workspace.publish(result)

    def abandon(self) -> None:
        """Remove the segment that is being written."""
        if self._open is not None:
            self._open.abandon()

    def _close_segment(self) -> None:
        assert self._open is not None
        segment = self._open.close(self._workspace.segment(self._number))
        self._open = None
        self._enter(self._number, segment)

    def _enter(self, number: int, segment: Segment) -> None:
        self._workspace.journal.segments[number] = segment
        self._workspace.save()


class SegmentWriter:
    """The segment that is being written, perhaps in another thread than the one that abandons it."""

    def __init__(self, path: Path, plan: encoders.Plan) -> None:
        self._path = path
        self._plan = plan
        self._container = av.open(str(path), "w", format="matroska")
        self._stream = plan.open(self._container)
        if plan.stereo is not None:
            self._stream.metadata["stereo_mode"] = plan.stereo
        self._packets = 0
        self._delay = 0
        self.frames = 0
        self._in_use = threading.Lock()
        self._abandoned = False

    def write(self, pixels: Codes) -> None:
        with self._in_use:
            self._check_abandoned()
            frame = colour.from_rgb(pixels, self._plan.colour, self._plan.pixel_format)
            frame.pts = self.frames
            frame.time_base = 1 / self._plan.rate
            self.frames += 1
            self._mux(self._stream.encode(frame))

    def close(self, path: Path) -> Segment:
        with self._in_use:
            self._check_abandoned()
            self._mux(self._stream.encode(None))
            self._container.close()
            self._check_abandoned()
            self._path.replace(path)
        if self._packets != self.frames:
            raise VideoError(f"the encoder {self._plan.encoder} made {self._packets} packets of {self.frames} frames")
        return Segment(frames=self.frames, delay=self._delay)

    def abandon(self) -> None:
        """Remove the file, and close it, unless a writer hangs in it: that may still use what would be freed."""
        self._abandoned = True
        if self._in_use.acquire(blocking=False):
            try:
                with suppress(FFmpegError):
                    self._container.close()
            finally:
                self._in_use.release()
        self._path.unlink(missing_ok=True)

    def _check_abandoned(self) -> None:
        if self._abandoned:
            raise pipeline.AbandonedError

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self._delay = max(self._delay, self._packets - packet.pts)
            # Not the encoder's own: for clips shorter than its delay, x265 gives arbitrary ones, even after pts.
            packet.dts = self._packets - MOST_DELAY
            self._packets += 1
            packet.time_base = INDEX_BASE
            self._container.mux(packet)


def check_folder(folder: Path) -> None:
    """Raise VideoError if `folder` can't be replaced, or holds anything but an earlier run's images."""
    if folder.is_symlink() or folder.is_mount():
        kind = "a symbolic link" if folder.is_symlink() else "a mount point"
        raise VideoError(
            f"{folder} is {kind}, which a folder of images can't replace; choose another name, such as "
            f"{folder / 'images'}"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise VideoError(f"{folder} is a file, but images need a folder; choose another name (.mp4, .mkv: a video)")
    others = sorted(path.name for path in folder.iterdir() if not IMAGE_NAME.fullmatch(path.name))
    if others:
        raise VideoError(
            f"{folder} won't be replaced: it holds {others[0]}, which isn't an image of an earlier run; choose another "
            f"folder for images, or a video's name such as {folder / 'out.mp4'}"
        )


class FolderSink:
    """Writes PNG files, numbered from 0."""

    def __init__(self, workspace: Workspace, stop: threading.Event) -> None:
        self._workspace = workspace
        self._stop = stop
        self._folder = workspace.images
        self._folder.mkdir(exist_ok=True)
        for partial in self._folder.glob(".*.part"):  # left behind when a run was killed
            partial.unlink()
        self.done = 0
        while self._path(self.done).exists():
            self.done += 1

    def gaps(self, total: int | None) -> list[Gap]:
        return [(self.done, total)]

    def use(self, builds: Mapping[str, str]) -> None:
        self._workspace.use(builds)

    def write(self, number: int, pixels: Codes) -> None:
        images.write(self._path(number), pixels)
        self.check_stop()

    def check_stop(self) -> None:
        if self._stop.is_set():
            raise StoppedError(_stopped(self._workspace))

    def finish(self, timeline: Timeline) -> None:
        with _explained(self._workspace.target):
            self._workspace.publish(self._folder)

    def abandon(self) -> None:
        """Do nothing: every image is complete."""

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.png"


class PipeSink:
    """Writes uncompressed video to a binary stream: y4m, or raw frames."""

    done = 0

    def __init__(self, file: Any, plan: encoders.Plan, pipe_format: str, stop: threading.Event) -> None:
        self._plan = plan
        self._stop = stop
        if pipe_format == "yuv4mpegpipe":
            file = _AspectWriter(file, plan.aspect)
        self._container = av.open(file, "w", format=pipe_format, options={"strict": "-1"})
        self._stream = plan.open(self._container)
        self._frames = 0

    def gaps(self, total: int | None) -> list[Gap]:
        return [(0, total)]

    def use(self, builds: Mapping[str, str]) -> None:
        """Do nothing: a pipe can't be resumed."""

    def write(self, number: int, pixels: Codes) -> None:
        frame = colour.from_rgb(pixels, self._plan.colour, self._plan.pixel_format)
        frame.pts = self._frames
        frame.time_base = 1 / self._plan.rate
        self._frames += 1
        self._container.mux(self._stream.encode(frame))
        self.check_stop()

    def check_stop(self) -> None:
        if self._stop.is_set():
            raise StoppedError(f"stopped after {self._frames} frames")

    def finish(self, timeline: Timeline) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Do nothing: what was written can't be taken back."""


class _AspectWriter:
    """Enters the sample aspect ratio into a y4m header: FFmpeg's writer takes it from a field that PyAV can't set."""

    def __init__(self, file: Any, aspect: Fraction) -> None:
        self._file = file
        self._aspect: bytes | None = f" A{aspect.numerator}:{aspect.denominator}".encode()

    def write(self, data: bytes) -> int:
        if self._aspect is not None:
            header, newline, rest = bytes(data).partition(b"\n")
            self._file.write(re.sub(rb" A\d+:\d+", self._aspect, header) + newline + rest)
            self._aspect = None
        else:
            self._file.write(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


class _explained:  # noqa: N801 (used like a function)
    """Turn errors of the file system and of FFmpeg's writers into messages."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, FFmpegError | OSError) and not isinstance(error, Error):
            free = shutil.disk_usage(self._place.parent).free
            raise VideoError(f"can't write {self._place} ({free >> 20} MiB are free): {message(error)}") from error


def _stopped(workspace: Workspace) -> str:
    return f"stopped; the finished part is in {workspace.folder}; {workspace.remedy}"
