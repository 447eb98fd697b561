"""Noise by its statistics, JPEG and H.264 by the size of their damage, H.264 also by another decoder."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.training.moving import gliding

from zsm.errors import ArgumentError
from zsm.evaluation import degradations

GREY = np.full((2, 120, 160, 3), 128, np.uint8)


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


def test_gaussian_noise_has_its_sigma() -> None:
    noisy = degradations.Noise(sigma=10, salt_and_pepper=0)(GREY, generator()).astype(float)
    assert noisy.std() == pytest.approx(10, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.1)
    channels = noisy.reshape(-1, 3).T
    assert abs(np.corrcoef(channels)[0, 1]) < 0.02


def test_salt_and_pepper_hits_its_share_of_whole_pixels() -> None:
    noisy = degradations.Noise(sigma=0)(GREY, generator())
    hit = (noisy != 128).any(axis=-1)
    assert hit.mean() == pytest.approx(0.1, abs=0.01)
    assert set(noisy[hit].sum(axis=-1).tolist()) == {0, 3 * 255}
    assert (noisy[hit][:, 0] == 255).mean() == pytest.approx(0.5, abs=0.05)


def test_worse_jpeg_is_further_off(rng: np.random.Generator) -> None:
    steps = rng.integers(0, 256, (1, 15, 20, 3), dtype=np.uint8)
    clip = steps.repeat(8, axis=1).repeat(8, axis=2)
    off = [
        np.abs(degradations.Jpeg(quality=quality)(clip, rng).astype(int) - clip).mean()
        for quality in (100, 40, 30, 20, 10)
    ]
    assert off == sorted(off)
    assert 0 < off[0] < off[-1]


def test_jpeg_keeps_red_red(rng: np.random.Generator) -> None:
    red = np.zeros((1, 16, 16, 3), np.uint8)
    red[..., 0] = 255
    assert np.abs(degradations.Jpeg(quality=40)(red, rng).astype(int) - red).max() < 12


def test_psnr_falls_as_the_crf_rises() -> None:
    clip = gliding(9, 48, 80)
    errors = [degradations.H264(crf=crf)(clip, generator()) - clip.astype(float) for crf in (0, 18, 23, 28, 35, 51)]
    psnr = [20 * np.log10(255 / np.sqrt(np.square(error).mean())) for error in errors]
    assert psnr == sorted(psnr, reverse=True)
    assert psnr[1] > 33
    assert psnr[-1] < 25


def test_h264_is_what_another_decoder_reads(tmp_path: Path) -> None:
    clip = gliding(9, 48, 80)
    path = tmp_path / "clip.mp4"
    with av.open(path, "w") as container:
        options = {"crf": "28", "preset": "veryfast", "threads": "1", "x264-params": "asm=0"}
        stream = container.add_stream("libx264", rate=25, options=options, width=80, height=48, pix_fmt="yuv420p")
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    degraded = degradations.H264(crf=28, preset="veryfast")(clip, generator())
    np.testing.assert_allclose(degraded, read_with_opencv(path), atol=3)


def read_with_opencv(path: Path) -> NDArray[np.uint8]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.array(frames, np.uint8)


def test_h264_gives_the_same_frames_every_time() -> None:
    """x264's AVX-512 code depends on what memory held before, unless rows are of 16 blocks."""
    clip = gliding(24, 136, 480)
    held = []
    results = set()
    for number in range(10):
        results.add(degradations.H264(crf=28)(clip, generator()).tobytes())
        held.append(generator().bytes(100_000 * (number + 1)))
        if number % 3 == 0:
            held.clear()
    assert len(results) == 1


def test_h264_keeps_the_order_of_frames() -> None:
    clip = np.full((20, 32, 32, 3), 30, np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None] * 10
    means = degradations.H264(crf=28, preset="slow")(clip, generator()).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, clip.mean(axis=(1, 2, 3)), atol=3)


@pytest.mark.parametrize("shape", [(1, 32, 48), (2, 37, 53), (3, 1, 2)])
def test_h264_of_any_size_and_length(shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    clip = np.repeat(rng.integers(0, 256, (*shape, 1), dtype=np.uint8), 3, axis=-1)
    degraded = degradations.H264(crf=1)(clip, rng)
    assert degraded.shape == clip.shape
    np.testing.assert_allclose(degraded, clip, atol=8)


@pytest.mark.parametrize("text", ["noise", "noise:4", "jpeg:20", "h264:28"])
def test_the_seed_decides_and_the_input_stays(text: str) -> None:
    degrade = degradations.parse(text)
    clip = gliding(4, 30, 40)
    before = clip.copy()
    first = degrade(clip, generator())
    assert np.array_equal(first, degrade(clip, generator()))
    assert np.array_equal(clip, before)
    assert not np.array_equal(first, clip)
    assert first.dtype == np.uint8


def test_names() -> None:
    assert degradations.parse("noise") == degradations.Noise(sigma=25.5, salt_and_pepper=0.1)
    assert degradations.parse("noise:15") == degradations.Noise(sigma=15)
    assert degradations.parse("jpeg:30") == degradations.Jpeg(quality=30)
    assert degradations.parse("h264:23") == degradations.H264(crf=23, preset="medium")


@pytest.mark.parametrize("text", ["fog", "jpeg", "jpeg:0", "jpeg:high", "noise:-1", "noise:much", "h264", "h264:x", ""])
def test_what_is_no_degradation_says_so(text: str) -> None:
    with pytest.raises(ArgumentError, match="give"):
        degradations.parse(text)


def test_invalid_h264_settings_are_rejected() -> None:
    with pytest.raises(ArgumentError, match="0 to 51, got 52"):
        degradations.parse("h264:52")
    with pytest.raises(ArgumentError, match="unknown x264 preset 'brisk'; choose from ultrafast"):
        degradations.H264(crf=20, preset="brisk")  # type: ignore[arg-type]
