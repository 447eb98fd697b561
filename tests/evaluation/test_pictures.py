"""Regions and sheets, on frames with a known answer."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from zsm.evaluation import pictures


def test_the_region_is_where_detail_moves(rng: np.random.Generator) -> None:
    still = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    frames = np.stack([still, still, still])
    # Two things move: a sharp patch, and a faint change of a large area.
    patch = rng.integers(0, 256, (3, 10, 12, 3), dtype=np.uint8)
    frames[:, 33:43, 61:73] = patch
    frames[1, :20] = np.clip(frames[1, :20].astype(int) + 3, 0, 255)
    region = pictures.moving_region(frames, 12, 10)
    assert (region.width, region.height) == (12, 10)
    assert abs(region.x - 61) <= 1
    assert abs(region.y - 33) <= 1


def test_a_region_is_no_larger_than_the_frame(rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (2, 8, 6, 3), dtype=np.uint8)
    region = pictures.moving_region(frames, 100, 100)
    assert region == pictures.Region(x=0, y=0, width=6, height=8)
    assert np.array_equal(region.of(frames[0]), frames[0])


def test_drawing_outlines_the_region_in_a_copy() -> None:
    frame = np.zeros((20, 30, 3), np.uint8)
    drawn = pictures.Region(x=5, y=4, width=10, height=8).drawn_on(frame)
    assert frame.max() == 0
    assert drawn[4, 5].tolist() == [255, 196, 0]
    assert drawn[11, 14].tolist() == [255, 196, 0]
    assert drawn[8, 10].max() == 0


def test_enlarging_repeats_pixels(rng: np.random.Generator) -> None:
    frame = rng.integers(0, 256, (3, 5, 3), dtype=np.uint8)
    large = pictures.enlarged(frame)
    assert large.shape == (12, 20, 3)
    for dy, dx in np.ndindex(4, 4):
        assert np.array_equal(large[dy::4, dx::4], frame)


@pytest.mark.parametrize(("encode", "tolerance"), [(pictures.png, 0), (pictures.jpeg, 8)])
def test_encoded_pictures_are_rgb(encode: object, tolerance: int) -> None:
    assert callable(encode)
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[..., 0] = 200
    data: bytes = encode(frame)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.abs(np.asarray(decoded, int)[..., ::-1] - frame).max() <= tolerance


def test_a_sheet_shows_its_pictures_in_rows(rng: np.random.Generator) -> None:
    def noise(height: int, width: int) -> NDArray[np.uint8]:
        return rng.integers(60, 256, (height, width, 3), dtype=np.uint8)

    rows = {"large": {"a": noise(20, 40), "b": noise(20, 40)}, "small": {"a": noise(10, 20), "b": noise(10, 20)}}
    sheet = pictures.sheet(rows, width=40)
    assert np.array_equal(sheet[-20:, :40], pictures.enlarged(rows["small"]["a"], 2))
    assert np.array_equal(sheet[-20:, -40:], pictures.enlarged(rows["small"]["b"], 2))
    height = 20 + 20
    above = sheet[: len(sheet) - height]
    assert above.shape[1] == sheet.shape[1] > 80
