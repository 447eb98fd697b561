"""Runs that are stopped, killed or run out of disk, and their continuation."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import ROOT
from tests.video.conftest import REPEATER, Pixels, Repeater, three_scenes

from zsm.cli import main
from zsm.errors import Error, FrameError, OutOfMemoryError, StoppedError, VideoError
from zsm.runtime.video import Encoding, Options, images, open_source, read_frames, restore, restore_source
from zsm.runtime.video.timestamps import FpsMode

Ffmpeg = Callable[..., bytes]
FAST = Encoding(preset="ultrafast")


@pytest.fixture(scope="module")
def clip(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 20 frames, with sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return three_scenes(ffmpeg, path, "32x24", 20)


@dataclass
class Failing(Repeater):
    """Fails after some outputs."""

    error: Exception
    after: int = field(kw_only=True)

    def outputs(self, *arguments: Any) -> Iterator[Pixels]:
        for number, frame in enumerate(super().outputs(*arguments)):
            if number == self.after:
                raise self.error
            yield frame


@dataclass(kw_only=True)
class Counting(Repeater):
    """Records what is asked of it, and how many outputs it yields."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    yielded: int = 0

    def stream(self, frames: Any, *, cuts: Any = None, first: int = 0, every: int = 1) -> Iterator[Pixels]:
        self.asked.append((first, every))
        for frame in super().stream(frames, cuts=cuts, first=first, every=every):
            self.yielded += 1
            yield frame


def frame_hashes(ffmpeg: Ffmpeg, path: Path) -> list[bytes]:
    """Time and digest of each decoded picture."""
    lines = ffmpeg("-i", path, "-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-").splitlines()
    return [line for line in lines if not line.startswith(b"#")]


def zsm(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "import sys; from zsm.cli import main; sys.exit(main())", *map(str, arguments)]


def test_killed_at_any_moment_and_resumed(ffmpeg: Ffmpeg, tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    """With a recurrent network, whose frames depend on the whole window, and SIGKILL."""
    whole, resumed = tmp_path / "whole.mp4", tmp_path / "resumed.mp4"
    options = ["--segment", "10", "--preset", "ultrafast", "--json", "--overlap", "2", "--threads", "1"]
    subprocess.run(zsm("run", tiny_bundle, clip, whole, *options), check=True, capture_output=True)
    resumed_at = []
    for after in (3, 31, 52, 10**6):
        command = zsm("run", tiny_bundle, clip, resumed, *options, "--resume")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "progress" and event["frame"] >= after:
                    process.kill()
                    break
                if event["event"] == "summary":
                    resumed_at.append(event["resumed_at"])
        assert resumed.exists() == bool(resumed_at)
    assert resumed_at[0] >= 50
    assert frame_hashes(ffmpeg, resumed) == frame_hashes(ffmpeg, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.mp4", "whole.mp4"]


@pytest.mark.slow
def test_images_are_resumed_too(tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = ["--frames", "30", "--json"]
    subprocess.run(zsm("run", tiny_bundle, clip, whole, *options), check=True, capture_output=True)
    command = zsm("run", tiny_bundle, clip, resumed, *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("frame") == 25:
                process.kill()
                break
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    names = sorted(path.name for path in whole.iterdir())
    assert len(names) == 59
    assert names == sorted(path.name for path in resumed.iterdir())
    for name in names:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


def test_ctrl_c_finishes_the_segment_and_says_how_to_go_on(
    ffmpeg: Ffmpeg, bicubic_bundle: Path, clip: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.mp4"
    command = zsm("run", bicubic_bundle, clip, target, "--segment", "20", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event.get("frame") == 5:
                process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert event["event"] == "error"
    assert "--resume" in event["message"]
    assert not target.exists()
    journal = json.loads((tmp_path / ".out.mp4.zsm" / "journal.json").read_text())
    assert [segment["frames"] for segment in journal["segments"].values()] == [20]
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert len(frame_hashes(ffmpeg, target)) == 2 * 60 - 1


def test_stopping_between_any_two_segments_changes_nothing(ffmpeg: Ffmpeg, clip: Path, tmp_path: Path) -> None:
    def run(target: Path, stop: threading.Event, *, resume: bool) -> None:
        restore(clip, target, REPEATER, encoding=FAST, segment=13, resume=resume, stop=stop)

    whole, pieces = tmp_path / "whole.mkv", tmp_path / "pieces.mkv"
    run(whole, threading.Event(), resume=False)
    stop = threading.Event()
    stop.set()
    rounds = 0
    while not pieces.exists():
        rounds += 1
        with suppress(StoppedError):
            run(pieces, stop, resume=True)
    assert rounds == 119 // 13 + 1
    assert frame_hashes(ffmpeg, pieces) == frame_hashes(ffmpeg, whole)


class Tiled(Repeater):
    def tile(self, width: int, height: int, itemsize: int, *, besides: int = 0) -> str | None:
        return "64x64"


def test_an_interrupted_run_is_not_thrown_away_unasked(clip: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    target = tmp_path / "out.mp4"

    def run(restorer: Repeater = REPEATER, **options: Any) -> None:
        restore(clip, target, restorer, encoding=FAST, segment=10, stop=stop, **options)

    with pytest.raises(StoppedError):
        run()
    with pytest.raises(VideoError, match="continue it with --resume"):
        run()
    with pytest.raises(VideoError, match="was another job, with different network, window;"):
        run(Repeater(identity="another", window=5), resume=True)
    with pytest.raises(VideoError, match=r"different tile \(it had --tile off\);"):
        run(Tiled(), resume=True)
    stop.clear()
    run(overwrite=True)
    with pytest.raises(VideoError, match="exists; replace it with --overwrite"):
        run()


def test_a_killed_run_that_replaces_an_output_is_not_finished(bicubic_bundle: Path, clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_text("an old result")
    command = zsm("run", bicubic_bundle, clip, target, "--segment", "10", "--json", "--overwrite")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("frame") == 25:
                process.kill()
                break
    assert target.read_text() == "an old result"
    assert main(["run", str(bicubic_bundle), str(clip), str(target), "--segment", "10", "--resume"]) == 0
    assert sum(1 for _ in read_frames(target)) == 119


def test_the_first_error_of_any_part_stops_everything(clip: Path, tmp_path: Path) -> None:
    def failing_listener(progress: Any) -> None:
        raise OSError(errno.EIO, "the terminal broke")

    broken = Failing(ZeroDivisionError("the network broke"), after=15)
    for restorer, listener, kind in ((broken, None, ZeroDivisionError), (REPEATER, failing_listener, OSError)):
        with pytest.raises(kind, match="broke"):
            restore(clip, tmp_path / "out.mp4", restorer, encoding=FAST, listener=listener)
        assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("zsm-")]


@pytest.mark.parametrize("error", [OutOfMemoryError("the GPU is full"), FrameError("an odd frame")])
def test_the_restorer_s_own_errors_keep_their_type_and_say_how_to_go_on(
    clip: Path, tmp_path: Path, error: Error
) -> None:
    with pytest.raises(type(error), match=f"^{error}$"):
        restore(clip, tmp_path / "out.mp4", Failing(error, after=5), encoding=FAST, segment=10)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(type(error), match=f"{error}; the finished part is in .* --resume"):
        restore(clip, tmp_path / "out.mp4", Failing(error, after=35), encoding=FAST, segment=10)
    restore(clip, tmp_path / "out.mp4", REPEATER, encoding=FAST, segment=10, resume=True)
    assert sum(1 for _ in read_frames(tmp_path / "out.mp4")) == 119


def test_the_system_s_lack_of_memory_is_explained(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="not enough memory for frames of this size"):
        restore(clip, tmp_path / "out.mp4", Failing(MemoryError(), after=5), encoding=FAST)


@pytest.mark.parametrize(("fps_mode", "every"), [("double", 1), ("slow", 1), ("keep", 2)])
def test_only_the_outputs_that_are_written_are_reconstructed(
    clip: Path, tmp_path: Path, fps_mode: FpsMode, every: int
) -> None:
    """Before and after an interruption; the restorer yields nothing to be thrown away."""
    stop = threading.Event()
    stop.set()
    restorer = Counting()
    while not (tmp_path / "out.mkv").exists():
        with suppress(StoppedError):
            restore(clip, tmp_path / "out.mkv", restorer, encoding=FAST, segment=40, fps_mode=fps_mode, resume=True,
                    stop=stop)  # fmt: skip
    assert {asked for _, asked in restorer.asked} == {every}
    assert len(restorer.asked) == 119 // every // 40 + 1
    written = sum(1 for _ in read_frames(tmp_path / "out.mkv"))
    assert written == 119 // every + every - 1
    # Queues may hold a few outputs when a run is stopped.
    assert restorer.yielded <= written + 6 * len(restorer.asked)


def test_a_leftover_of_a_killed_write_is_not_published(clip: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        restore(clip, tmp_path / "out", REPEATER, frames=5, stop=stop)
    (tmp_path / ".out.zsm" / "frames" / ".000001.abc.part").write_bytes(b"half an image")
    restore(clip, tmp_path / "out", REPEATER, frames=5, resume=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{number:06d}.png" for number in range(9)]


def test_a_full_disk_leaves_nothing_half_written(bicubic_bundle: Path, clip: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    target = tmp_path / "out.mkv"
    command = zsm("run", bicubic_bundle, clip, target, "--codec", "ffv1", "--segment", "500", "--no-progress")
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "can't write" in done.stderr
    assert "MiB are free" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_found_first(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = os.statvfs(tmp_path)
    free = usage.f_bavail * usage.f_frsize
    frames = np.ceil(free / (32 * 24 * 16) * 8)
    source = open_source(clip)
    monkeypatch.setattr(source, "info", replace(source.info, frames=int(frames)))
    with pytest.raises(VideoError, match=r"will take about .* MiB are free"):
        restore_source(source, tmp_path / "out.mkv", REPEATER, Options(encoding=Encoding(codec="ffv1")))
    source.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.mkv", "out"])
def test_reading_up_to_where_a_run_goes_on_is_stopped(clip: Path, tmp_path: Path, name: str) -> None:
    """As after a crash in which the end of the scan was lost."""
    stop, folder = threading.Event(), tmp_path / f".{name}.zsm"

    def listen(progress: Any) -> None:
        if progress.frame == 15:
            stop.set()

    def finished_part(*, resume: bool) -> list[str]:
        with pytest.raises(StoppedError, match="continue with --resume"):
            restore(clip, tmp_path / name, REPEATER, segment=10, resume=resume, stop=stop, listener=listen)
        return sorted(path.name for path in folder.rglob("*[0-9].*"))

    made = finished_part(resume=False)
    assert made
    (folder / "scan.jsonl").unlink()
    assert finished_part(resume=True) == made


CTRL_C_TWICE = """
import signal, sys, threading, time
import numpy as np
from tests.video.conftest import Repeater
from zsm.runtime.video import Encoding, pipeline, restore

pipeline.PATIENCE = float(sys.argv[3])
came, out = threading.Event(), threading.Event()

def interrupt(number, frame):
    came.set()
    raise KeyboardInterrupt

def at_work():
    return [thread.name for thread in threading.enumerate() if thread.name == "zsm-writing"]

class Slow(np.ndarray):
    # Converting it takes until Ctrl-C has been pressed twice and, if nobody waits for it, the run has ended.
    @property
    def dtype(self):
        if threading.current_thread().name == "zsm-writing":
            for _ in range(2):
                came.clear()
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                came.wait()
                time.sleep(0.2)
            out.wait(0 if pipeline.PATIENCE else None)
        return super().dtype

class Slowly(Repeater):
    def outputs(self, frames, cuts):
        for number, frame in enumerate(super().outputs(frames, cuts)):
            yield frame.view(Slow) if number == 1 else frame

signal.signal(signal.SIGINT, interrupt)
try:
    restore(sys.argv[1], sys.argv[2], Slowly(), encoding=Encoding(codec="ffv1", threads=1))
except KeyboardInterrupt:
    print(*at_work())
out.set()
while at_work():
    time.sleep(0.01)
"""


@pytest.mark.parametrize(("patience", "left"), [("30", ""), ("0", "zsm-writing")])
def test_ctrl_c_twice_while_a_frame_is_written(tmp_path: Path, patience: str, left: str) -> None:
    """The writer is waited for; one that takes too long is left alone, and what it uses isn't freed."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        images.write(tmp_path / "in" / f"{number}.png", np.zeros((8, 8, 3), np.uint8))
    command = [sys.executable, "-c", CTRL_C_TWICE, str(tmp_path / "in"), str(tmp_path / "out.mkv"), patience]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{left}\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
