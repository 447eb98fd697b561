"""Encoders of graphics cards, where there is no card: what is said, and what they would have got."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import av
import pytest
from tests.video.conftest import REPEATER

from zsm.cli import main
from zsm.errors import ArgumentError, VideoError
from zsm.runtime.video import Encoding, encoders, open_source, restore

Ffmpeg = Callable[..., bytes]


@pytest.fixture(scope="module")
def clip(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hardware") / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=36x26:r=25", "-frames:v", "3", "-c:v", "libx264", "-pix_fmt", "yuv420p",
           path)  # fmt: skip
    return path


without_graphics_card = pytest.mark.skipif(
    any(Path(device).exists() for device in ("/dev/dri", "/dev/nvidia0", "/dev/dxg")),
    reason="there is a graphics card here, whose encoders may work",
)


@without_graphics_card
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--hardware", "--codec", codec], f"no hardware encoder for {codec} works here (tried {codec}_")
     for codec in ("h264", "hevc", "av1", "vp9")]
    + [(["--codec", "h264_nvenc"], "h264_nvenc"),
       (["--codec", "h264_nvenc", "--hardware"], "h264_nvenc"),
       (["--hardware"], "to encode on the CPU, use --codec libx264 without --hardware")],
)  # fmt: skip
def test_hardware_encoders_that_are_absent(
    bicubic_bundle: Path,
    clip: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """One message, also from the vendors' libraries; an output that was to be replaced is still there."""
    target = tmp_path / "out.mkv"
    target.write_bytes(b"an older output")
    command = ["run", str(bicubic_bundle), str(clip), str(target), "--overwrite", "--no-progress", *arguments]
    assert main(command) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("zsm run: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older output"]


def test_a_hardware_encoder_has_no_threads(clip: Path, tmp_path: Path) -> None:
    options = Encoding(codec="h264_nvenc", threads=2)
    with pytest.raises(ArgumentError, match="h264_nvenc is in hardware and has no use for --encoder-threads"):
        restore(clip, tmp_path / "out.mkv", REPEATER, encoding=options)


def test_a_hardware_encoder_takes_as_little_memory_however_it_was_chosen(clip: Path) -> None:
    with closing(open_source(str(clip))) as source:
        needs = [
            encoders.memory(encoding, source.info, ".mkv", 30, 4)
            for encoding in (
                Encoding(codec="hevc", hardware=True),
                Encoding(codec="hevc_nvenc"),
                Encoding(codec="hevc"),
            )
        ]
    assert needs[0] == needs[1] < needs[2]


@without_graphics_card
@pytest.mark.parametrize(
    ("codec", "eight_bits", "ten_bits"),
    [("h264_qsv", "nv12", "nv12"), ("hevc_qsv", "nv12", "p010le"), ("vp9_qsv", "nv12", "p010le"),
     ("hevc_nvenc", "yuv420p", "p010le"), ("hevc_amf", "nv12", "p010le"), ("h264_v4l2m2m", "yuv420p", "yuv420p")],
)  # fmt: skip
def test_hardware_encoders_are_given_frames_in_ordinary_memory(
    ffmpeg: Ffmpeg, clip: Path, tmp_path: Path, codec: str, eight_bits: str, ten_bits: str
) -> None:
    """What they would have got is in the message."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    deep = tmp_path / "deep.mkv"
    ffmpeg("-i", clip, "-an", "-frames:v", "3", "-pix_fmt", "yuv420p10le", "-c:v", "ffv1", deep)
    for path, pixel_format in ((clip, eight_bits), (deep, ten_bits)):
        with pytest.raises(VideoError, match=f"{codec} can't write 144x104 {pixel_format}"):
            restore(path, tmp_path / "out.mkv", REPEATER, encoding=Encoding(codec=codec))
    assert list(tmp_path.iterdir()) == [deep]
