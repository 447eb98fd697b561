"""Coming back to the middle of a file: whatever its container and codec, the frames are those decoded in order."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.video.conftest import Pixels

from zsm.errors import VideoError
from zsm.runtime.video import Encoding, Progress, Summary, restore

Ffmpeg = Callable[..., bytes]

X264 = ("-c:v", "libx264", "-preset", "veryfast", "-x264-params")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params")
MPEG2 = ("-c:v", "mpeg2video", "-bf", "2", "-g", "15", "-q:v", "3")
OPEN = "open-gop=1:keyint=20:bframes=3"
REFRESH = "intra-refresh=1:keyint=20:min-keyint=20:scenecut=0:bframes=2"

KINDS: dict[str, tuple[str, ...]] = {
    "closed.mp4": (*X264, "open-gop=0:keyint=20:bframes=2"),
    "open264.mkv": (*X264, OPEN),
    "open264.ts": (*X264, OPEN),
    "open264.flv": (*X264, OPEN),
    "open264.h264": (*X264, OPEN),
    "fragmented.mp4": (*X264, OPEN, "-movflags", "frag_keyframe+empty_moov"),
    "interlaced.ts": ("-flags", "+ilme+ildct", *X264, f"interlaced=1:{OPEN}"),
    "refresh.mkv": (*X264, REFRESH),
    "refresh.ts": (*X264, REFRESH),
    "varying.mkv": ("-vf", "select='mod(n,5)*mod(n,7)'", "-fps_mode", "vfr", *X264, OPEN),
    "open265.mkv": (*X265, f"log-level=none:{OPEN}"),
    "open265.ts": (*X265, f"log-level=none:{OPEN}"),
    "program.mpg": MPEG2,
    "program.vob": MPEG2,
    "mpeg2.ts": MPEG2,
    "asp.avi": ("-c:v", "mpeg4", "-bf", "2", "-g", "20", "-q:v", "3"),
    "media.wmv": ("-c:v", "wmv2", "-g", "20", "-q:v", "3"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-b:v", "100k", "-deadline", "realtime", "-cpu-used", "8",
                 "-auto-alt-ref", "1", "-lag-in-frames", "16", "-g", "20"),
    "intra.mov": ("-c:v", "prores_ks"),
}  # fmt: skip
"""ffmpeg's arguments, by the name of what they make."""

DERIVED = ("edited.mp4", "nocues.mkv", "dropped.mkv", "damaged.mkv", "damaged.ts", "joined.ts")
CHEAP = ("program.mpg", "refresh.mkv", "open264.ts", "damaged.ts")
"""Those in which seeking alone fails, one of each sort."""


def film(ffmpeg: Ffmpeg, folder: Path, name: str) -> Path:
    """Three scenes, 120 frames in all, that move."""
    path = folder / name
    scenes = [f"{pattern}=s=64x48:r=25,trim=end_frame={frames},setsar=1,format=yuv420p[{pattern}]"
              for pattern, frames in (("testsrc2", 50), ("mandelbrot", 30), ("testsrc", 40))]  # fmt: skip
    graph = ";".join(scenes) + ";[testsrc2][mandelbrot][testsrc]concat=n=3"
    if name in KINDS:
        ffmpeg("-f", "lavfi", "-i", graph, *KINDS[name], path)
    elif name == "edited.mp4":
        ffmpeg("-ss", "1.3", "-i", film(ffmpeg, folder, "closed.mp4"), "-c", "copy", path)
    elif name == "nocues.mkv":
        path.write_bytes(ffmpeg("-i", film(ffmpeg, folder, "open264.mkv"), "-c", "copy", "-f", "matroska", "-"))
    elif name == "dropped.mkv":
        ffmpeg("-i", film(ffmpeg, folder, "open264.mkv"), "-c", "copy", "-bsf:v", "noise=drop='not(mod(n,37))'", path)
    elif name == "joined.ts":
        once = film(ffmpeg, folder, "mpeg2.ts").read_bytes()
        path.write_bytes(once + once)
    else:
        path.write_bytes(damaged(film(ffmpeg, folder, name.replace("damaged", "open264")).read_bytes()))
    return path


def damaged(data: bytes) -> bytes:
    """The same with 30 bits flipped."""
    random = np.random.default_rng(1)
    content = bytearray(data)
    for place in random.integers(5000, len(content), 30):
        content[place] ^= 1 << int(random.integers(8))
    return bytes(content)


@dataclass(kw_only=True)
class Watching:
    """Keeps the size, averages neighbours, and counts the frames it is given."""

    scale: int = 1
    window: int = 4
    overlap: int = 1
    identity: str = "watching"
    room: int | None = None
    builds: dict[str, str] = field(default_factory=dict)
    given: list[int] = field(default_factory=list)

    def tile(self, width: int, height: int, itemsize: int, *, besides: int = 0) -> str | None:
        return None

    def stream(self, frames: Any, *, cuts: Any = None, first: int = 0, every: int = 1) -> Iterator[Pixels]:
        self.given.append(0)
        previous: Pixels | None = None
        outputs = []
        for number, frame in enumerate(frames):
            self.given[-1] += 1
            if previous is not None:
                cut = cuts(previous, frame) if callable(cuts) else number in cuts
                outputs.append(previous if cut else previous // 2 + frame // 2)
            outputs.append(frame)
            previous = frame
        yield from outputs[first::every]


class CancelledError(Exception):
    """The run was meant to end here."""


def cancel_at(frame: int) -> Callable[[Progress], None]:
    def listener(progress: Progress) -> None:
        if progress.frame == frame:
            raise CancelledError

    return listener


def run(source: Path, target: Path, restorer: Watching | None = None, **options: Any) -> Summary:
    encoding = Encoding(codec="ffv1", threads=1)
    return restore(source, target, restorer or Watching(), encoding=encoding, segment=9, **options)


def hashes(ffmpeg: Ffmpeg, path: Path) -> list[bytes]:
    """Time and digest of each picture."""
    return ffmpeg("-i", path, "-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-").splitlines()


def workspace(target: Path) -> Path:
    return target.parent / f".{target.name}.zsm"


def interrupt(source: Path, target: Path, frame: int) -> None:
    """Run until some frames are written; by then the source has been read to its end."""
    with pytest.raises(CancelledError):
        run(source, target, listener=cancel_at(frame))


def forget(target: Path, *, odd: bool) -> list[int]:
    """Take every other segment out of an interrupted run."""
    path = workspace(target) / "journal.json"
    journal = json.loads(path.read_text())
    lost = [int(number) for number in journal["segments"] if int(number) % 2 == odd]
    for number in lost:
        del journal["segments"][str(number)]
        (path.parent / f"segment-{number:06d}.mkv").unlink()
    path.write_text(json.dumps(journal))
    return lost


def spoil(target: Path, number: int) -> None:
    """Change the checksum of a frame in a scan."""
    path = workspace(target) / "scan.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number][5] ^= 1
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in CHEAP else pytest.mark.slow) for name in (*KINDS, *DERIVED)]
)
def test_holes_are_filled_with_the_same_frames(ffmpeg: Ffmpeg, tmp_path: Path, name: str) -> None:
    """Of a run that ended just before its output was complete, every other segment is done again."""
    source, whole = film(ffmpeg, tmp_path, name), tmp_path / "whole.mkv"
    summary = run(source, whole)
    interrupt(source, tmp_path / "even.mkv", summary.frames_out - 1)
    shutil.copytree(workspace(tmp_path / "even.mkv"), workspace(tmp_path / "odd.mkv"))
    for target in (tmp_path / "even.mkv", tmp_path / "odd.mkv"):
        lost = forget(target, odd=target.stem == "odd")
        assert len(lost) > 5
        restorer = Watching()
        again = run(source, target, restorer, resume=True)
        assert len(restorer.given) >= len(lost)
        assert max(restorer.given) < 20
        assert (again.cuts, again.notes) == (summary.cuts, summary.notes)
        assert hashes(ffmpeg, target) == hashes(ffmpeg, whole)


def test_a_frame_that_is_decoded_differently_is_an_error(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    source, target = film(ffmpeg, tmp_path, "open264.mkv"), tmp_path / "out.mkv"
    interrupt(source, target, 238)
    forget(target, odd=True)
    spoil(target, 70)
    with pytest.raises(VideoError, match=r"frame 70 of .*open264.mkv was decoded differently before"):
        run(source, target, resume=True)


@pytest.mark.parametrize("length", [0, 2, 0.5, 0.99])
def test_a_scan_that_was_cut_off_is_made_again(ffmpeg: Ffmpeg, tmp_path: Path, length: float) -> None:
    """By a power failure, for example, which can lose the end of a file."""
    source, whole, target = film(ffmpeg, tmp_path, "open264.mkv"), tmp_path / "whole.mkv", tmp_path / "out.mkv"
    summary = run(source, whole)
    interrupt(source, target, 200)
    forget(target, odd=True)
    scan = workspace(target) / "scan.jsonl"
    content = scan.read_bytes()
    scan.write_bytes(content[: int(length * len(content)) if length < 1 else int(length)])
    assert run(source, target, resume=True).cuts == summary.cuts
    assert hashes(ffmpeg, target) == hashes(ffmpeg, whole)
