"""What a picture says of itself reaches the output, in every codec and container that has a place for it."""

import struct
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.video.conftest import REPEATER

from zsm.runtime.video import Encoding, Options, open_source, restore, restore_source

Ffmpeg = Callable[..., bytes]
Probe = Callable[..., Any]

OUTPUTS = [
    ("h264", "mp4"), ("hevc", "mkv"), ("vp9", "webm"), ("av1", "mp4"), ("prores", "mov"), ("ffv1", "mkv"),
    *(pytest.param(codec, suffix, marks=pytest.mark.slow) for codec, suffix in (
        ("h264", "mov"), ("h264", "mkv"), ("hevc", "mp4"), ("vp9", "mkv"), ("vp9", "mp4"), ("av1", "mkv"),
        ("av1", "webm"), ("prores", "mkv"), ("mpeg2video", "mkv"),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "suffix"), OUTPUTS)
@pytest.mark.parametrize("aspect", ["40/33", pytest.param("8/9", marks=pytest.mark.slow)])
def test_the_sample_aspect_ratio_is_kept(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, codec: str, suffix: str, aspect: str
) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / f"out.{suffix}"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=72x48:r=10:d=0.2,setsar={aspect}", "-c:v", "libx264", "-metadata:s:v:0",
           "language=fre", source)  # fmt: skip
    restore(source, target, REPEATER, encoding=Encoding(codec=codec))
    stream = probe(target)["streams"][0]
    width, height = stream["sample_aspect_ratio"].split(":")
    assert int(width) / int(height) == pytest.approx(float(Fraction(aspect)), rel=0.002)
    assert "title" not in stream.get("tags", {})
    ffmpeg("-xerror", "-err_detect", "crccheck+explode", "-i", target, "-f", "null", "-")


@pytest.mark.parametrize("title", ["", "Ünïcödé title", "x" * 200])
@pytest.mark.parametrize("sound", [False, True])
def test_a_matroska_header_is_complete_after_the_aspect_is_entered(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, title: str, sound: bool
) -> None:
    tracks = ["-f", "lavfi", "-i", "sine=d=0.2", "-c:a", "flac", "-metadata:s:a:0", "title=Sound"] if sound else []
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=72x48:r=10:d=0.2,setsar=40/33", *tracks, "-c:v", "libx264",
           "-metadata:s:v:0", f"title={title}", tmp_path / "in.mkv")  # fmt: skip
    restore(tmp_path / "in.mkv", tmp_path / "out.mkv", REPEATER, encoding=Encoding(codec="vp9"))
    streams = probe(tmp_path / "out.mkv")["streams"]
    assert streams[0]["sample_aspect_ratio"] == "349:288"  # 288 * 40 / 33 = 349.1
    assert streams[0].get("tags", {}).get("title", "") == title
    assert [stream.get("tags", {}).get("title") for stream in streams[1:]] == ["Sound"] * sound
    ffmpeg("-xerror", "-err_detect", "crccheck+explode", "-i", tmp_path / "out.mkv", "-f", "null", "-")


def test_y4m_has_the_aspect_too(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=72x48:r=10:d=0.2,setsar=40/33", tmp_path / "in.mp4")
    with closing(open_source(tmp_path / "in.mp4")) as source, (tmp_path / "out.y4m").open("wb") as pipe:
        restore_source(source, pipe, REPEATER, Options())
    header = (tmp_path / "out.y4m").read_bytes().partition(b"\n")[0]
    assert b"A40:33" in header.split()


@pytest.mark.parametrize(("codec", "suffix"), [*OUTPUTS, ("mjpeg", "mov"), ("mpeg4", "mp4")])
@pytest.mark.parametrize("pixel_format", ["yuvj420p", pytest.param("yuvj444p", marks=pytest.mark.slow)])
def test_full_range_looks_the_same(ffmpeg: Ffmpeg, tmp_path: Path, codec: str, suffix: str, pixel_format: str) -> None:
    """By the range that the output states, or by the usual one if it can't: a ramp from black to white, as decoded."""
    ramp = "color=black:s=480x270:r=25:d=0.08,format=gray,geq=lum='X*255/479',format=yuv444p"
    ffmpeg("-f", "lavfi", "-i", ramp, "-vf", "scale=in_range=full:out_range=full", "-color_range", "pc",
           "-c:v", "libx264", "-qp", "0", "-pix_fmt", pixel_format, tmp_path / "in.mp4")  # fmt: skip
    encoding = Encoding(codec=codec)
    restore(tmp_path / "in.mp4", tmp_path / f"out.{suffix}", REPEATER, encoding=encoding, fps_mode="keep")
    given, found = (row(ffmpeg, path) for path in (tmp_path / "in.mp4", tmp_path / f"out.{suffix}"))
    assert np.abs(given.astype(int) - found).max() <= 6


def row(ffmpeg: Ffmpeg, path: Path) -> Any:
    raw = ffmpeg(
        "-i", path, "-frames:v", "1", "-vf", "scale=480:270:flags=area", "-pix_fmt", "gray", "-f", "rawvideo", "-"
    )
    return np.frombuffer(raw, np.uint8).reshape(270, 480)[135, 8:-8]


@pytest.mark.parametrize("layout", ["left_right", "right_left", pytest.param("top_bottom", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("codec", "suffix"), [("h264", "mkv"), ("h264", "mp4"), ("vp9", "webm"), ("hevc", "mp4")])
def test_stereo_layouts_are_kept_or_noted(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, layout: str, codec: str, suffix: str
) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x32:d=0.08", "-c:v", "libx264",
           "-metadata:s:v:0", f"stereo_mode={layout}", tmp_path / "in.mkv")  # fmt: skip
    notes = restore(tmp_path / "in.mkv", tmp_path / f"out.{suffix}", REPEATER, encoding=Encoding(codec=codec)).notes
    found, expected = (stereo(probe, path) for path in (tmp_path / f"out.{suffix}", tmp_path / "in.mkv"))
    assert expected is not None
    kept = found == expected or (found == ("some", 0) and codec == "h264")
    assert kept != any(f"the stereo 3D layout ({layout})" in note for note in notes)
    assert kept or suffix == "mp4"


def stereo(probe: Probe, path: Path) -> tuple[str, int] | None:
    found = probe(path, "-select_streams", "v:0", "-show_streams", "-show_frames", "-read_intervals", "%+#1")
    for part in (found["streams"][0], found["frames"][0]):
        for data in part.get("side_data_list", []):
            if data["side_data_type"] == "Stereo 3D":
                return data.get("type", "some"), data.get("inverted", 0)  # of frames, ffprobe says no more
    return None


def test_spherical_video_is_noted(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """A 360-degree video: the box that says so is put into an mp4 by hand (Spherical Video V2)."""
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x32:d=0.08", "-c:v", "libx264", "-movflags", "faststart", tmp_path / "a.mp4"
    )
    content = bytearray((tmp_path / "a.mp4").read_bytes())

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    projection = box(b"prhd", bytes(16)) + box(b"equi", bytes(20))
    added = box(b"sv3d", box(b"svhd", bytes(4) + b"zsm\0") + box(b"proj", projection))
    place = content.find(b"avcC") - 4
    content[place:place] = added
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = content.find(kind, content.find(b"moov")) - 4
        content[at : at + 4] = struct.pack(">I", struct.unpack_from(">I", content, at)[0] + len(added))
    offsets = content.find(b"stco") + 12
    content[offsets : offsets + 4] = struct.pack(">I", struct.unpack_from(">I", content, offsets)[0] + len(added))
    (tmp_path / "b.mp4").write_bytes(content)
    notes = restore(tmp_path / "b.mp4", tmp_path / "out.mp4", REPEATER).notes
    assert any("360-degree projection" in note for note in notes)
