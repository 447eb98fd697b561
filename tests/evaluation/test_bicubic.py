"""`imresize` against its definition, values worked out by hand, Pillow, and LR frames made by another program."""

from math import ceil, floor
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from zsm.errors import ArgumentError, ArgumentTypeError, FrameError
from zsm.evaluation import bicubic


def keys(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def mirrored(i: int, n: int) -> int:
    while not 0 <= i < n:
        i = -1 - i if i < 0 else 2 * n - 1 - i
    return i


def naive(image: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Compute every output pixel as a double sum over the mirrored plane, straight from the definition."""
    height, width = image.shape
    out = np.zeros((ceil(height * scale), ceil(width * scale)))
    stretch = min(scale, 1)
    for y, x in np.ndindex(*out.shape):
        cy, cx = (y + 0.5) / scale - 0.5, (x + 0.5) / scale - 0.5
        reach = 2 / stretch
        value = total = 0.0
        for j in range(floor(cy - reach), ceil(cy + reach) + 1):
            for i in range(floor(cx - reach), ceil(cx + reach) + 1):
                weight = keys((cy - j) * stretch) * keys((cx - i) * stretch)
                value += weight * image[mirrored(j, height), mirrored(i, width)]
                total += weight
        out[y, x] = value / total
    return out


@pytest.mark.parametrize("scale", [0.25, 4, 2, 1, 0.3, 1.7])
@pytest.mark.parametrize("shape", [(16, 20), (5, 9), (1, 3)])
def test_resizing_follows_the_definition(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> None:
    image = rng.random(shape)
    assert np.abs(bicubic.resize(image, scale) - naive(image, scale)).max() < 1e-12


def test_an_impulse_shrinks_to_known_weights() -> None:
    # Taps at 1/2, 3/2, ... 15/2 pixels from the centre, a quarter of that on the kernel, times 4 * 1024.
    half = [987, 745, 399, 93, -49, -75, -45, -7]
    assert sum(half) * 2 == 4096
    assert np.array_equal(bicubic.weights(64, 0.25)[8, 26:42] * 4096, half[::-1] + half)


def test_a_step_enlarges_to_known_values() -> None:
    # Keys' kernel is 111/128, 29/128, -9/128 and -3/128 at 1/4, 3/4, 5/4 and 7/4.
    step = np.array([[0.0, 0, 0, 1, 1, 1]])
    expected = [0, 0, 0, -3, -9, 26, 102, 137, 131, 128, 128, 128]
    assert np.array_equal(bicubic.resize(step, 2)[0] * 128, expected)


def test_integers_are_clipped_and_rounded_once(rng: np.random.Generator) -> None:
    clip = rng.integers(0, 256, (2, 12, 16, 3), dtype=np.uint8)
    for scale in (0.25, 4):
        for frame, resized in zip(clip, bicubic.resize(clip, scale), strict=True):
            for channel in range(3):
                real = naive(frame[..., channel].astype(np.float64), scale)
                expected = np.clip(np.floor(real + 0.5), 0, 255)
                assert np.array_equal(resized[..., channel], expected)


def test_halves_round_up() -> None:
    image = np.array([[0, 1]], np.uint8).repeat(2, axis=0)
    assert bicubic.resize(image, 0.5).tolist() == [[1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_the_dtype_is_kept(dtype: type) -> None:
    assert bicubic.resize(np.full((8, 8, 3), 1, dtype), 4).dtype == dtype


def test_pillow_agrees_away_from_the_borders(rng: np.random.Generator) -> None:
    image = rng.random((64, 80), np.float32)
    pillow = np.asarray(Image.fromarray(image).resize((20, 16), Image.Resampling.BICUBIC))
    assert np.abs(bicubic.resize(image, 0.25) - pillow)[2:-2, 2:-2].max() < 1e-5


def test_lr_frames_made_by_another_program_are_reproduced(clips: Path) -> None:
    paths = sorted(clips.glob("demo/septuplets/*/HR_*.png"))
    assert paths
    for hr_path in paths:
        lr_path = hr_path.with_name(hr_path.name.replace("HR", "LR"))
        hr, lr = cv2.imread(str(hr_path)), cv2.imread(str(lr_path))
        assert hr is not None
        assert lr is not None
        assert np.array_equal(bicubic.resize(hr, 0.25), lr), lr_path


@pytest.mark.parametrize("scale", [0, -1, float("inf"), float("nan")])
def test_invalid_scales_are_rejected(scale: float) -> None:
    with pytest.raises(ArgumentError, match="can't resize by"):
        bicubic.resize(np.zeros((4, 4)), scale)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (4, 4, 0)])
def test_invalid_shapes_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(FrameError, match="can't resize an array of shape"):
        bicubic.resize(np.zeros(shape), 2)


@pytest.mark.parametrize(
    ("image", "kind"), [([[1, 2]], "list"), (np.ones((4, 4), bool), "bool"), (np.ones((4, 4), complex), "complex128")]
)
def test_wrong_types_are_rejected(image: NDArray[np.uint8], kind: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"can't resize {kind}"):
        bicubic.resize(image, 2)
