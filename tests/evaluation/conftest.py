from pathlib import Path

import cv2
import numpy as np
import pytest

from zsm.evaluation import layouts


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


class ClipWriter:
    """Writes clips of a ball moving over a smooth background, as folders of PNGs under `root`."""

    def __init__(self, root: Path, rng: np.random.Generator) -> None:
        self.root = root
        self._rng = rng

    def __call__(self, name: str, frames: int, size: tuple[int, int]) -> layouts.Clip:
        """Write a clip of `size` WxH; below about 12x18 the ball is outside the frame, and nothing moves."""
        folder = self.root / name
        folder.mkdir(parents=True)
        noise = self._rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        background = cv2.GaussianBlur(noise, (0, 0), 2)
        for number in range(frames):
            frame = cv2.circle(background.copy(), (10 + 5 * number, 25), 8, (0, 0, 255), -1)
            assert cv2.imwrite(str(folder / f"{number:03}.png"), frame)
        return layouts.Clip(name=name, source=folder)


@pytest.fixture
def write_clip(tmp_path: Path, rng: np.random.Generator) -> ClipWriter:
    return ClipWriter(tmp_path / "data", rng)
