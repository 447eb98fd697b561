"""Colours: a chart of known codes goes through everything and is read back by ffmpeg."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.video.conftest import REPEATER

from zsm.errors import VideoError
from zsm.runtime.video import Encoding, images, restore
from zsm.runtime.video.colour import BT601, BT709, BT2020, RGB, Colour, from_rgb, to_rgb

Ffmpeg = Callable[..., bytes]
Probe = Callable[..., Any]

MATRICES = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "bt2020nc": (0.2627, 0.0593)}


def chart(matrix: str, bits: int, *, full: bool, patches: int = 8) -> NDArray[np.uint16]:
    """Codes (3,h,w) of patches 8x8 of random colours, black, white and grey: the equations of BT.709, section 3."""
    rng = np.random.default_rng(5)
    rgb = rng.random((patches, patches, 3))
    rgb[0, :3] = np.array([[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]])
    red, blue = MATRICES[matrix]
    luma = rgb @ [red, 1 - red - blue, blue]
    cb = (rgb[..., 2] - luma) / (2 * (1 - blue))
    cr = (rgb[..., 0] - luma) / (2 * (1 - red))
    unit, top = 2 ** (bits - 8), 2**bits - 1
    scale = (top, top, 0) if full else (219 * unit, 224 * unit, 16 * unit)
    planes = [scale[2] + scale[0] * luma, 128 * unit + scale[1] * cb, 128 * unit + scale[1] * cr]
    codes = np.clip(np.rint(planes), 0, top).astype(np.uint16)
    return np.repeat(np.repeat(codes, 8, axis=1), 8, axis=2)


def centres(planes: NDArray[Any], size: int) -> NDArray[Any]:
    """The code in the middle of each patch."""
    return planes[..., size // 2 :: size, size // 2 :: size].astype(int)


@pytest.mark.parametrize(
    ("matrix", "bits", "codec"),
    [("smpte170m", 8, "h264"), ("bt709", 8, "h264"), ("bt709", 10, "hevc"), ("bt709", 12, "ffv1"),
     ("bt2020nc", 10, "hevc"), ("bt2020nc", 12, "hevc"), ("bt2020nc", 12, "ffv1")],
)  # fmt: skip
@pytest.mark.parametrize("full", [False, True])
def test_codes_come_back_within_one(
    ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, matrix: str, full: bool, bits: int, codec: str
) -> None:
    given = chart(matrix, bits, full=full)
    height, width = given.shape[1:]
    pixel_format = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
    raw = given.astype(np.uint8) if bits == 8 else given
    source, target = tmp_path / "chart.mkv", tmp_path / "out.mkv"
    tags = ["-colorspace", matrix, "-color_range", "pc" if full else "tv",
            "-color_primaries", "bt2020" if matrix == "bt2020nc" else matrix,
            "-color_trc", "smpte2084" if bits > 8 else "bt709"]  # fmt: skip
    ffmpeg("-f", "rawvideo", "-pix_fmt", pixel_format, "-s", f"{width}x{height}", *tags, "-i", "-",
           "-c:v", "ffv1", *tags, source, stdin=raw.tobytes())  # fmt: skip
    lossless = {"crf": 0.0, "preset": "ultrafast"} if codec != "ffv1" else {}
    restore(source, target, REPEATER, encoding=Encoding(codec=codec, **lossless))  # type: ignore[arg-type]

    before, after = (probe(path)["streams"][0] for path in (source, target))
    assert after["pix_fmt"].replace("yuvj", "yuv") == pixel_format
    for tag in ("color_space", "color_range", "color_primaries", "color_transfer"):
        assert after[tag] == before[tag]
    # In ffmpeg, asking for yuv444p of yuvj444p would convert the range.
    decoded = ffmpeg("-i", target, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", after["pix_fmt"], "-")
    found = np.frombuffer(decoded, raw.dtype).reshape(3, 4 * height, 4 * width)
    difference = np.abs(centres(found, 32) - centres(given, 8))
    # x265 at crf 0 isn't lossless.
    assert difference.max() <= (1 if codec != "hevc" else 3)
    assert np.quantile(difference, 0.9) <= 1


@pytest.mark.parametrize("depth", [10, 12])
def test_a_deep_ramp_does_not_become_bands(ffmpeg: Ffmpeg, tmp_path: Path, depth: int) -> None:
    ramp = np.tile(np.linspace(64, 200, 256).astype(np.uint16) * 2 ** (depth - 10) + np.arange(256) % 4, (16, 1))
    planes = np.stack([ramp, np.full_like(ramp, 2 ** (depth - 1)), np.full_like(ramp, 2 ** (depth - 1))])
    name = f"yuv444p{depth}le"
    source, target = tmp_path / "ramp.mkv", tmp_path / "out.mkv"
    ffmpeg("-f", "rawvideo", "-pix_fmt", name, "-s", "256x16", "-i", "-", "-c:v", "ffv1", source,
           stdin=planes.astype(np.uint16).tobytes())  # fmt: skip
    restore(source, target, REPEATER, encoding=Encoding(codec="ffv1"))
    found = np.frombuffer(
        ffmpeg("-i", target, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", name, "-"), np.uint16
    )
    luma = found.reshape(3, 64, 1024)[0, 0, ::4]
    assert np.abs(luma.astype(int) - ramp[0]).max() <= 1
    assert len(np.unique(luma)) > len(np.unique(ramp // 2 ** (depth - 8))) * 2


def test_hdr_keeps_its_tags_and_metadata(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path) -> None:
    source = tmp_path / "hdr.mp4"
    parameters = (
        "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:repeat-headers=1:max-cll=1000,400:"
        "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    )
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=24:d=0.3", "-pix_fmt", "yuv420p10le", "-c:v", "libx265",
           "-x265-params", parameters, source)  # fmt: skip
    light = [side_data(probe, source)]
    for name in ("out.mp4", "out.mkv", "out.webm"):
        target = tmp_path / name
        restore(source, target, REPEATER)
        stream = probe(target)["streams"][0]
        assert stream["pix_fmt"] == "yuv420p10le"
        assert [stream[f"color_{key}"] for key in ("space", "transfer", "primaries")] == [
            "bt2020nc", "smpte2084", "bt2020",
        ]  # fmt: skip
        light.append(side_data(probe, target))
    for found in light[1:]:
        assert found == pytest.approx(light[0], rel=0.02)
    assert light[0]["max_content"] == 1000


def side_data(probe: Probe, path: Path) -> dict[str, float]:
    """HDR's static metadata of the first frame, in numbers."""
    frame = probe(path, "-select_streams", "v", "-read_intervals", "%+#1", "-show_frames")["frames"][0]
    found = {}
    for item in frame["side_data_list"]:
        if item["side_data_type"] in ("Mastering display metadata", "Content light level metadata"):
            for key, value in item.items():
                if key != "side_data_type":
                    top, _, bottom = str(value).partition("/")
                    found[key] = float(top) / float(bottom or 1)
    return found


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
def test_hlg_and_pq_survive_without_metadata(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path, transfer: str) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:d=0.2", "-pix_fmt", "yuv420p10le", "-c:v", "libx265",
           "-x265-params", f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc",
           source)  # fmt: skip
    restore(source, target, REPEATER)
    assert probe(target)["streams"][0]["color_transfer"] == transfer


def test_an_unstated_matrix_is_written_down(ffmpeg: Ffmpeg, probe: Probe, tmp_path: Path) -> None:
    """A player would guess BT.601 for the small source and BT.709 for the large output."""
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=360x240:d=0.1", "-c:v", "libx264", "-pix_fmt", "yuv420p", source)
    restore(source, target, REPEATER, encoding=Encoding(preset="ultrafast"))
    assert probe(target)["streams"][0]["color_space"] == "smpte170m"


@pytest.mark.parametrize(("pixel_format", "depth"), [("gray", 8), ("gray10le", 10), ("gray16le", 16)])
def test_grey_stays_grey(
    ffmpeg: Ffmpeg, decode: Callable[..., Any], tmp_path: Path, pixel_format: str, depth: int
) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:d=0.1", "-pix_fmt", pixel_format, "-c:v", "ffv1", source)
    restore(source, target, REPEATER, fps_mode="keep")
    rgb = decode(target).reshape(-1, 128, 128, 3)
    assert np.ptp(rgb, axis=3).max() <= 2


@pytest.mark.parametrize("tagged", [False, True])
def test_grey_without_a_tag_has_full_range(ffmpeg: Ffmpeg, tmp_path: Path, tagged: bool) -> None:
    """As in FFmpeg: its 256 levels survive. Where limited range is stated, what lies outside is cut off."""
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16), 2, axis=1)
    (tmp_path / "in.raw").write_bytes(levels.tobytes())
    tag = ["-color_range", "tv"] if tagged else []
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    ffmpeg("-f", "rawvideo", "-pix_fmt", "gray", "-s", "32x16", "-i", tmp_path / "in.raw", "-c:v", "ffv1", *tag, source)
    restore(source, target, REPEATER, encoding=Encoding(codec="ffv1"))
    found = np.frombuffer(ffmpeg("-i", target, "-f", "rawvideo", "-pix_fmt", "gray", "-"), np.uint8).reshape(64, 128)
    np.testing.assert_array_equal(found[::4, ::4], np.clip(levels, 16, 235) if tagged else levels)


def test_formats_that_are_full_range_by_name_get_full_range(
    ffmpeg: Ffmpeg, decode: Callable[..., Any], tmp_path: Path
) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=0x404040:s=32x32:d=0.1,format=yuv420p", "-c:v", "ffv1", source)
    restore(source, target, REPEATER, encoding=Encoding(codec="mjpeg", pix_fmt="yuvj444p"))
    assert np.abs(decode(target).astype(int) - 0x40).max() <= 2


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["png", "tiff", "bmp", "webp"])
def test_images_of_every_kind_are_read_as_they_are(
    tmp_path: Path, kind: str, dtype: type[np.uint8] | type[np.uint16], channels: int
) -> None:
    if (kind in ("bmp", "webp") and dtype is np.uint16) or (kind == "webp" and channels == 1):
        pytest.skip("there is no such format")
    top = np.iinfo(dtype).max
    bgr = np.random.default_rng(0).integers(0, top, (9, 14, channels), dtype, endpoint=True)
    if channels == 4:
        bgr[..., 3] = top
    cv2.imwrite(str(tmp_path / f"image.{kind}"), bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])
    expected = np.repeat(bgr, 3, axis=2) if channels == 1 else bgr[..., 2::-1]
    np.testing.assert_array_equal(images.read(tmp_path / f"image.{kind}"), expected)


@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_alpha_of_images_is_noted_if_there_is_any(tmp_path: Path, kind: str, opaque: bool) -> None:
    """The note comes even if only a later image isn't opaque."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        pixels = np.full((24, 32, 4), 255, np.uint8)
        pixels[5, 5, 3] = 255 if opaque or number < 2 else 128
        cv2.imwrite(str(folder / f"{number}.{kind}"), pixels)
    notes = restore(folder, tmp_path / "out.mkv", REPEATER).notes
    assert any("alpha" in note for note in notes) != opaque


def test_alpha_beside_vp9_is_noted(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    ffmpeg(
        "-f", "lavfi", "-i", "color=red@0.5:s=32x24:d=0.1,format=yuva420p", "-c:v", "libvpx-vp9", tmp_path / "a.webm"
    )
    assert any("alpha" in note for note in restore(tmp_path / "a.webm", tmp_path / "out.mkv", REPEATER).notes)


def test_alpha_is_dropped_and_said(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:d=0.1", "-pix_fmt", "yuva420p", "-c:v", "ffv1", source)
    summary = restore(source, tmp_path / "out.mkv", REPEATER)
    assert "the alpha channel is dropped" in summary.notes


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([BT601, BT709, BT2020, 4, 7, RGB]),
    st.booleans(),
    st.sampled_from([8, 9, 10, 12]),
    st.integers(0, 2**32 - 1),
)
def test_to_rgb_undoes_from_rgb(matrix: int, full: bool, bits: int, seed: int) -> None:
    colour = Colour(matrix=matrix, full_range=full or matrix == RGB, bits=bits)
    family = "gbrp" if matrix == RGB else "yuv444p"
    name = family if bits == 8 else f"{family}{bits}le"
    top = 255 if bits == 8 else 65535
    rgb = np.random.default_rng(seed).integers(0, top + 1, (6, 8, 3)).astype(np.uint8 if bits == 8 else np.uint16)
    again = to_rgb(from_rgb(rgb, colour, name), colour)
    # A step of a code is 2**(16-bits) of 16; limited range has fewer steps, and matrices add up three of them.
    step = 1 if bits == 8 else 2 ** (16 - bits)
    assert np.abs(again.astype(int) - rgb).max() <= 3.5 * step


@given(st.sampled_from([8, 10, 12]), st.sampled_from([BT601, BT709, BT2020]))
def test_black_and_white_are_right(bits: int, matrix: int) -> None:
    for full in (False, True):
        colour = Colour(matrix=matrix, full_range=full, bits=bits)
        name = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
        unit, top = 2 ** (bits - 8), 2**bits - 1
        for luma, value in ((0 if full else 16 * unit, 0), (top if full else 235 * unit, 255 if bits == 8 else 65535)):
            frame = av.VideoFrame(8, 8, name)
            for plane, code in zip(frame.planes, (luma, 128 * unit, 128 * unit), strict=True):
                dtype = np.uint8 if bits == 8 else np.uint16
                plane.update(np.full(plane.buffer_size // np.dtype(dtype).itemsize, code, dtype).tobytes())
            assert np.abs(to_rgb(frame, colour).astype(int) - value).max() <= (0 if bits == 8 else 8)


def test_unsupported_matrices_are_rejected() -> None:
    with pytest.raises(VideoError, match="code 14 of ITU-T"):
        Colour(matrix=14, full_range=False)
