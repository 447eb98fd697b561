"""The memory that encoding takes, which is left free when tiles are chosen."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import av
import pytest
from tests.video.conftest import Repeater

from zsm.engine import host
from zsm.runtime.video import Encoding, restore

Ffmpeg = Callable[..., bytes]


@dataclass(kw_only=True)
class Asked(Repeater):
    """Notes how much memory is to be left free."""

    besides: list[int] = field(default_factory=list)

    def tile(self, width: int, height: int, itemsize: int, *, besides: int = 0) -> str | None:
        self.besides.append(besides)
        return None


def measure(clip: str, target: str, codec: str) -> None:
    """Print what a run leaves free, and what it takes: in a process of its own, whose peak is the run's."""
    before = host.own("VmRSS")
    restorer = Asked()
    restore(clip, target, restorer, encoding=Encoding(codec=codec), cuts="off")
    print(restorer.besides[0], host.own("VmHWM") - before)


@pytest.mark.parametrize("codec", ["h264", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hevc", "vp9"))])
def test_encoding_takes_about_as_much_memory_as_is_left_for_it(codec: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=320x180:r=25", "-frames:v", "20", "-c:v", "ffv1", "-pix_fmt", "yuv420p",
           clip)  # fmt: skip
    code = "import sys; from tests.video.test_memory import measure; measure(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(clip), str(tmp_path / "out.mkv"), codec]
    left, taken = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert 0.4 * left < taken < 1.3 * left  # libraries and threads come on top


def test_more_frames_take_more_until_the_encoder_has_enough(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    found = []
    for frames in (2, 8, 30, 60):
        clip = tmp_path / f"{frames}.mkv"
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x18:r=25", "-frames:v", frames, "-c:v", "ffv1", clip)
        restorer = Asked()
        restore(clip, tmp_path / f"{frames}.mp4", restorer)
        found.append(restorer.besides[0])
    assert found[0] < found[1] < found[2] == found[3]


def test_x264_looks_less_far_ahead_in_huge_frames(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """x264 writes its settings into the file."""
    for size, lookahead in ("64x36", "40"), ("1040x1040", "10"):
        clip, target = tmp_path / f"{size}.mkv", tmp_path / f"{size}-restored.mkv"
        ffmpeg("-f", "lavfi", "-i", f"color=s={size}:r=25", "-frames:v", "1", "-c:v", "ffv1", clip)
        restore(clip, target, Asked(), encoding=Encoding(codec="h264"))
        with av.open(str(target)) as container:
            first = next(container.demux(video=0))
            assert f"rc_lookahead={lookahead} ".encode() in bytes(first)
