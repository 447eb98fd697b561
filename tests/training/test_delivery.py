"""What a `Delivery` does to LR clips, against OpenCV's resizing and by what depends on what."""

from typing import get_args

import numpy as np
import pytest
from tests.training.moving import gliding

from zsm.evaluation import bicubic
from zsm.evaluation.degradations import H264
from zsm.training.delivery import Delivery, Frames, Resizer

NEARLY_LOSSLESS = H264(crf=1, preset="ultrafast")


def deliver(delivery: Delivery, hr: Frames, seed: int = 0) -> Frames:
    return delivery(hr, reduced(hr), np.random.default_rng(seed))


def reduced(hr: Frames) -> Frames:
    return np.stack([bicubic.resize(frame, 1 / 4) for frame in hr])


def test_draws_cover_their_ranges_and_leave_most_clips_sharp_and_free_of_noise() -> None:
    drawn = [Delivery.draw(np.random.default_rng(seed)) for seed in range(400)]
    assert {one.codec.crf for one in drawn} == set(range(18, 36))
    assert {one.resizer for one in drawn} == set(get_args(Resizer))
    assert len({one.codec.preset for one in drawn}) > 2
    plain = [(one.resizer == "matlab", not one.blur, not one.noise) for one in drawn]
    np.testing.assert_allclose(np.mean(plain, axis=0), 2 / 3, atol=0.08)


def test_the_area_resizer_averages_blocks() -> None:
    hr = gliding(2, 64, 96)[..., :1].repeat(3, axis=-1)  # grey: 4:2:0 costs nothing
    blocks = hr.reshape(2, 16, 4, 24, 4, 3).mean((2, 4))
    lr = deliver(Delivery(codec=NEARLY_LOSSLESS, resizer="area"), hr)
    assert np.abs(blocks - lr).mean() < 1


@pytest.mark.parametrize("resizer", get_args(Resizer))
def test_no_resizer_moves_the_picture(resizer: Resizer) -> None:
    hr = gliding(2, 128, 160)
    lr = deliver(Delivery(codec=NEARLY_LOSSLESS, resizer=resizer), hr).astype(float)
    clean = reduced(hr).astype(float)

    def off(rows: int, columns: int) -> float:
        shifted = np.roll(lr, (rows, columns), (1, 2))[:, 2:-2, 2:-2]
        return float(np.square(shifted - clean[:, 2:-2, 2:-2]).mean())

    assert off(0, 0) < 0.2 * min(off(1, 0), off(-1, 0), off(0, 1), off(0, -1))
    # A shift by a fraction of a pixel would help one neighbour and hurt the other.
    assert off(1, 0) == pytest.approx(off(-1, 0), rel=0.15)
    assert off(0, 1) == pytest.approx(off(0, -1), rel=0.15)


def test_blur_and_noise_do_what_they_say() -> None:
    hr = gliding(4, 64, 96)
    sharp = deliver(Delivery(codec=NEARLY_LOSSLESS), hr).astype(float)
    blurred = deliver(Delivery(codec=NEARLY_LOSSLESS, blur=0.8), hr).astype(float)
    noisy = deliver(Delivery(codec=NEARLY_LOSSLESS, noise=8), hr).astype(float)
    detail = [np.abs(np.diff(clip, axis=2)).mean() for clip in (blurred, sharp, noisy)]
    assert detail[0] < 0.9 * detail[1] < 0.9 * detail[2]
    assert deliver(Delivery(codec=NEARLY_LOSSLESS, noise=8), hr, seed=1).tolist() != noisy.tolist()


def test_the_frames_that_go_in_are_compressed_without_those_in_between() -> None:
    hr = gliding(7, 64, 96)
    other = hr.copy()
    other[1::2] = 255 - other[1::2]
    delivery = Delivery(codec=H264(crf=30))
    one, two = deliver(delivery, hr), deliver(delivery, other)
    np.testing.assert_array_equal(one[::2], two[::2])
    assert not np.array_equal(one[1::2], two[1::2])
