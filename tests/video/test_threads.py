"""The number of an encoder's threads, on which frames may depend, doesn't depend on the machine."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.video.conftest import REPEATER

from zsm.errors import ArgumentError, StoppedError, VideoError
from zsm.runtime.video import Encoding, restore

Ffmpeg = Callable[..., bytes]


@pytest.fixture(scope="module")
def clip(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.8,noise=alls=20", "-c:v", "ffv1", path)
    return path


@contextmanager
def processors(count: int) -> Iterator[None]:
    """Let this process use so many."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def frames(ffmpeg: Ffmpeg, path: Path) -> bytes:
    return ffmpeg("-i", path, "-map", "0:v", "-f", "framemd5", "-")


def run(source: Path, target: Path, threads: int | None = None, **options: Any) -> Path:
    codec = {".mkv": "h264", ".mp4": "hevc", ".webm": "av1"}[target.suffix]
    preset = "10" if codec == "av1" else "veryfast"
    restore(
        source, target, REPEATER, encoding=Encoding(codec=codec, preset=preset, threads=threads), segment=20, **options
    )
    return target


@pytest.mark.parametrize("suffix", ["mkv", "mp4", pytest.param("webm", marks=pytest.mark.slow)])
def test_the_same_threads_give_the_same_frames_on_any_machine(
    ffmpeg: Ffmpeg, clip: Path, tmp_path: Path, suffix: str
) -> None:
    found = []
    for count in (1, 2):
        with processors(count):
            found.append(frames(ffmpeg, run(clip, tmp_path / f"{count}.{suffix}", 3)))
    assert found[0] == found[1]


def test_a_run_is_resumed_with_the_threads_it_began_with(ffmpeg: Ffmpeg, clip: Path, tmp_path: Path) -> None:
    """On a machine with one processor more; and x264 does write other frames with another thread."""
    target, stop = tmp_path / "out.mkv", threading.Event()
    stop.set()
    with processors(1), pytest.raises(StoppedError):
        run(clip, target, stop=stop)
    run(clip, target, resume=True)
    one, two = (frames(ffmpeg, run(clip, tmp_path / f"{threads}.mkv", threads)) for threads in (1, 2))
    assert frames(ffmpeg, target) == one != two


def test_another_number_is_another_job(clip: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        run(clip, tmp_path / "out.mkv", 1, stop=stop)
    with pytest.raises(VideoError, match="was another job, with different encoding"):
        run(clip, tmp_path / "out.mkv", 2, resume=True)


@pytest.mark.parametrize("threads", [0, -1, 17])
def test_invalid_numbers_are_rejected(threads: int) -> None:
    with pytest.raises(ArgumentError, match=f"an encoder can have 1 to 16 threads, got {threads}"):
        Encoding(threads=threads)


def test_the_same_job_writes_the_same_frames_each_time(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """On a processor with AVX-512, x264 by itself doesn't."""
    source = tmp_path / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=120x68:r=25:d=1.2,noise=alls=20:allf=t", "-c:v", "ffv1", source)
    encoding = Encoding(codec="h264", threads=2)
    found = set()
    for number in range(5):
        restore(source, tmp_path / f"{number}.mkv", REPEATER, encoding=encoding)
        found.add(frames(ffmpeg, tmp_path / f"{number}.mkv"))
    assert len(found) == 1
