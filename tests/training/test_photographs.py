"""Training clips made of photographs, read back with PyAV."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from tests.training.moving import Frames, texture

from zsm.errors import ArgumentError, DataError
from zsm.training.photographs import HEIGHT, LENGTH, OVERSAMPLING, WIDTH, Layer, Motion, make_clips


def photograph(width: int, height: int, seed: int) -> Frames:
    return np.round(texture(height, width, seed) * 255).astype(np.uint8)


def read(clip: Path) -> Frames:
    with av.open(clip) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed, size in enumerate(((1600, 900), (1200, 1000))):
        assert cv2.imwrite(str(folder / f"{seed}.png"), photograph(*size, seed)[..., ::-1])
    return folder


def test_each_photograph_becomes_moving_clips_the_same_every_time(photographs: Path, tmp_path: Path) -> None:
    make_clips(photographs, tmp_path / "one", 2)
    make_clips(photographs, tmp_path / "two", 2, workers=2)
    names = ["0.png_1.mkv", "0.png_2.mkv", "1.png_1.mkv", "1.png_2.mkv"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    clips = [read(tmp_path / "one" / name) for name in names]
    assert all(clip.shape == (LENGTH, HEIGHT, WIDTH, 3) for clip in clips)
    assert all((np.diff(clip.astype(int), axis=0) != 0).any((1, 2, 3)).all() for clip in clips)
    np.testing.assert_array_equal(clips[1], read(tmp_path / "two" / names[1]))
    assert len({clip.tobytes() for clip in clips}) == 4


def test_photographs_that_differ_in_suffix_alone_become_different_clips(photographs: Path, tmp_path: Path) -> None:
    (photographs / "1.png").rename(photographs / "0.jpg")
    (photographs / "._0.jpg").write_bytes(b"what macOS leaves beside a file")
    make_clips(photographs, tmp_path / "clips", 1)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["0.jpg_1.mkv", "0.png_1.mkv"]


@pytest.mark.parametrize(("each", "workers", "message"), [(0, 0, "0 clips of each"), (1, -1, "-1 workers; give 0")])
def test_numbers_that_are_too_small_are_rejected(
    each: int, workers: int, message: str, photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_clips(photographs, tmp_path / "clips", each, workers)


@pytest.mark.parametrize("velocity", [(3, 0), (-1.5, 2.5), (0.5, -1)])
def test_a_layer_moves_at_its_velocity(velocity: tuple[float, float]) -> None:
    motion = Motion(velocity=velocity, acceleration=(0, 0), zoom=0, turn=0)
    layer = Layer(picture=photograph(1600, 1200, 3), shape=None, place=(WIDTH / 2, HEIGHT / 2), motion=motion)
    blank = np.zeros((OVERSAMPLING * HEIGHT, OVERSAMPLING * WIDTH, 3), np.uint8)
    x, y = (int(OVERSAMPLING * pixels) for pixels in velocity)
    moved = np.roll(layer.draw(blank, 0.0), (y, x), (0, 1))
    inside = np.s_[20:-20, 20:-20]
    np.testing.assert_array_equal(layer.draw(blank, 1.0)[inside], moved[inside])


def test_a_still_layer_shows_its_picture_at_half_size() -> None:
    picture = photograph(OVERSAMPLING * WIDTH, OVERSAMPLING * HEIGHT, 4)
    still = Motion(velocity=(0, 0), acceleration=(0, 0), zoom=0, turn=0)
    layer = Layer(picture=picture, shape=None, place=(WIDTH / 2, HEIGHT / 2), motion=still)
    np.testing.assert_array_equal(layer.draw(np.zeros_like(picture), 5.0), picture)


def test_a_piece_covers_what_is_behind_it_within_its_shape() -> None:
    white = np.full((100, 100, 3), 255, np.uint8)
    shape = np.zeros((100, 100), np.uint8)
    shape[20:80, 20:80] = 255
    still = Motion(velocity=(0, 0), acceleration=(0, 0), zoom=0, turn=0)
    view = Layer(picture=white, shape=shape, place=(100, 80), motion=still).draw(np.zeros((400, 600, 3), np.uint8), 0.0)
    expected = np.zeros((400, 600, 3), np.uint8)
    expected[130:190, 170:230] = 255
    np.testing.assert_array_equal(view, expected)


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in"):
        make_clips(tmp_path, tmp_path / "clips", 1)
