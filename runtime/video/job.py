"""A video in, a restored video out."""

import threading
import time
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zsm.errors import ArgumentError, Error, StoppedError, VideoError
from zsm.runtime.video import encoders, pipeline, trial
from zsm.runtime.video import timestamps as timing
from zsm.runtime.video.assembly import Assembly
from zsm.runtime.video.colour import Codes
from zsm.runtime.video.encoders import Encoding
from zsm.runtime.video.excerpt import Excerpt, parse_time
from zsm.runtime.video.location import Location
from zsm.runtime.video.opening import open_source
from zsm.runtime.video.options import Options, Restorer, Settings
from zsm.runtime.video.pieces import Crew, outputs, pieces
from zsm.runtime.video.reader import Reader
from zsm.runtime.video.resume import Segment, Workspace, check_target, has_result, identify_source, is_known
from zsm.runtime.video.scan import Scan
from zsm.runtime.video.sinks import FolderSink, PipeSink, SegmentSink, Sink, Timeline, check_folder
from zsm.runtime.video.source import DEFAULT_RATE, Source
from zsm.runtime.video.space import check_space, fitted, memory
from zsm.runtime.video.summary import Listener, Progress, Summary
from zsm.runtime.video.timestamps import FpsMode
from zsm.runtime.video.videofile import VideoSource
from zsm.runtime.windows import needed, restart

Time = Fraction | float | str
"""Seconds, or a text like `0:01:30.5`."""


def restore(
    source: str | Location,
    target: str | Path,
    restorer: Restorer,
    *,
    fps_mode: FpsMode = "double",
    encoding: Encoding | None = None,
    start: Time = 0,
    end: Time | None = None,
    frames: int | None = None,
    cuts: str = "auto",
    rate: Fraction | float | None = None,
    stream: int | None = None,
    segment: int = 120,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Restore a video or a folder of images with a `zsm.Runtime`, to a video or a folder of PNG files.

    `source`: a path, an http or https URL, or a function without arguments that opens the video as a binary file
    for reading and seeking; it is called several times. A target without a suffix is a folder. Audio, subtitles,
    chapters and metadata are passed through. `fps_mode`: `double` the frame rate, play in `slow` motion, or `keep`
    only the original frames. `start`, `end`: the part to restore, in seconds or as H:MM:SS; `frames`: the most
    input frames to take. `cuts`: where scenes begin, detected (`auto`), nowhere (`off`), or at the frame numbers in
    a file. `rate`: frames per second of a folder of images (default: 25). `stream`: the index of the video stream
    to restore, instead of the one that players choose. `segment`: output frames between places where a run can be
    resumed. `resume`: continue an interrupted run, which has to have the same options and the same network.
    `listener` is called after each output frame, in another thread. Once `stop` is set, the run ends with
    StoppedError after the current segment.

    The target appears under its name only when it is complete. Raises ArgumentError for invalid options, VideoError for
    a source that can't be read or a target that can't be written, and the errors of `zsm.Runtime.stream`.
    """
    options = Options(
        fps_mode=fps_mode,
        encoding=encoding or Encoding(),
        excerpt=Excerpt(start=_seconds(start), end=None if end is None else _seconds(end), frames=frames),
        cuts=cuts,
        rate=None if rate is None else _rate(rate),
        segment=segment,
        resume=resume,
        overwrite=overwrite,
    )
    with closing(open_source(source, rate=options.rate or DEFAULT_RATE, stream=stream)) as opened:
        return restore_source(opened, Path(target), restorer, options, listener=listener, stop=stop)


def restore_source(
    source: Source,
    target: Path | BinaryIO,
    restorer: Restorer,
    options: Options,
    *,
    raw: bool = False,
    listener: Listener | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Restore an open source, for example a pipe, to a path or to a binary stream.

    A stream gets y4m, or with `raw` the frames alone in the source's pixel format. Otherwise as `restore`.
    """
    if isinstance(target, Path):
        options = fitted(source.info, target, options, restorer)
    job = _Here(source, restorer, options, listener)
    stop = stop or threading.Event()
    return _to_path(job, target, stop) if isinstance(target, Path) else _to_stream(job, target, stop, raw=raw)


def restore_elsewhere(
    source: Source,
    target: Path,
    settings: Settings,
    options: Options,
    crew: Crew,
    *,
    listener: Listener | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Restore an open source to a video file whose segments are made by a crew. Otherwise as `restore`.

    `options` are taken as they are, even if the encoder needs more memory than is free (`space.fitted`).
    An interrupted run can be resumed with another crew, or without one. Once `stop` is set, the run ends with
    StoppedError as soon as the crew returns.
    """
    if source.info.location is None:
        raise ArgumentError("a pipe can be read here only; give the name of a file that all workers can read")
    if target.suffix == "" or target.is_dir():
        raise ArgumentError(f"workers make segments of a video, but {target} is a folder; choose a video's name")
    return _to_path(_Elsewhere(source, settings, options, listener, crew), target, stop or threading.Event())


def check(source: Source, target: Path, settings: Settings, options: Options) -> encoders.Plan | None:
    """Check that a run can begin, and choose its encoder; None for a folder of images. Writes nothing.

    Raises ArgumentError or VideoError if it can't.
    """
    path = source.info.location
    if isinstance(path, Path) and path.exists() and target.exists() and path.samefile(target):
        raise VideoError(f"the output {target} is the input; choose another name")
    if path is None and options.resume:
        raise ArgumentError("a pipe can't be resumed, because its frames can't be compared; leave out --resume")
    options.check_rate(source.info)
    is_video = _is_video(target)
    if not is_video:
        options.encoding.allow(output="PNG files")
        check_folder(target)
    check_target(target, overwrite=options.overwrite, resume=options.resume)
    options.given_cuts()
    plan = None
    if is_video:
        rate = timing.output_rate(source.info.rate, options.fps_mode)
        plan = encoders.plan(options.encoding, source.info, target.suffix.lower(), rate, settings.scale)
    frames = options.frames_expected(source.info)
    if options.check_space and frames is not None:
        width, height = source.info.size
        check_space(target, frames * width * height * settings.scale**2, plan, begun=options.resume)
    return plan


def is_finished(source: Source, target: Path, settings: Settings, options: Options) -> bool:
    """Whether `target` is the unchanged result of this very run.

    Never true for a source that another one could be taken for: a pipe, a function, or a URL whose server gives neither
    ETag nor Last-Modified.
    """
    if not is_known(source.info.location):
        return False
    options = fitted(source.info, target, options, settings, quiet=True)
    return has_result(target, _described(source, target, settings, options))


def _described(source: Source, target: Path, settings: Settings, options: Options) -> dict[str, str]:
    """Everything that the result depends on."""
    info = source.info
    tile = _tile(source, target, settings, options)
    return (
        options.job(settings)
        | identify_source(info)
        | {"rate": str(info.rate), "stream": str(info.stream), "tile": tile or "off"}
        | ({"segment": str(options.segment)} if _is_video(target) else {})  # images are resumed anywhere
    )


def _is_video(target: Path) -> bool:
    """Whether a target is a video, and not a folder of images."""
    return target.suffix != "" and not target.is_dir()


def _tile(source: Source, target: Path | None, settings: Settings, options: Options) -> str | None:
    """The tiles for a source's frames, which get the memory that writing them leaves."""
    info = source.info
    besides = memory(info, target, options, settings.scale)
    return settings.tile(*info.size, np.dtype(info.colour.dtype).itemsize, besides=besides)


def _to_path(job: "_Job", target: Path, stop: threading.Event) -> Summary:
    source, options = job.source, job.options
    plan = check(source, target, job.settings, options)
    notes: list[str] = []
    workspace = Workspace(
        target,
        _described(source, target, job.settings, options),
        resume=options.resume,
        overwrite=options.overwrite,
        pipe=source.info.location is None,
        threads=1 if plan is None else plan.threads,
        lean=options.encoding.lean,
    )
    try:
        with workspace:
            sink: Sink
            if plan is None:
                sink = FolderSink(workspace, stop)
                notes += ["PNG files can't say that their colours are HDR"] if source.info.colour.hdr else []
                notes += _pictures_only(source)
            else:
                suffix = target.suffix.lower()
                plan = trial.adapt(replace(plan, threads=workspace.journal.threads), suffix)
                notes += plan.notes
                assembly = Assembly(source, options, plan, suffix, workspace.folder, notes)
                sink = SegmentSink(workspace, plan, options.segment, stop, assembly)
            return job.run(sink, workspace.scan, str(target), notes)
    except Error as error:
        if isinstance(error, StoppedError) or not workspace.folder.exists():
            raise
        message = f"{error}; the finished part is in {workspace.folder}; {workspace.remedy}"
        raise type(error)(message) from error


def _to_stream(job: "_Job", file: BinaryIO, stop: threading.Event, *, raw: bool) -> Summary:
    info, encoding = job.source.info, job.options.encoding
    job.options.check_rate(info)
    encoding.allow("pix_fmt", output="uncompressed frames in a pipe")
    rate = timing.output_rate(info.rate, job.options.fps_mode)
    plan = encoders.uncompressed(info, encoding.pix_fmt, rate, job.settings.scale, raw=raw)
    _tile(job.source, None, job.settings, job.options)
    sink = PipeSink(file, plan, "rawvideo" if raw else "yuv4mpegpipe", stop)
    notes = [*plan.notes, *_pictures_only(job.source)]
    summary = job.run(sink, Scan(), "-", notes)
    if timing.is_variable(job.times):
        summary.notes.append("the source's frame rate varies, but the pipe's can't: frames are moved in time")
    return summary


def _pictures_only(source: Source) -> list[str]:
    """Say what an output without sound and tracks leaves out."""
    others = source.others() if isinstance(source, VideoSource) else []
    return [f"left out, as the output holds pictures only: {', '.join(others)}"] if others else []


class _Job:
    """One run, or the rest of one."""

    def __init__(self, source: Source, settings: Settings, options: Options, listener: Listener | None) -> None:
        self.source = source
        self.settings = settings
        self.options = options
        self.times: list[int] = []
        self._listener = listener or (lambda progress: None)
        self._meter = pipeline.Meter()

    def run(self, sink: Sink, scan: Scan, output: str, notes: list[str]) -> Summary:
        """Restore to a sink what it lacks; `scan` holds what an interrupted run has seen, and gets what is seen now."""
        self._resumed_at = self._written = sink.done
        self._begin = time.perf_counter()
        try:
            self._reader = Reader(self.source, self.options.excerpt, scan, self.options.given_cuts())
            self._restore(sink)
            self._check_count()
            sink.finish(self._timeline())
        except BaseException as error:
            sink.abandon()
            if isinstance(error, MemoryError) and not isinstance(error, Error):
                raise VideoError("not enough memory for frames of this size; try smaller ones") from error
            raise
        return self._summary(output, notes)

    def _restore(self, sink: Sink) -> None:
        """Restore what the sink lacks."""
        raise NotImplementedError

    def _total(self) -> int | None:
        """The number of outputs, once it is certain."""
        frames = self._reader.total
        return None if frames is None else timing.frames_out(frames, self.options.fps_mode)

    def _count(self, frames: int) -> None:
        self._written += frames
        self._listener(self._progress())

    def _check_count(self) -> None:
        self.times = self._reader.times
        if not self.times:
            raise VideoError(f"no frame of {self.source.info.name} lies in the chosen part")
        expected = timing.frames_out(len(self.times), self.options.fps_mode)
        if self._written != expected:
            raise VideoError(f"{self._written} frames were restored instead of {expected}; the output was discarded")

    def _timeline(self) -> Timeline:
        mode = self.options.fps_mode
        time_base = timing.output_time_base(self.source.info.time_base, mode)
        shift = round(self.options.excerpt.zero(self.source) * timing.stretch(mode) / time_base)
        return Timeline(
            times=[stamp - shift for stamp in timing.output_times(self.times, mode)],
            time_base=time_base,
            last_duration=timing.last_duration(self.times, self._reader.last_duration, mode),
        )

    def _progress(self) -> Progress:
        elapsed = time.perf_counter() - self._begin
        rate = (self._written - self._resumed_at) / elapsed if elapsed else 0.0
        total = self.options.frames_expected(self.source.info)
        left = max(0, total - self._written) if total else None
        return Progress(
            frame=self._written,
            frames=total,
            frames_per_second=rate,
            eta=left / rate if left is not None and rate else None,
            bottleneck=self._meter.bottleneck(),
        )

    def _summary(self, output: str, notes: list[str]) -> Summary:
        info, scale = self.source.info, self.settings.scale
        seconds = time.perf_counter() - self._begin
        return Summary(
            input=info.name,
            output=output,
            frames_in=len(self.times),
            frames_out=self._written,
            size_in=info.size,
            size_out=(info.size[0] * scale, info.size[1] * scale),
            cuts=self._reader.cuts,
            resumed_at=self._resumed_at,
            seconds=round(seconds, 3),
            frames_per_second=round((self._written - self._resumed_at) / seconds, 3),
            bottleneck=self._meter.bottleneck(),
            busy_seconds={part: round(busy, 3) for part, busy in self._meter.seconds.items()},
            notes=self._reader.notes + notes,
        )


class _Here(_Job):
    """A run whose frames are restored in this process, one after the other."""

    def __init__(self, source: Source, restorer: Restorer, options: Options, listener: Listener | None) -> None:
        super().__init__(source, restorer, options, listener)
        self._restorer = restorer

    def _restore(self, sink: Sink) -> None:
        for begin, end in sink.gaps(self._total()):
            self._fill(sink, begin, end)

    def _fill(self, sink: Sink, begin: int, end: int | None) -> None:
        """Restore the outputs from number `begin` to before `end`, or all the rest."""
        reader, restorer, every = self._reader, self._restorer, self.options.every
        if begin:
            for _ in reader.see(begin * every // 2 + 1):
                sink.check_stop()
        first = restart(begin * every, reader.cuts, restorer.window, restorer.overlap)
        numbers = count(begin)

        def write(pixels: Codes) -> None:
            number = next(numbers)
            if number == begin:
                sink.use(restorer.builds)
            sink.write(number, pixels)
            self._count(1)

        pipeline.run(
            reader.frames(first, None if end is None else needed(end * every, restorer.window)),
            partial(
                outputs,
                restorer,
                cuts=reader.scenes(first),
                first=begin * every - 2 * first,
                every=every,
                most=None if end is None else end - begin,
            ),
            write,
            self._meter,
        )


class _Elsewhere(_Job):
    """A run whose segments are restored by a crew."""

    def __init__(
        self, source: Source, settings: Settings, options: Options, listener: Listener | None, crew: Crew
    ) -> None:
        super().__init__(source, settings, options, listener)
        self._crew = crew

    def _restore(self, sink: Sink) -> None:
        assert isinstance(sink, SegmentSink)

        def deliver(number: int, segment: Segment, content: bytes) -> None:
            sink.put(number, segment, content)
            self._count(segment.frames)

        begin = time.perf_counter()
        found = pieces(self._reader, self.options, self.settings, sink.finished)
        self._crew(sink.plan, self._meter.time("decode", found), deliver)
        self._meter.seconds["compute"] = time.perf_counter() - begin - self._meter.seconds["decode"]
        if self._total() != self._written:
            sink.check_stop()


def _rate(rate: Fraction | float) -> Fraction:
    try:
        return rate if isinstance(rate, Fraction) else Fraction(str(rate))  # 29.97, not the nearest binary number
    except (ValueError, OverflowError) as error:
        raise ArgumentError(f"invalid frame rate {rate!r}; give one like 25 or Fraction(30000, 1001)") from error


def _seconds(time: Time) -> Fraction:
    if isinstance(time, str):
        return parse_time(time)
    try:
        return Fraction(time)
    except (ValueError, OverflowError) as error:  # nan and inf
        raise ArgumentError(f"invalid time {time}; give seconds or H:MM:SS") from error
