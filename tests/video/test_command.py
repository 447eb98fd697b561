"""`zsm run` as it is called: pipes, many files, excerpts, previews, events."""

import fcntl
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from tests.video.conftest import REPEATER, Pixels, Repeater, enlarge

from zsm import Runtime
from zsm.cli import main
from zsm.errors import ArgumentError, StoppedError, VideoError
from zsm.runtime import video
from zsm.runtime.video import (
    Encoding,
    Excerpt,
    Options,
    find_jobs,
    images,
    open_pipe,
    open_source,
    preview,
    read_frames,
    restore,
    restore_source,
)
from zsm.runtime.video.job import check
from zsm.runtime.video.timestamps import FpsMode

Ffmpeg = Callable[..., bytes]
Probe = Callable[..., Any]


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Timed(Repeater):
    """Takes a second per output, on a clock of its own."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def stream(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        for frame in super().stream(*arguments, **options):
            self._clock.seconds += 1
            yield frame


def zsm(*arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "import sys; from zsm.cli import main; sys.exit(main())", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, env={**os.environ, "COLUMNS": "120"})


@pytest.fixture(scope="module")
def clip(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("command") / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=36x26:r=25:d=0.8", "-f", "lavfi", "-i", "sine=d=0.8",
           "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", path)  # fmt: skip
    return path


def test_zsm_between_two_ffmpegs(
    ffmpeg: Ffmpeg, probe: Probe, bicubic_bundle: Path, clip: Path, tmp_path: Path
) -> None:
    y4m = ffmpeg("-i", clip, "-f", "yuv4mpegpipe", "-")
    done = zsm("run", bicubic_bundle, "-", "-", "--no-progress", stdin=y4m)
    assert done.returncode == 0, done.stderr
    target = tmp_path / "out.mkv"
    ffmpeg("-f", "yuv4mpegpipe", "-i", "-", "-c:v", "ffv1", target, stdin=done.stdout)
    stream = probe(target, "-count_frames", "-show_streams")["streams"][0]
    assert (stream["width"], stream["height"], stream["pix_fmt"]) == (144, 104, "yuv420p")
    assert (stream["nb_read_frames"], stream["r_frame_rate"]) == ("39", "50/1")


def piped(data: bytes, raw: str | None = None) -> bytes:
    """What `zsm run B - -` writes, with a simple network."""
    source, out = open_pipe(io.BytesIO(data), raw), io.BytesIO()
    restore_source(source, out, REPEATER, Options(), raw=raw is not None)
    source.close()
    return out.getvalue()


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv422p10le", "gray"])
def test_y4m_keeps_depth_and_chroma(
    ffmpeg: Ffmpeg, probe: Probe, clip: Path, tmp_path: Path, pixel_format: str
) -> None:
    y4m = ffmpeg("-i", clip, "-pix_fmt", pixel_format, "-strict", "-1", "-f", "yuv4mpegpipe", "-")
    (tmp_path / "out.y4m").write_bytes(piped(y4m))
    stream = probe(tmp_path / "out.y4m", "-count_frames", "-show_streams")["streams"][0]
    assert (stream["nb_read_frames"], stream["width"]) == ("39", 144)
    assert stream["pix_fmt"] == (pixel_format if pixel_format != "gray" else "yuv420p")


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuv420p", "gbrp10le", "nv12", "p010le"])
def test_raw_frames_through_pipes(ffmpeg: Ffmpeg, clip: Path, pixel_format: str) -> None:
    raw = ffmpeg("-i", clip, "-pix_fmt", pixel_format, "-f", "rawvideo", "-")
    out = piped(raw, f"36x26:{pixel_format}:25")
    assert len(out) == len(raw) // 20 * 16 * 39
    again = ffmpeg("-f", "rawvideo", "-pix_fmt", pixel_format, "-s", "144x104", "-i", "-", "-vf",
                   "scale=36:26:flags=neighbor", "-pix_fmt", "gray", "-f", "rawvideo", "-", stdin=out)  # fmt: skip
    given = ffmpeg("-f", "rawvideo", "-pix_fmt", pixel_format, "-s", "36x26", "-i", "-", "-pix_fmt", "gray",
                   "-f", "rawvideo", "-", stdin=raw)  # fmt: skip
    first, then = (np.frombuffer(data[: 36 * 26], np.uint8).astype(int) for data in (given, again))
    assert np.abs(first - then).mean() < 2


@pytest.mark.parametrize("raw", ["36x26", "36x26:rgb24:0", "0x5:rgb24:25", "36x26:nosuch:25", "36x26:pal8:25",
                                 "36x26:cuda:25", "36x26:rgb4:25", "36x26:uyyvyy411:25"])  # fmt: skip
def test_invalid_raw_descriptions_are_rejected(raw: str) -> None:
    with pytest.raises(ArgumentError, match=r"invalid --raw|there is no pixel format|isn't supported"):
        open_pipe(io.BytesIO(), raw)


def test_raw_frames_have_no_stream_to_choose() -> None:
    with pytest.raises(ArgumentError, match="raw frames have no stream 7; leave out --stream"):
        open_pipe(io.BytesIO(bytes(8 * 8 * 3)), "8x8:rgb24:25", stream=7)


def test_a_pipe_into_a_file(ffmpeg: Ffmpeg, clip: Path, tmp_path: Path) -> None:
    source = open_pipe(io.BytesIO(ffmpeg("-i", clip, "-f", "yuv4mpegpipe", "-")))
    restore_source(source, tmp_path / "out.mp4", REPEATER, Options())
    assert sum(1 for _ in read_frames(tmp_path / "out.mp4")) == 39


def test_an_empty_pipe_is_rejected() -> None:
    with pytest.raises(VideoError, match="the input pipe"):
        open_pipe(io.BytesIO())


def test_many_files_and_one_of_them_bad(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.mp4", "a.mov"):
        (folder / name).write_bytes(clip.read_bytes())
    (folder / "c.avi").write_text("not a video")
    assert main(["run", str(bicubic_bundle), str(folder), str(tmp_path / "out"), "--no-progress"]) == 1
    said = capsys.readouterr().err
    assert "c.avi" in said
    assert "1 of 3 inputs failed" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mov", "b.mp4"]
    (folder / "c.avi").unlink()
    assert main(["run", str(bicubic_bundle), str(folder / "*"), str(tmp_path / "out"), "--resume"]) == 0
    assert capsys.readouterr().err.count("is already finished") == 2


def test_which_files_are_meant(tmp_path: Path) -> None:
    for name in ("one.avi", "two.mp4", "one.ts"):
        (tmp_path / name).touch()
    with pytest.raises(VideoError, match=r"would become .*one\.mkv"):
        find_jobs([str(tmp_path)], Path("out"))
    (tmp_path / "one.ts").unlink()
    jobs = [(tmp_path / "one.avi", Path("out/one.mkv")), (tmp_path / "two.mp4", Path("out/two.mp4"))]
    assert find_jobs([str(tmp_path)], Path("out")) == jobs
    assert find_jobs([str(tmp_path / "*")], Path("out")) == jobs
    assert find_jobs([str(tmp_path / "two.mp4")], Path("out.mkv")) == [(tmp_path / "two.mp4", Path("out.mkv"))]
    with pytest.raises(VideoError, match="nothing matches"):
        find_jobs([str(tmp_path / "*.webm")], Path("out"))
    with pytest.raises(ArgumentError, match="don't fit into one file"):
        find_jobs([str(tmp_path)], Path("out.mp4"))


def test_hidden_files_of_a_folder_are_left_out(tmp_path: Path) -> None:
    """As macOS and cameras leave beside the files they are about."""
    for name in ("._a.mov", ".b.mp4", "a.mov", "c.3gp"):
        (tmp_path / name).touch()
    assert [source for source, _ in find_jobs([str(tmp_path)], Path("out"))] == [tmp_path / "a.mov", tmp_path / "c.3gp"]


def test_several_images_or_folders_become_folders(bicubic_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "scene.1").mkdir(parents=True)
    for name in ("a.png", "b.png", "scene.1/0.png", "scene.1/1.png"):
        images.write(tmp_path / "in" / name, np.zeros((8, 8, 3), np.uint8))
    assert main(["run", str(bicubic_bundle), str(tmp_path / "in" / "*"), str(tmp_path / "out")]) == 0
    made = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert made == ["a/000000.png", "b/000000.png", *(f"scene_1/{number:06d}.png" for number in range(3))]


def test_cuts_are_numbered_from_the_source_s_first_frame(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "cuts.txt").write_text("3 13")
    summary = restore(clip, tmp_path / "out.mkv", REPEATER, cuts=str(tmp_path / "cuts.txt"), start=Fraction(2, 5))
    assert summary.cuts == [3]  # of the excerpt, which begins with frame 10


def test_a_preview_knows_the_cuts(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "cuts.txt").write_text("12")
    taken: list[Any] = []

    class Recording(Repeater):
        def stream(self, frames: Iterable[Pixels], *, cuts: Any = None, **options: Any) -> Iterator[Pixels]:
            taken.append(cuts)
            return super().stream(frames, cuts=cuts, **options)

    options = Options(excerpt=Excerpt(start=Fraction(2, 5)), cuts=str(tmp_path / "cuts.txt"))
    with closing(open_source(clip)) as source:
        preview(source, tmp_path / "out.mkv", Recording(), options, 1)
    assert taken == [[2]]


@pytest.mark.parametrize("rate", [29.97, 23.976, 59.94])
def test_a_rate_may_be_a_decimal_number(tmp_path: Path, rate: float) -> None:
    (tmp_path / "in").mkdir()
    images.write(tmp_path / "in" / "0.png", np.zeros((8, 8, 3), np.uint8))
    restore(tmp_path / "in", tmp_path / "out.mkv", REPEATER, rate=rate)
    with pytest.raises(ArgumentError, match="invalid frame rate nan"):
        restore(tmp_path / "in", tmp_path / "out.mkv", REPEATER, rate=float("nan"))


def test_an_encoder_without_segments_is_refused_at_once(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="v210 isn't supported: zsm writes segments in Matroska"):
        restore(clip, tmp_path / "out.mov", REPEATER, encoding=Encoding(codec="v210"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_finished_already_needs_no_more_space(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    workspace = tmp_path / ".out.zsm"
    workspace.mkdir()
    (workspace / "frames").write_bytes(bytes(3_000_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with closing(open_source(clip)) as source:
        with pytest.raises(VideoError, match="will take about"):
            check(source, target, REPEATER, Options())
        check(source, target, REPEATER, Options(resume=True))


def test_images_in_and_out(bicubic_bundle: Path, tmp_path: Path) -> None:
    """In natural order, of 16 bits, and back."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (2, 10, 1):
        cv2.imwrite(str(folder / f"f{number}.png"), np.full((6, 8, 3), number * 5000, np.uint16))
    assert main(["run", str(bicubic_bundle), str(folder), str(tmp_path / "out"), "--no-progress"]) == 0
    out = [images.read(path) for path in sorted((tmp_path / "out").iterdir())]
    assert [image.mean() for image in out] == pytest.approx([5000, 7500, 10000, 10000, 50000], abs=2)  # a cut
    assert {(image.dtype.name, image.shape) for image in out} == {("uint16", (24, 32, 3))}


def test_images_become_a_video(bicubic_bundle: Path, probe: Probe, tmp_path: Path) -> None:
    folder = tmp_path / "a [red] name {1}"  # shown on the progress line
    folder.mkdir()
    for number in range(5):
        cv2.imwrite(str(folder / f"{number}.jpg"), np.full((16, 16, 3), 40 * number, np.uint8))
    target = tmp_path / "out.mp4"
    assert main(["run", str(bicubic_bundle), str(folder), str(target), "--rate", "10"]) == 0
    stream = probe(target)["streams"][0]
    assert (stream["r_frame_rate"], stream["nb_frames"], stream["width"]) == ("20/1", "9", 64)
    assert float(stream["duration"]) == pytest.approx(0.5)


def test_the_progress_line_names_the_bottleneck(bicubic_bundle: Path, clip: Path, tmp_path: Path) -> None:
    """On a terminal, which a pseudo-terminal stands for."""
    command = [sys.executable, "-c", "import sys; from zsm.cli import main; sys.exit(main())", "run",
               str(bicubic_bundle), str(clip), str(tmp_path / "out.mp4")]  # fmt: skip
    ours, theirs = os.openpty()
    env = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=env) as process:
        os.close(theirs)
        text = b""
        with suppress(OSError):  # the other end has closed
            while piece := os.read(ours, 4096):
                text += piece
    os.close(ours)
    assert process.returncode == 0
    assert re.search(rb"39/39 frames +[\d.]+ frames/s +0:00:00 to go +\(limited by (de|en)?co(de|mpute)\)", text)


@pytest.mark.parametrize("package", ["av", "cv2", "scenedetect"])
def test_a_missing_package_is_named_before_anything_is_opened(package: str, tmp_path: Path) -> None:
    script = f"import sys; sys.modules[{package!r}] = None; from zsm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "run", "no-bundle", "no-clip.mp4", str(tmp_path / "out.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"zsm run: {package} isn't installed: pip install 'zsm[video]'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [["{clip}"], ["--preview", "1"], ["--resume"], ["--overwrite"], ["--no-space-check"]])
def test_only_one_video_goes_into_a_pipe(
    bicubic_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    arguments = [argument.format(clip=clip) for argument in more]
    assert main(["run", str(bicubic_bundle), str(clip), *arguments, "-"]) == 2
    assert "a pipe takes one restored video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ({"hardware": True}, "--hardware"),
        ({"preset": "5"}, "--preset"),
        ({"codec": "h264", "crf": 0}, "--codec, --crf"),
        ({"threads": 4}, "--encoder-threads"),
    ],
)
def test_options_without_effect_are_rejected(clip: Path, tmp_path: Path, encoding: dict[str, Any], named: str) -> None:
    source, options = open_source(clip), Options(encoding=Encoding(**encoding))
    with pytest.raises(ArgumentError, match=f"PNG files have no use for {named}: leave that out"):
        restore_source(source, tmp_path / "out", REPEATER, options)
    pipe = io.BytesIO()
    with pytest.raises(ArgumentError, match=f"uncompressed frames in a pipe have no use for {named}: leave that out"):
        restore_source(source, pipe, REPEATER, options)
    assert (list(tmp_path.iterdir()), pipe.getvalue()) == ([], b"")
    source.close()


def test_the_pixel_format_is_for_pipes_and_not_for_images(clip: Path, tmp_path: Path) -> None:
    source, pipe = open_source(clip), io.BytesIO()
    options = Options(encoding=Encoding(pix_fmt="yuv444p"))
    with pytest.raises(ArgumentError, match="--pix-fmt"):
        restore_source(source, tmp_path / "out", REPEATER, options)
    restore_source(source, pipe, REPEATER, options)
    assert b" C444 " in pipe.getvalue()[:100]
    source.close()


def test_a_file_of_cuts_that_cannot_be_read_is_a_failure(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "run",
        str(bicubic_bundle),
        str(clip),
        str(tmp_path / "out.mp4"),
        "--cuts",
        "absent.txt",
        "--no-progress",
    ]
    for more in ([], ["--preview", "1"]):
        assert main([*command, *more]) == 1
        assert capsys.readouterr().err.startswith("zsm run: can't read the cuts in absent.txt")
    assert list(tmp_path.iterdir()) == []


def test_one_call_restores_a_video(bicubic_bundle: Path, clip: Path, probe: Probe, tmp_path: Path) -> None:
    with Runtime(bicubic_bundle) as runtime:
        summary = restore(clip, tmp_path / "out.mkv", runtime, start="0:00:00.2", frames=10)
    assert (summary.frames_in, summary.frames_out, summary.size_out) == (10, 19, (144, 104))
    streams = probe(tmp_path / "out.mkv", "-count_frames", "-show_streams")["streams"]
    assert [stream["codec_type"] for stream in streams] == ["video", "audio"]
    assert (streams[0]["nb_read_frames"], streams[0]["width"]) == ("19", 144)


@pytest.mark.parametrize("other", [{"window": 3}, {"overlap": 2}, {"bundle": "compact"}])
def test_a_run_is_not_resumed_with_another_runtime(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    stop = threading.Event()
    stop.set()
    with Runtime(bicubic_bundle) as runtime, pytest.raises(StoppedError):
        restore(clip, tmp_path / "out.mp4", runtime, segment=10, stop=stop)
    with Runtime(**{"bundle": bicubic_bundle, **other}) as runtime, pytest.raises(VideoError, match="another job"):
        restore(clip, tmp_path / "out.mp4", runtime, segment=10, resume=True)


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1, "x"])
def test_invalid_starts_are_rejected(clip: Path, tmp_path: Path, time: float | str) -> None:
    with pytest.raises(ArgumentError):
        restore(clip, tmp_path / "out.mp4", REPEATER, start=time)


@pytest.mark.parametrize("fps_mode", get_args(FpsMode))
def test_a_preview_shows_the_chosen_part(clip: Path, tmp_path: Path, fps_mode: FpsMode) -> None:
    """On the left the input enlarged, on the right the restored frame."""
    part = Excerpt(start=Fraction(2, 5), end=Fraction(3, 5))  # frames 10 to 14
    with closing(open_source(clip)) as source:
        options = Options(excerpt=part, fps_mode=fps_mode)
        made = preview(source, tmp_path / "out.mkv", REPEATER, options, 1)
    [still] = [images.read(path) for path in made.stills]
    given = list(read_frames(clip, start=10, frames=4))
    # The middle output of 7 is the one after frame 1; of the 4 originals it is frame 2.
    expected = enlarge(given[2]) if fps_mode == "keep" else list(REPEATER.stream(given))[3]
    assert np.array_equal(still[:, 144:], expected)


@pytest.mark.parametrize("part", [Excerpt(start=Fraction(100)), Excerpt(start=Fraction(100), frames=3)])
def test_a_preview_of_nothing_is_an_error(clip: Path, tmp_path: Path, part: Excerpt) -> None:
    with closing(open_source(clip)) as source, pytest.raises(VideoError, match="no frame to preview"):
        preview(source, tmp_path / "out.mkv", REPEATER, Options(excerpt=part), 1)
    assert list(tmp_path.iterdir()) == []


def test_a_preview_estimates_the_run_that_was_asked_for(clip: Path, tmp_path: Path) -> None:
    """With a restorer that takes a second per output."""

    def estimate(**options: Any) -> float:
        clock = Clock()
        with closing(open_source(clip)) as source, pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.perf_counter", clock)
            seconds = preview(source, tmp_path / "out.mkv", Timed(clock), Options(**options), 2).seconds
        assert seconds is not None
        return seconds

    assert estimate() == pytest.approx(39)
    assert estimate(fps_mode="keep") == pytest.approx(20)
    assert estimate(excerpt=Excerpt(frames=10)) == pytest.approx(19)
    assert estimate(excerpt=Excerpt(start=Fraction(2, 5)), fps_mode="keep") == pytest.approx(10)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (Options(encoding=Encoding(codec="nosuch", crf=3)), ArgumentError),
        (Options(encoding=Encoding(codec="vp9", pix_fmt="nv12")), ArgumentError),
        (Options(encoding=Encoding(codec="vp9")), VideoError),
        (Options(cuts="absent.txt"), VideoError),
    ],
)
def test_a_preview_makes_the_checks_of_the_run(
    clip: Path, tmp_path: Path, options: Options, error: type[Exception]
) -> None:
    target = tmp_path / "out.mov"
    with closing(open_source(clip)) as source:
        with pytest.raises(error) as of_run:
            restore_source(source, target, REPEATER, options)
        with pytest.raises(error) as of_preview:
            preview(source, target, REPEATER, options, 1)
    assert str(of_run.value) == str(of_preview.value)
    assert list(tmp_path.iterdir()) == []


def test_a_preview_writes_stills_and_an_estimate(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.mp4"
    assert main(["run", str(bicubic_bundle), str(clip), str(target), "--preview", "3", "--json"]) == 0
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert event["event"] == "preview"
    assert event["seconds"] > 0
    assert not target.exists()
    stills = sorted((tmp_path / "out.mp4.preview").iterdir())
    assert [str(path) for path in stills] == event["stills"]
    assert {images.read(path).shape for path in stills} == {(104, 288, 3)}
    assert len(stills) == 3


def test_events_tell_a_program_what_happens(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(bicubic_bundle), str(clip), str(tmp_path / "out.mp4"), "--json"]
    assert main([*command, "--start", "0.2", "--frames", "10"]) == 0
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [event["event"] for event in events] == ["start", *["progress"] * 19, "summary"]
    assert [event["frame"] for event in events[1:-1]] == list(range(1, 20))
    assert {event["frames"] for event in events[1:-1]} == {19}
    assert {event["bottleneck"] for event in events[1:]} <= {"decode", "compute", "encode", None}
    summary = events[-1]
    assert (summary["frames_in"], summary["frames_out"], summary["size_out"]) == (10, 19, [144, 104])
    assert said.err == ""


def test_people_are_told_in_sentences(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(bicubic_bundle), str(clip), str(tmp_path / "out.mp4"), "--no-progress"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "20 frames 36x26 became 39 frames 144x104" in said.err
    assert main(command) == 1
    assert capsys.readouterr().err.startswith("zsm run: ")


@pytest.mark.parametrize(
    "arguments",
    [["--start", "x"], ["--start", "3", "--end", "2"], ["--frames", "0"], ["--crf", "-3"], ["--codec", "nosuch"],
     ["--pix-fmt", "nosuch"], ["--segment", "0"], ["--rate", "0"], ["--rate", "x"], ["--rate", "1e-9"],
     ["--rate", "1e400"], ["--window", "1"], ["--overlap", "4"], ["--preview", "-1"], ["--preview", "0"],
     ["--fps-mode", "half"], ["--raw", "8x8:rgb24:25"], ["--preview", "1", "--codec", "nosuch", "--crf", "3"],
     ["--start", "1/0"], ["--start", "1e400"], ["--end", "1e5000"], ["--start", "1e400", "--end", "3"],
     ["--ray", "127.0.0.1:1", "--precision", "bfloat16"], ["--ray", "127.0.0.1:1", "--ray-gpus", "1.5"],
     ["--ray", "127.0.0.1:1", "--ray-gpus", "nan"]],
)  # fmt: skip
def test_invalid_options_exit_with_2(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    command = ["run", str(bicubic_bundle), str(clip), str(tmp_path / "out.mp4"), "--no-progress", *arguments]
    try:
        status = main(command)
    except SystemExit as stopped:  # argparse rejects some of them
        status = stopped.code if isinstance(stopped.code, int) else -1
    assert status == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("zsm run: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [["--overwrite"], ["--resume", "--overwrite"], []])
def test_a_folder_that_holds_anything_else_is_not_replaced(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """As by `zsm run B clip.mp4 ~/Videos --overwrite`."""
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "000000.png").write_bytes(b"from an earlier run")
    (videos / "wedding.mp4").write_bytes(b"precious")
    (tmp_path / ".videos.zsm").mkdir()
    command = ["run", str(bicubic_bundle), str(clip), str(videos), "--no-progress", *more]
    assert main(command) == 1
    assert "won't be replaced: it holds wedding.mp4" in capsys.readouterr().err
    assert (videos / "wedding.mp4").read_bytes() == b"precious"
    (videos / "wedding.mp4").unlink()
    assert main([*command, "--overwrite"]) == 0
    assert len(list(videos.iterdir())) == 39


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["{clip}", "{file}", "--overwrite"], "is a file, but images need a folder"),
     (["{clip}", ".", "--overwrite"], "invalid output '.'"),
     (["{clip}", "", "--preview", "1"], "invalid output ''"),
     (["{clip}", "..", "--overwrite"], "invalid output '..'"),
     (["{clip}", "{file}/out.mp4", "--preview", "1"], "Not a directory"),
     (["{clip}", "{long}.mp4"], "File name too long"),
     (["{clip}", "{long}.mp4", "--resume"], "File name too long"),
     (["{long}", "{file}.mp4"], "File name too long"),
     (["{clip}", "{file}.mp4", "--start", "1e9"], "lies in the chosen part")],
)  # fmt: skip
def test_names_and_numbers_that_the_system_rejects(
    bicubic_bundle: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"something")
    names = {"clip": clip, "file": file, "long": tmp_path / ("long" * 64)}
    status = 2 if message.startswith("invalid") else 1
    assert main(["run", str(bicubic_bundle), *(a.format(**names) for a in arguments), "--no-progress"]) == status
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("zsm run: ")
    assert message in said[-1]
    assert len(said) == 1 or status == 2  # after the usage
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"something"]


@pytest.mark.parametrize(
    ("arguments", "redirection", "message"),
    [("clip.mp4 -", "> /dev/full", "No space left on device"), ("clip.mp4 out.mp4 --json", "> /dev/full", "No space"),
     ("clip.mp4 -", ">&-", "none is connected"), ("- out.mp4", "<&-", "none is connected")],
)  # fmt: skip
def test_pipes_that_are_full_or_closed(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, arguments: str, redirection: str, message: str
) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    code = "import sys; from zsm.cli import main; sys.exit(main())"
    command = f"{sys.executable} -c '{code}' run {bicubic_bundle} {arguments} --no-progress {redirection}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("zsm run: ")
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.fixture
def ctrl_c_while_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes while the first input is opened."""
    opened: list[Any] = []

    def opening(*arguments: Any, **options: Any) -> Any:
        if not opened:
            signal.raise_signal(signal.SIGINT)
        opened.append(open_source(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(video, "open_source", opening)


@pytest.mark.usefixtures("ctrl_c_while_opening")
def test_ctrl_c_ends_a_batch(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first clip is finished: it is shorter than a segment. No other is begun."""
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    command = ["run", str(bicubic_bundle), str(tmp_path / "*.mp4"), str(tmp_path / "out"), "--no-progress"]
    assert main(command) == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]
    assert "b.mp4: stopped before it began; to skip what is finished, continue with --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "b.mp4", "c.mp4"]


@pytest.mark.usefixtures("ctrl_c_while_opening")
def test_ctrl_c_ends_a_preview(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(bicubic_bundle), str(clip), str(tmp_path / "out.mp4"), "--preview", "3"]) == 130
    assert "the preview was stopped" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_while_a_pipe_hangs(
    ffmpeg: Ffmpeg, bicubic_bundle: Path, clip: Path, tmp_path: Path, begun: bool
) -> None:
    """The second one stops at once: while the pipe is opened, after its header, and while frames are awaited."""
    y4m = ffmpeg("-i", clip, "-f", "yuv4mpegpipe", "-")
    header, frames = y4m[: y4m.index(b"FRAME")], y4m[y4m.index(b"FRAME") :]
    script = "import sys; from zsm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "run", str(bicubic_bundle), "-", str(tmp_path / "out.mkv"), "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        events = (json.loads(line)["event"] for line in process.stdout)
        process.stdin.write(header + 4 * frames if begun else header)
        process.stdin.flush()
        if begun:
            assert "progress" in events
        while fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)) != bytes(4):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert "note" in events
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=60) == 130
            assert process.stderr.read() == b"zsm run: interrupted\n"
        finally:
            process.kill()
    assert not (tmp_path / "out.mkv").exists()


def test_an_output_that_does_not_block_gets_all_of_the_video(bicubic_bundle: Path, clip: Path) -> None:
    """As some programs leave the pipe that they share."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    code = "import sys; from zsm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", str(bicubic_bundle), str(clip), "-", "--no-progress"]
    with subprocess.Popen(command, stdout=theirs) as process, os.fdopen(ours, "rb") as pipe:
        while select.select([], [theirs], [], 0)[1]:
            assert process.poll() is None
            time.sleep(0.01)
        os.close(theirs)
        found = pipe.read()
    assert process.returncode == 0
    assert found == zsm("run", bicubic_bundle, clip, "-", "--no-progress").stdout


IMPATIENT = """
import sys
from zsm.cli import main
from zsm.runtime.video import pipeline
pipeline.PATIENCE = 0.2
sys.exit(main())
"""


@pytest.mark.parametrize(("arguments", "bytes_written"), [(["-"], 1), (["out.mkv", "--json"], 3500)])
def test_ctrl_c_while_nobody_reads_the_output(
    bicubic_bundle: Path, clip: Path, tmp_path: Path, arguments: list[str], bytes_written: int
) -> None:
    """The second one waits for what is being written, the third doesn't."""
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-c", IMPATIENT, "run", str(bicubic_bundle), str(clip), *arguments, "--no-progress"]
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, env=env) as process:
        os.close(theirs)
        assert process.stderr is not None
        try:
            while int.from_bytes(fcntl.ioctl(ours, termios.FIONREAD, bytes(4)), sys.byteorder) < bytes_written:
                assert process.poll() is None
                time.sleep(0.01)
            for _ in range(3):
                time.sleep(0.7)
                assert process.poll() is None
                process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
            assert process.stderr.read().splitlines()[-1] == b"zsm run: interrupted"
        finally:
            process.kill()
            os.close(ours)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_may_be_closed_while_it_hangs(ffmpeg: Ffmpeg, clip: Path) -> None:
    """Its reader is left alone, and what it uses isn't freed."""
    hangs, data = threading.Event(), threading.Event()

    class Hanging(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 20_000:
                hangs.set()
                data.wait()
            return super().read(1000)

    source = open_pipe(Hanging(ffmpeg("-i", clip, "-f", "yuv4mpegpipe", "-")))
    frames: list[Any] = []
    reader = threading.Thread(target=lambda: frames.extend(source.frames()))
    reader.start()
    hangs.wait()
    source.close()
    data.set()
    reader.join()
    assert len(frames) == 20
