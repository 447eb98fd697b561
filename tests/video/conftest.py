"""Media made and read back by FFmpeg's own programs, and a simple stand-in for a Runtime."""

import json
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.needs import missing

Pixels = NDArray[Any]


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., bytes]:
    """Run ffmpeg with arguments; what it writes to standard output."""
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        missing("ffmpeg", "ffmpeg and ffprobe, which the tests make media with, are not installed")

    def run(*arguments: str | Path, stdin: bytes | None = None) -> bytes:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)]
        if stdin is not None:
            command.remove("-nostdin")
        done = subprocess.run(command, input=stdin, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


@pytest.fixture(scope="session")
def probe(ffmpeg: Callable[..., bytes]) -> Callable[..., Any]:
    """What ffprobe says of a file: streams, format, chapters, or what is asked for."""

    def run(path: Path, *arguments: str) -> Any:
        what = arguments or ("-show_streams", "-show_format", "-show_chapters")
        command = ["ffprobe", "-v", "error", "-of", "json", *what, str(path)]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    return run


@pytest.fixture(scope="session")
def video_times(probe: Callable[..., Any]) -> Callable[[Path], list[float]]:
    """When each picture of a file is shown, in seconds."""

    def run(path: Path) -> list[float]:
        packets = probe(path, "-select_streams", "v:0", "-show_entries", "packet=pts_time")["packets"]
        return sorted(float(packet["pts_time"]) for packet in packets)

    return run


@pytest.fixture(scope="session")
def decode(ffmpeg: Callable[..., bytes], probe: Callable[..., Any]) -> Callable[..., Pixels]:
    """The planes of every frame of a file as ffmpeg decodes them: (frames, height, width * components)."""

    def run(path: Path, pixel_format: str = "rgb24", *filters: str) -> Pixels:
        stream = probe(path, "-select_streams", "v:0", "-show_streams")["streams"][0]
        raw = ffmpeg("-i", path, "-map", "0:v:0", *filters, "-fps_mode", "passthrough",
                     "-f", "rawvideo", "-pix_fmt", pixel_format, "-")  # fmt: skip
        dtype = np.uint16 if pixel_format.endswith("le") else np.uint8
        frames = np.frombuffer(raw, dtype)
        return frames.reshape(-1, stream["height"], stream["width"] * 3)

    return run


def three_scenes(ffmpeg: Callable[..., bytes], path: Path, size: str, frames: int, *encoding: str) -> Path:
    """Write three scenes of `frames` frames each, with sound, as H.264; returns the path."""
    names = ("testsrc2", "smptebars", "mandelbrot")
    scenes = [f"{name}=s={size}:r=25,trim=end_frame={frames},setsar=1,format=yuv420p[{name}]" for name in names]
    graph = ";".join(scenes) + ";[testsrc2][smptebars][mandelbrot]concat=n=3"
    ffmpeg("-filter_complex", graph, "-f", "lavfi", "-i", f"sine=d={3 * frames / 25}", "-c:v", "libx264",
           "-c:a", "aac", *encoding, path)  # fmt: skip
    return path


def enlarge(frame: Pixels) -> Pixels:
    """4x, by repetition."""
    return np.repeat(np.repeat(frame, 4, axis=0), 4, axis=1)


@dataclass(kw_only=True)
class Repeater:
    """A Restorer: 4x by repetition; missing frames by averaging, or at a cut by repeating the frame before."""

    scale: int = 4
    window: int = 4
    overlap: int = 1
    identity: str = "repeater"
    room: int | None = None
    builds: dict[str, str] = field(default_factory=dict)

    def tile(self, width: int, height: int, itemsize: int, *, besides: int = 0) -> str | None:
        return None

    def stream(
        self,
        frames: Iterable[Pixels],
        *,
        cuts: Collection[int] | Callable[[Pixels, Pixels], bool] | None = None,
        first: int = 0,
        every: int = 1,
    ) -> Iterator[Pixels]:
        for number, frame in zip(count(), self.outputs(frames, cuts), strict=False):
            if number >= first and (number - first) % every == 0:
                yield frame

    def outputs(
        self, frames: Iterable[Pixels], cuts: Collection[int] | Callable[[Pixels, Pixels], bool] | None
    ) -> Iterator[Pixels]:
        previous: Pixels | None = None
        for number, frame in enumerate(frames):
            if previous is not None:
                is_cut = cuts(previous, frame) if callable(cuts) else number in (cuts or ())
                mean = (previous.astype(np.uint32) + frame + 1) // 2
                yield enlarge(previous if is_cut else mean.astype(frame.dtype))
            yield enlarge(frame)
            previous = frame


REPEATER = Repeater()
