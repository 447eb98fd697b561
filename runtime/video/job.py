"""A video in, a restored video out."""

import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av

from zsm.errors import StoppedError, VideoError
from zsm.runtime.video import cuts as scenes
from zsm.runtime.video import encoders, mux, pipeline
from zsm.runtime.video import timestamps as timing
from zsm.runtime.video.colour import Codes
from zsm.runtime.video.encoders import Encoding
from zsm.runtime.video.resume import Workspace, check_target, restart
from zsm.runtime.video.sinks import FolderSink, PipeSink, SegmentSink, Sink, Timeline, check_folder
from zsm.runtime.video.source import DEFAULT_RATE, Source, VideoSource
from zsm.runtime.video.timestamps import Excerpt, FpsMode


class Restore(Protocol):
    """What makes 2N-1 frames (scale*h,scale*w,3) of N frames (h,w,3), of the same type: `Runtime.stream`."""

    def __call__(
        self, frames: Iterable[Codes], *, cuts: Collection[int] | Callable[[Codes, Codes], bool] | None = None
    ) -> Iterable[Codes]:
        """Yield the outputs; `cuts` says where scenes begin."""
        ...


SLOWEST_RATE = Fraction(1, 1000)
"""Frames per second that a folder of images can be given; MP4 can't show a frame for ever."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a video is restored."""

    scale: int = 4
    window: int = 4
    overlap: int = 1
    """As in the Runtime whose `stream` restores: resuming depends on them."""
    network: str = ""
    """What identifies the network: an interrupted run is resumed only with the same."""
    fps_mode: FpsMode = "double"
    encoding: Encoding = field(default_factory=Encoding)
    excerpt: Excerpt = field(default_factory=Excerpt)
    cuts: str = "auto"
    """`auto`, `off`, or a file with frame numbers."""
    rate: Fraction = DEFAULT_RATE
    """Frames per second of a folder of images."""
    segment: int = 120
    """Output frames a segment; a run is resumed at a segment's beginning."""
    resume: bool = False
    overwrite: bool = False
    check_space: bool = True

    def __post_init__(self) -> None:
        timing.check_mode(self.fps_mode)
        if self.segment < 1:
            raise VideoError(f"a segment needs at least 1 frame, not {self.segment}")
        if self.rate < SLOWEST_RATE or max(self.rate.as_integer_ratio()) > encoders.LARGEST_TERM:
            raise VideoError(f"a frame rate of {self.rate} can't be written; give one like 25 or 30000/1001")

    def given_cuts(self) -> list[int] | None:
        """The frames that begin a scene, where they aren't to be found; VideoError if the file can't be read."""
        if self.cuts == "auto":
            return None
        return [] if self.cuts == "off" else scenes.read_file(Path(self.cuts))

    def job(self) -> dict[str, str]:
        """What the result depends on, in words."""
        names = ("network", "window", "overlap", "fps_mode", "encoding", "excerpt", "rate", "segment")
        described = {name: str(getattr(self, name)) for name in names}
        return described | {"cuts": str(self.given_cuts()), "version of av": av.__version__}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is."""

    frame: int
    """Output frames written, those of an interrupted run included."""
    frames: int | None
    """How many there will be, as far as the source lets one tell."""
    frames_per_second: float
    eta: float | None
    """Seconds to go."""
    bottleneck: str
    """decode, compute or encode: what the others wait for."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was done."""

    input: str
    output: str
    frames_in: int
    frames_out: int
    size_in: tuple[int, int]
    size_out: tuple[int, int]
    cuts: list[int]
    resumed_at: int
    seconds: float
    frames_per_second: float
    bottleneck: str
    busy_seconds: Mapping[str, float]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


Listener = Callable[[Progress], None]


def restore_to_file(
    source: Source,
    source_path: Path | None,
    target: Path,
    restore: Restore,
    options: Options,
    *,
    listener: Listener = lambda progress: None,
    stop: threading.Event | None = None,
) -> Summary:
    """Restore a source to a video file, or (a `target` without suffix) to a folder of PNG files.

    `source_path` is the file whose audio, subtitles and so on are passed on. The result appears under its
    name when it is complete. Once `stop` is set, ends with StoppedError after the segment at hand.
    Raises VideoError for what can't be done.
    """
    stop = stop or threading.Event()
    if source_path is not None and _same(source_path, target):
        raise VideoError(f"the output {target} is the input; give another name")
    is_video = target.suffix != "" and not target.is_dir()
    if not is_video:
        options.encoding.allow(output="PNG files")
        check_folder(target)
    check_target(target, overwrite=options.overwrite or options.resume)
    plan = None
    if is_video:
        rate = timing.output_rate(source.info.rate, options.fps_mode)
        plan = encoders.plan(options.encoding, source.info, target.suffix.lower(), rate, options.scale)
    if options.check_space:
        check_space(target, source, plan, options)
    workspace = Workspace(
        target, options.job() | _identity(source_path), resume=options.resume, overwrite=options.overwrite
    )
    notes: list[str] = list(plan.notes) if plan else []
    sink: Sink
    if plan is None:
        sink = FolderSink(workspace, stop)
        notes += ["PNG files don't say that their colours are HDR"] if source.info.colour.hdr else []
    else:
        assemble = _assembler(source, source_path, options, notes)
        sink = SegmentSink(workspace, plan, options.segment, stop, assemble)
    try:
        return _Job(source, sink, restore, options, workspace.journal.cuts, listener).run(str(target), notes)
    except VideoError as error:
        if isinstance(error, StoppedError) or not workspace.folder.exists():
            raise
        raise VideoError(f"{error}; what is done is in {workspace.folder}: continue with --resume") from error


def restore_to_pipe(
    source: Source,
    file: BinaryIO,
    restore: Restore,
    options: Options,
    *,
    raw: bool = False,
    listener: Listener = lambda progress: None,
    stop: threading.Event | None = None,
) -> Summary:
    """Restore a source to a stream of y4m, or of raw frames in the source's pixel format.

    Raises VideoError for what can't be done.
    """
    options.encoding.allow("pix_fmt", output="uncompressed frames in a pipe")
    rate = timing.output_rate(source.info.rate, options.fps_mode)
    plan = encoders.uncompressed(source.info, options.encoding.pix_fmt, rate, options.scale, raw=raw)
    sink = PipeSink(file, plan, "rawvideo" if raw else "yuv4mpegpipe", stop or threading.Event())
    return _Job(source, sink, restore, options, [], listener).run("-", list(plan.notes))


class _Job:
    """One run, or the rest of one."""

    def __init__(
        self, source: Source, sink: Sink, restore: Restore, options: Options, cuts: list[int], listener: Listener
    ) -> None:
        self._source = source
        self._sink = sink
        self._restore = restore
        self._options = options
        self._listener = listener
        self._times: list[int] = []
        self._last_duration = 0
        self._kept = 2 if options.fps_mode == "keep" else 1
        given = options.given_cuts()
        if given is not None:
            cuts[:] = given
        self._first = first = restart(sink.done * self._kept, cuts, options.window, options.overlap)
        self._cuts = cuts
        self._new_scene: Any = [cut - first for cut in cuts if cut > first]
        if given is None:
            # Those after the place of resuming are found again.
            cuts[:] = [cut for cut in cuts if cut <= first]
            self._new_scene = scenes.CutDetector(cuts, first)
        self._written = sink.done
        self._resumed_at = sink.done
        self._meter = pipeline.Meter()
        self._begin = time.perf_counter()

    def run(self, output: str, notes: list[str]) -> Summary:
        try:
            pipeline.run(self._read(), self._restored, self._write, self._meter)
            if not self._times:
                raise VideoError(f"no frame of {self._source.info.name} lies in the part that was asked for")
            expected = timing.frames_out(len(self._times), self._options.fps_mode)
            if self._written != expected:
                raise VideoError(f"{self._written} frames came out where {expected} should; nothing was written")
            self._sink.finish(self._timeline())
        except MemoryError as error:
            self._sink.abandon()
            raise VideoError("there is not enough memory for frames of this size") from error
        except BaseException:
            self._sink.abandon()
            raise
        if output == "-" and timing.is_variable(self._times):
            notes.append("the source's frame rate varies, the pipe's doesn't: frames are moved in time")
        return self._summary(output, notes)

    def _read(self) -> Iterator[Codes]:
        info, excerpt = self._source.info, self._options.excerpt
        origin = _origin(self._source)
        if excerpt.shifts and isinstance(self._source, VideoSource):
            self._source.skip_to(origin + excerpt.start)
        for picture in self._source.pictures():
            seconds = picture.time * info.time_base - origin
            if seconds < excerpt.start:
                continue
            if (excerpt.end is not None and seconds >= excerpt.end) or len(self._times) == excerpt.frames:
                return
            self._times.append(picture.time)
            self._last_duration = picture.duration
            if len(self._times) > self._first:
                yield picture.pixels()

    def _restored(self, frames: Iterator[Codes]) -> Iterator[Codes]:
        for number, pixels in enumerate(self._restore(frames, cuts=self._new_scene), start=2 * self._first):
            if number >= self._resumed_at * self._kept and number % self._kept == 0:
                yield pixels

    def _write(self, pixels: Codes) -> None:
        self._sink.write(pixels)
        self._written += 1
        self._listener(self._progress())

    def _timeline(self) -> Timeline:
        info, mode = self._source.info, self._options.fps_mode
        time_base = timing.output_time_base(info.time_base, mode)
        shift = round(_shift(self._source, self._options.excerpt) * timing.stretch(mode) / time_base)
        return Timeline(
            times=[stamp - shift for stamp in timing.output_times(self._times, mode)],
            time_base=time_base,
            last_duration=timing.last_duration(self._times, self._last_duration, mode),
        )

    def _progress(self) -> Progress:
        elapsed = time.perf_counter() - self._begin
        rate = (self._written - self._resumed_at) / elapsed if elapsed else 0.0
        total = expected_frames(self._source, self._options)
        left = max(0, total - self._written) if total else None
        return Progress(
            frame=self._written,
            frames=total,
            frames_per_second=rate,
            eta=left / rate if left is not None and rate else None,
            bottleneck=self._meter.bottleneck(),
        )

    def _summary(self, output: str, notes: list[str]) -> Summary:
        info = self._source.info
        seconds = time.perf_counter() - self._begin
        return Summary(
            input=info.name,
            output=output,
            frames_in=len(self._times),
            frames_out=self._written,
            size_in=info.size,
            size_out=(info.size[0] * self._options.scale, info.size[1] * self._options.scale),
            cuts=[cut for cut in self._cuts if cut < len(self._times)],
            resumed_at=self._resumed_at,
            seconds=round(seconds, 3),
            frames_per_second=round((self._written - self._resumed_at) / seconds, 3),
            bottleneck=self._meter.bottleneck(),
            busy_seconds={part: round(busy, 3) for part, busy in self._meter.seconds.items()},
            notes=self._source.notes() + notes,
        )


def expected_frames(source: Source, options: Options) -> int | None:
    """How many frames will be written, as far as the source lets one tell."""
    info, excerpt = source.info, options.excerpt
    limits = [] if info.frames is None else [max(0, info.frames - round(excerpt.start * info.rate))]
    if excerpt.end is not None:
        limits.append(round((excerpt.end - excerpt.start) * info.rate))
    if excerpt.frames is not None:
        limits.append(excerpt.frames)
    return timing.frames_out(min(limits), options.fps_mode) if limits else None


BITS_PER_PIXEL = {"ffv1": 4.0, "prores_ks": 1.5}
"""What lossless and intermediate codecs take at least; others: LOSSY_BITS_PER_PIXEL."""
LOSSY_BITS_PER_PIXEL = 0.01
PNG_BITS_PER_PIXEL = 4.0


def check_space(target: Path, source: Source, plan: encoders.Plan | None, options: Options) -> None:
    """VideoError if the output can hardly fit on the disk."""
    frames = expected_frames(source, options)
    if frames is None:
        return
    pixels = frames * source.info.size[0] * source.info.size[1] * options.scale**2
    # Segments and the file that is made of them are on the disk at the same time.
    bits = 2 * BITS_PER_PIXEL.get(plan.encoder, LOSSY_BITS_PER_PIXEL) if plan else PNG_BITS_PER_PIXEL
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free, needed = shutil.disk_usage(folder).free, int(pixels * bits / 8)
    if needed > free:
        raise VideoError(
            f"{target} will take about {needed >> 20} MiB and {free >> 20} MiB are free in {folder}; make room, "
            "give another place, or --no-space-check if you know better"
        )


def _assembler(
    source: Source, path: Path | None, options: Options, notes: list[str]
) -> Callable[[list[Path], Path, int, Timeline], None]:
    def assemble(segments: list[Path], target: Path, delay: int, timeline: Timeline) -> None:
        passengers = None
        if path is not None and isinstance(source, VideoSource):
            passengers = mux.Passengers(
                source=path,
                shift=_shift(source, options.excerpt),
                end=_end(timeline, options),
                begins=options.excerpt.shifts,
                stretch=timing.stretch(options.fps_mode),
                notes=notes,
            )
        mux.assemble(segments, target, delay, timeline, passengers)

    return assemble


def _end(timeline: Timeline, options: Options) -> Fraction | None:
    """When an excerpt ends, in the output's seconds."""
    if options.excerpt.end is None and options.excerpt.frames is None:
        return None
    return (timeline.times[-1] + timeline.last_duration) * timeline.time_base


def _origin(source: Source) -> Fraction:
    """The file's beginning, from which excerpts are counted, on its own clock."""
    if not isinstance(source, VideoSource):
        return Fraction(0)
    return Fraction(source.container.start_time or 0, av.time_base)


def _shift(source: Source, excerpt: Excerpt) -> Fraction:
    """The source's time that becomes 0: its own 0, unless that is arbitrary or the source is entered later."""
    if excerpt.shifts:
        return _origin(source) + excerpt.start
    arbitrary = isinstance(source, VideoSource) and source.container.format.name == "mpegts"
    return _origin(source) if arbitrary else Fraction(0)


def _identity(path: Path | None) -> dict[str, str]:
    if path is None or path.is_dir():
        return {"input": str(path)}
    stat = path.stat()
    return {"input": str(path.absolute()), "input size": str(stat.st_size), "input time": str(stat.st_mtime_ns)}


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)
