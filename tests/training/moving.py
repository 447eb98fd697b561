"""Synthetic footage: a moving texture."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


def texture(height: int, width: int, seed: int) -> NDArray[np.float64]:
    """Make tinted noise with detail at several scales, (H,W,3) in [0, 1]."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.random((max(height // size, 2), max(width // size, 2))), (width, height), interpolation=3)
        for size in (3, 8, 24)
    ]
    mixed = np.mean(layers, axis=0)
    return np.asarray((mixed - mixed.min()) / np.ptp(mixed))[..., None] * rng.uniform(0.5, 1, 3)


def gliding(frames: int, height: int, width: int, seed: int = 0, speed: float = 1.5) -> Frames:
    """Make RGB frames (N,H,W,3) uint8 of a texture that moves by (speed, speed/2) pixels per frame."""
    image = texture(height, width, seed)
    moved = [
        cv2.warpAffine(
            image,
            np.array([[1, 0, speed * t], [0, 1, speed * t / 2]]),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        for t in range(frames)
    ]
    return np.round(np.clip(moved, 0, 1) * 255).astype(np.uint8)


def write_clip(folder: Path, frames: Frames) -> None:
    """Write frames as PNG files im1.png, im2.png, ..."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        assert cv2.imwrite(str(folder / f"im{number}.png"), np.ascontiguousarray(frame[..., ::-1]))
