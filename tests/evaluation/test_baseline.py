"""The baseline against its definition."""

import numpy as np

from zsm.evaluation import baseline, bicubic


def test_original_frames_are_enlarged_and_interpolated_ones_averaged(rng: np.random.Generator) -> None:
    clip = rng.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    restored = baseline.enlarge_and_average(clip)
    assert restored.shape == (5, 24, 32, 3)
    assert np.array_equal(restored[::2], bicubic.resize(clip, 4))
    enlarged = bicubic.resize(clip.astype(np.float64), 4)
    between = np.clip((enlarged[:-1] + enlarged[1:]) / 2, 0, 255)
    assert np.abs(restored[1::2] - between).max() <= 0.5 + 1e-4


def test_one_frame_gives_one() -> None:
    grey = np.full((1, 5, 7, 3), 77, np.uint8)
    assert np.array_equal(baseline.enlarge_and_average(grey), np.full((1, 20, 28, 3), 77, np.uint8))
