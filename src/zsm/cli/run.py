"""Restore videos: 4x the resolution, 2x the frame rate.

INPUT is a video, its http(s) URL, a folder of images or `-` for a pipe; several names, a folder of videos or a quoted
glob restore several. OUTPUT is a video (.mp4, .mkv, .mov, .webm), a folder (of PNG images, or of videos for several
inputs), or `-`. Audio, subtitles, chapters and metadata are passed through.
"""

import argparse
import io
import json
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from zsm.cli import INTERRUPTED
from zsm.cli.options import (
    add_bundle,
    add_frame_limit,
    add_json,
    add_runtime_options,
    positive,
    refuse,
    runtime_options,
)
from zsm.errors import ArgumentError, Error, StoppedError, VideoError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from zsm import cluster, engine
    from zsm.runtime import video

SUMMARY = "restore a video or a folder of images"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_bundle(parser)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="video, URL, folder, glob, or - for a pipe")
    parser.add_argument("output", metavar="OUTPUT", help="video, folder, or - for a pipe")
    parser.add_argument(
        "--stream",
        type=int,
        metavar="N",
        help="the video stream's index, as ffprobe shows it (default: as players choose)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run; skip finished outputs")
    parser.add_argument("--no-space-check", action="store_true", help="start even if the disk seems too small")
    add_json(parser)
    parser.add_argument("--no-progress", action="store_true", help="don't show a progress line")
    _configure_time(parser.add_argument_group("time"))
    _configure_encoding(parser.add_argument_group("encoding"))
    add_runtime_options(parser)
    _configure_cluster(parser.add_argument_group("on many machines"))


def _configure_cluster(group: Any) -> None:
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="let a Ray cluster make the segments: HOST:PORT, auto for the one at $RAY_ADDRESS, else the one that "
        "this machine belongs to, local for one of its own",
    )
    group.add_argument(
        "--ray-cpus", type=positive, default=1, metavar="N", help="CPUs that a segment takes (default: %(default)s)"
    )
    group.add_argument(
        "--ray-gpus",
        type=float,
        default=0.0,
        metavar="F",
        help="GPUs that a segment takes; 0.5 lets two share one (default: %(default)g, on the CPU)",
    )


def _configure_time(group: Any) -> None:
    group.add_argument(
        "--fps-mode",
        choices=("double", "slow", "keep"),
        default="double",
        help="double: twice the frame rate; slow: half the speed; keep: original frames only (default: %(default)s)",
    )
    group.add_argument("--start", metavar="TIME", help="where to begin, in seconds or H:MM:SS")
    group.add_argument("--end", metavar="TIME", help="where to end")
    add_frame_limit(group)
    group.add_argument(
        "--rate",
        type=_rate,
        metavar="FPS",
        help="frame rate of a folder of images (default: 25)",
    )
    group.add_argument(
        "--cuts",
        default="auto",
        metavar="auto|off|FILE",
        help="where scenes begin: detected, nowhere, or at the source's frame numbers in a file (default: %(default)s)",
    )
    group.add_argument("--preview", type=positive, metavar="N", help="only write N stills, and estimate the time")


def _rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"invalid frame rate {text!r}; give one like 25 or 30000/1001") from None


def _configure_encoding(group: Any) -> None:
    group.add_argument("--codec", help="h264, hevc, av1, vp9, prores, ffv1, or an FFmpeg encoder's name")
    group.add_argument("--crf", type=float, help="constant quality on the encoder's scale: lower is better")
    group.add_argument("--preset", help="the encoder's speed preset")
    group.add_argument("--pix-fmt", metavar="NAME", help="pixel format (default: as deep as the source)")
    group.add_argument("--hardware", action="store_true", help="use a hardware encoder")
    group.add_argument(
        "--lean",
        action="store_true",
        help="encode with less memory, and larger files (chosen automatically where memory is short)",
    )
    group.add_argument(
        "--encoder-threads",
        type=positive,
        metavar="N",
        help="threads of a software encoder, on which frames may depend (default: one per processor, at most 16)",
    )
    group.add_argument(
        "--segment",
        type=positive,
        default=120,
        metavar="N",
        help="output frames between places where a run can be resumed (default: %(default)s)",
    )
    group.add_argument("--raw", metavar="WxH:PIXFMT:FPS", help="read raw frames from the input pipe, and write such")


def execute(args: argparse.Namespace) -> int:
    """Restore everything; returns 130 after Ctrl-C."""
    if args.ray is None:
        refuse(args, "only with --ray", "ray_cpus", "ray_gpus")
    else:
        refuse(args, "not with --ray", "device", "precision", "threads", "preview")
    return _restore_all(args)


def _restore_all(args: argparse.Namespace) -> int:
    options = _options(args)
    jobs = _jobs(args)
    report = _Report(args)
    failed = 0
    with _ray_on_stderr(args), _stopping(report) as stop, _open_runtime(args) as runtime:
        for source, target in jobs:
            if stop.is_set():
                reason = "stopped before it began; to skip what is finished, continue with --resume"
                report.failed(source, StoppedError(reason))
                return INTERRUPTED
            try:
                with _explained(f"{source} to {target}"):
                    _restore(args, options, source, target, runtime, report, stop)
            except StoppedError as error:
                report.failed(source, error)
                return INTERRUPTED
            except Error as error:
                if len(jobs) == 1:
                    report.event("error", message=str(error))
                    raise
                report.failed(source, error)
                failed += 1
    if failed:
        raise VideoError(f"{failed} of {len(jobs)} inputs failed")
    return 0


def _ray_on_stderr(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """Keep what Ray prints, such as that a node is lost, away from the report on stdout."""
    return nullcontext() if args.ray is None else redirect_stdout(sys.stderr)


def _open_runtime(args: argparse.Namespace) -> "engine.Runtime | cluster.Cluster":
    if args.ray is None:
        from zsm import engine

        return engine.Runtime(args.bundle, **runtime_options(args))
    from zsm import cluster

    names = ("backend", "window", "overlap", "tile", "memory")
    options = {name: value for name, value in runtime_options(args).items() if name in names}
    return cluster.Cluster(args.bundle, address=args.ray, cpus=args.ray_cpus, gpus=args.ray_gpus, **options)


def _jobs(args: argparse.Namespace) -> list[tuple[Any, Any]]:
    """Pair inputs with outputs; either may be `-`."""
    from zsm.runtime import video
    from zsm.runtime.video.location import locate

    if args.raw and args.inputs != ["-"]:
        raise ArgumentError("--raw describes frames that come through a pipe: give - as INPUT")
    if (args.inputs == ["-"] and sys.stdin is None) or (args.output == "-" and sys.stdout is None):
        raise VideoError("- stands for a pipe, but none is connected")
    if args.output == "-":
        unused = (args.preview is not None, args.resume, args.overwrite, args.no_space_check, args.ray is not None)
        if len(args.inputs) > 1 or any(unused):
            raise ArgumentError(
                "a pipe takes one restored video: give one INPUT, and no --preview, --resume, --overwrite, "
                "--no-space-check or --ray"
            )
        if sys.stdout.isatty():
            raise VideoError("video can't be written to a terminal; pipe it into a program")
        (source,) = args.inputs
        return [(source if source == "-" else locate(source), "-")]
    jobs = [("-", args.output)] if args.inputs == ["-"] else list(video.find_jobs(args.inputs, Path(args.output)))
    if any(Path(target).name in ("", "..") for _, target in jobs):
        raise ArgumentError(f"invalid output {args.output!r}; give the name of a file or of a new folder")
    return jobs


def _options(args: argparse.Namespace) -> "video.Options":
    from zsm.runtime import video

    return video.Options(
        fps_mode=args.fps_mode,
        encoding=video.Encoding(
            codec=args.codec,
            crf=args.crf,
            preset=args.preset,
            pix_fmt=args.pix_fmt,
            hardware=args.hardware,
            lean=args.lean,
            threads=args.encoder_threads,
        ),
        excerpt=video.Excerpt(
            start=video.parse_time(args.start) if args.start else Fraction(0),
            end=video.parse_time(args.end) if args.end else None,
            frames=args.frames,
        ),
        cuts=args.cuts,
        rate=args.rate,
        segment=args.segment,
        resume=args.resume,
        overwrite=args.overwrite,
        check_space=not args.no_space_check,
    )


def _restore(
    args: argparse.Namespace,
    options: "video.Options",
    path: Any,
    target: Any,
    runtime: Any,
    report: "_Report",
    stop: threading.Event,
) -> None:
    from zsm.runtime import video

    rate = {} if args.rate is None else {"rate": args.rate}
    if path == "-":
        # Without Python's buffer: at exit Python waits for its lock, which a reader that hangs would hold.
        pipe = io.FileIO(sys.stdin.fileno(), closefd=False)
        source: video.Source = video.open_pipe(pipe, args.raw, stream=args.stream)
    else:
        source = video.open_source(path, stream=args.stream, **rate)
    with closing(source):
        if args.resume and target != "-" and video.is_finished(source, Path(target), runtime, options):
            report.say(f"{target} is already finished")
            return
        if args.preview is not None:
            report.previewed(video.preview(source, Path(target), runtime, options, args.preview, stop=stop))
            return
        progress: dict[str, Any] = {"listener": report.progress, "stop": stop}
        with report.showing(source, options):
            if args.ray is not None:
                summary = runtime.restore_source(source, Path(target), options, **progress)
            else:
                output: Any = _Unbuffered(sys.stdout.fileno()) if target == "-" else Path(target)
                summary = video.restore_source(source, output, runtime, options, raw=bool(args.raw), **progress)
        report.done(summary)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn errors of the system and of FFmpeg into messages."""
    from av import FFmpegError

    from zsm.runtime.video.source import message

    try:
        yield
    except (Error, BrokenPipeError):
        raise
    except (FFmpegError, OSError, OverflowError) as error:
        name = getattr(error, "filename", None)
        raise VideoError(f"{what}: {message(error)}{f' ({name})' if name else ''}") from error


class _Unbuffered(io.FileIO):
    """A standard stream to write to without Python's buffer, whose lock a thread that hangs would hold.

    A signal's handler couldn't print any more, and at exit Python waits for the lock, and aborts.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write all of it."""
        rest = memoryview(data)
        while rest := rest[super().write(rest) or 0 :]:
            select.select([], [self], [])  # which a stream that doesn't block leaves to us
        return len(memoryview(data))


def _unbuffered(stream: TextIO) -> TextIO:
    """The same stream without Python's buffer, if it is one of the system's."""
    try:
        number = stream.fileno()
    except io.UnsupportedOperation:
        return stream
    return io.TextIOWrapper(_Unbuffered(number), write_through=True)


class _Report:
    """Output for the user: a progress line and sentences, or JSON lines."""

    def __init__(self, args: argparse.Namespace) -> None:
        from rich.console import Console

        self._json = args.json
        self._stream = _unbuffered(sys.stderr if args.output == "-" else sys.stdout) if args.json else None
        self._quiet = args.no_progress or args.json
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Any = None
        self._task: Any = None

    def event(self, kind: str, **values: Any) -> None:
        """Print an event, with `--json`."""
        if self._stream is not None:
            # In one call: what a signal's handler or another thread prints would come before print's line end.
            self._stream.write(json.dumps({"event": kind, **values}) + "\n")
            self._stream.flush()

    def say(self, sentence: str) -> None:
        """Print a sentence for people."""
        if self._json:
            self.event("note", message=sentence)
        else:
            self._console.print(sentence, markup=False)

    @contextmanager
    def showing(self, source: "video.Source", options: "video.Options") -> Iterator[None]:
        """Show a progress line while one input is processed."""
        from rich.progress import BarColumn, Progress, TextColumn

        width, height = source.info.size
        total = options.frames_expected(source.info)
        self.event("start", input=source.info.name, size=[width, height], frames=total)
        if self._quiet:
            yield
            return
        text = TextColumn("{task.completed}/{task.fields[total_text]} frames  {task.fields[speed]}")
        name = TextColumn("{task.description}", markup=False)
        with Progress(name, BarColumn(), text, console=self._console) as self._bar:
            self._task = self._bar.add_task(Path(source.info.name).name, total=total, total_text=total or "?", speed="")
            yield

    def progress(self, progress: "video.Progress") -> None:
        """Report a frame written."""
        self.event("progress", **asdict(progress))
        if self._bar is not None:
            eta = "" if progress.eta is None else f"  {_clock(progress.eta)} to go"
            speed = f"{progress.frames_per_second:.2f} frames/s{eta}  (limited by {progress.bottleneck})"
            self._bar.update(self._task, completed=progress.frame, speed=speed)

    def done(self, summary: "video.Summary") -> None:
        """Report the result."""
        if self._json:
            self.event("summary", **summary.to_dict())
            return
        for note in summary.notes:
            self.say(f"note: {note}")
        size_in, size_out = ("x".join(map(str, size)) for size in (summary.size_in, summary.size_out))
        self.say(
            f"{summary.output}: {summary.frames_in} frames {size_in} became {summary.frames_out} frames {size_out} "
            f"in {_clock(summary.seconds)} ({summary.frames_per_second:.2f} frames/s, limited by {summary.bottleneck}, "
            f"{len(summary.cuts)} cuts)"
        )

    def previewed(self, preview: "video.Preview") -> None:
        """Report where the stills are, and how long the run would take."""
        if self._json:
            self.event("preview", **preview.to_dict())
            return
        self.say(f"stills: {', '.join(map(str, preview.stills))}")
        if preview.seconds is not None:
            self.say(f"the run would take about {_clock(preview.seconds)}, besides encoding")

    def failed(self, source: Any, error: Exception) -> None:
        """Report what went wrong with one of several inputs."""
        if self._json:
            self.event("error", input=str(source), message=str(error))
        else:
            self._console.print(f"{source}: {error}", markup=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextmanager
def _stopping(report: _Report) -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, the second interrupts at once."""
    stop = threading.Event()

    def interrupt(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        report.say("finishing what is begun; press Ctrl-C again to stop at once and lose it")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
