"""Noise by its statistics, JPEG by the size of its damage, both by their seeds."""

import numpy as np
import pytest

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


@pytest.mark.parametrize("text", ["noise", "noise:4", "jpeg:20"])
def test_the_seed_decides_and_the_input_stays(text: str) -> None:
    degrade = degradations.parse(text)
    clip = GREY.copy()
    first = degrade(clip, generator())
    assert np.array_equal(first, degrade(clip, generator()))
    assert np.array_equal(clip, GREY)
    assert first.dtype == np.uint8


def test_names() -> None:
    assert degradations.parse("noise") == degradations.Noise(sigma=25.5, salt_and_pepper=0.1)
    assert degradations.parse("noise:15") == degradations.Noise(sigma=15)
    assert degradations.parse("jpeg:30") == degradations.Jpeg(quality=30)


@pytest.mark.parametrize("text", ["fog", "jpeg", "jpeg:0", "jpeg:high", "noise:-1", "noise:much", ""])
def test_what_is_no_degradation_says_so(text: str) -> None:
    with pytest.raises(ArgumentError, match="give"):
        degradations.parse(text)
