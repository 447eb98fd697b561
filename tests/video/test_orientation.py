"""The eight orientations of a display matrix, against ffmpeg's own output."""

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from zsm.runtime.video import open_source

ORIENTATIONS = {
    "upright": (1, 0, 0, 1),
    "mirrored left to right": (-1, 0, 0, 1),
    "mirrored top to bottom": (1, 0, 0, -1),
    "turned by 180": (-1, 0, 0, -1),
    "turned by 90": (0, 1, -1, 0),
    "turned by 270": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}
"""The matrix's upper left 2x2."""


@pytest.fixture(scope="session")
def upright(ffmpeg: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A lossless RGB MP4 of one frame, 64x48."""
    path = tmp_path_factory.mktemp("orientation") / "upright.mp4"
    source = "testsrc=s=64x48:d=0.1"
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", 1, "-c:v", "libx264rgb", "-qp", 0, path)
    return path.read_bytes()


@pytest.mark.parametrize("matrix", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_frames_are_shown_as_ffmpeg_shows_them(
    matrix: tuple[int, int, int, int], upright: bytes, ffmpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    content = bytearray(upright)
    a, b, c, d = (value << 16 for value in matrix)
    at = content.find(b"tkhd") + 44  # after the track header's times, layer and volume
    content[at : at + 20] = struct.pack(">5i", a, b, 0, c, d)
    path = tmp_path / "turned.mp4"
    path.write_bytes(content)
    source = open_source(path)
    try:
        found = next(iter(source.frames())).pixels()
    finally:
        source.close()
    expected = ffmpeg("-i", path, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    assert found.shape == (*source.info.size[::-1], 3)
    np.testing.assert_array_equal(found.reshape(-1), np.frombuffer(expected, np.uint8))


def test_a_photograph_is_turned_as_its_exif_data_say(tmp_path: Path) -> None:
    """FFmpeg passes these data on beside the matrix, as a type that PyAV doesn't know."""
    tiff = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)  # orientation 6: to be turned by 90
    exif = b"Exif\0\0" + tiff
    jpeg = cv2.imencode(".jpg", np.zeros((40, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "photograph.jpg").write_bytes(jpeg[:2] + struct.pack(">HH", 0xFFE1, len(exif) + 2) + exif + jpeg[2:])
    source = open_source(tmp_path / "photograph.jpg")
    assert source.info.size == (40, 64)
    source.close()
