"""The memory that encoding takes, which is left free when tiles are chosen."""

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import av
import pytest
from tests.video.conftest import Repeater

from zsm.engine import host
from zsm.errors import ArgumentError, StoppedError, VideoError
from zsm.runtime.video import Encoding, Options, is_finished, open_source, restore

Ffmpeg = Callable[..., bytes]


@dataclass(kw_only=True)
class Asked(Repeater):
    """Notes how much memory is to be left free."""

    besides: list[int] = field(default_factory=list)

    def tile(self, width: int, height: int, itemsize: int, *, besides: int = 0) -> str | None:
        self.besides.append(besides)
        return None


def encoded(target: Path) -> bytes:
    """The first packet, into which x264 and x265 write their settings."""
    with av.open(str(target)) as container:
        return bytes(next(container.demux(video=0)))


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
        assert f"rc_lookahead={lookahead} ".encode() in encoded(target)


def test_an_encoder_gets_by_with_less_where_memory_is_short(
    ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may take half of what is free; a resumed run needs the same choice, and says which."""
    clip = tmp_path / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x36:r=25", "-frames:v", "30", "-c:v", "ffv1", "-pix_fmt", "yuv420p", clip)
    plenty, short = Asked(room=2**40), Asked()
    restore(clip, tmp_path / "usual.mkv", plenty)
    short.room = 2 * plenty.besides[0] - 1
    assert not caplog.records
    restore(clip, tmp_path / "lean.mkv", short)
    assert "(--lean)" in caplog.text
    assert short.besides[0] < plenty.besides[0] / 2
    assert b" bframes=3 " in encoded(tmp_path / "usual.mkv")
    assert b" bframes=1 " in encoded(tmp_path / "lean.mkv")
    asked = Asked()
    restore(clip, tmp_path / "asked.mkv", asked, encoding=Encoding(lean=True))
    assert encoded(tmp_path / "asked.mkv") == encoded(tmp_path / "lean.mkv")


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9"])
def test_lean_encoders_write_whole_videos(codec: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip, target = tmp_path / "clip.mkv", tmp_path / "out.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x36:r=25", "-frames:v", "9", "-c:v", "ffv1", "-pix_fmt", "yuv420p", clip)
    summary = restore(clip, target, Repeater(), encoding=Encoding(codec=codec, lean=True))
    with av.open(str(target)) as container:
        assert len(list(container.decode(video=0))) == summary.frames_out == 17


def test_what_can_t_be_lean_says_so(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x36:r=25", "-frames:v", "2", "-c:v", "ffv1", clip)
    with pytest.raises(
        ArgumentError, match="ffv1 can't be made lean; leave out --lean, or choose --codec libx264, libx265"
    ):
        restore(clip, tmp_path / "out.mkv", Repeater(), encoding=Encoding(codec="ffv1", lean=True))
    with pytest.raises(ArgumentError, match="have no use for --lean"):
        restore(clip, tmp_path / "images", Repeater(), encoding=Encoding(lean=True))
    # What can't be lean stays as it is where memory is short.
    restore(clip, tmp_path / "out.mkv", Repeater(room=1), encoding=Encoding(codec="ffv1"))


@pytest.mark.parametrize("rooms", [(1, None), (None, 1)])
def test_a_resumed_run_keeps_its_encoder_whatever_memory_is_free(
    rooms: tuple[int | None, int | None], ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    clip, target, stop = tmp_path / "clip.mkv", tmp_path / "out.mkv", threading.Event()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x36:r=25", "-frames:v", "20", "-c:v", "ffv1", "-pix_fmt", "yuv420p", clip)
    before, after = (Repeater(room=room) for room in rooms)
    restore(clip, tmp_path / "whole.mkv", before, segment=4)
    stop.set()
    with pytest.raises(StoppedError):
        restore(clip, target, before, segment=4, stop=stop)
    restore(clip, target, after, segment=4, resume=True)
    packets = []
    for path in (target, tmp_path / "whole.mkv"):
        with av.open(str(path)) as container:
            packets.append([bytes(packet) for packet in container.demux(video=0)])
    assert packets[0] == packets[1]
    with closing(open_source(clip)) as source:
        for room in rooms:
            assert is_finished(source, target, Repeater(room=room), Options(segment=4))


def test_a_run_can_t_become_lean(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip, target, stop = tmp_path / "clip.mkv", tmp_path / "out.mkv", threading.Event()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x36:r=25", "-frames:v", "20", "-c:v", "ffv1", clip)
    stop.set()
    with pytest.raises(StoppedError):
        restore(clip, target, Repeater(), segment=4, encoding=Encoding(codec="h264"), stop=stop)
    with pytest.raises(VideoError, match="began without --lean: leave that out, or start over with --overwrite"):
        restore(clip, target, Repeater(), segment=4, encoding=Encoding(codec="h264", lean=True), resume=True)
