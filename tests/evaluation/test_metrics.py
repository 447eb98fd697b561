"""PSNR, SSIM and luma against scikit-image; temporal consistency by its properties."""

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from zsm.errors import FrameError
from zsm.evaluation import metrics


def pair(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8)
    return metrics.luma(a), metrics.luma(b)


@pytest.mark.parametrize(
    ("rgb", "y"), [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481), ((0, 0, 255), 40.966)]
)
def test_luma_of_known_colours(rgb: tuple[int, int, int], y: float) -> None:
    assert metrics.luma(np.array([[rgb]], np.uint8))[0, 0] == pytest.approx(y, abs=1e-9)


def test_luma_equals_scikit_images(rng: np.random.Generator) -> None:
    frame = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    assert np.abs(metrics.luma(frame) - rgb2ycbcr(frame)[..., 0]).max() < 1e-9


@pytest.mark.parametrize("shape", [(11, 11), (48, 61), (64, 96)])
def test_psnr_and_ssim_equal_scikit_images(shape: tuple[int, int], rng: np.random.Generator) -> None:
    a, b = pair(rng, shape)
    reference = peak_signal_noise_ratio(a, b, data_range=255)  # type: ignore[no-untyped-call]
    assert metrics.psnr(a, b) == pytest.approx(reference, abs=1e-4)
    reference = structural_similarity(  # type: ignore[no-untyped-call]
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert metrics.ssim(a, b) == pytest.approx(reference, abs=1e-4)


def test_equal_frames(rng: np.random.Generator) -> None:
    a, _ = pair(rng, (16, 16))
    assert metrics.psnr(a, a) == float("inf")
    assert metrics.ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_flicker_costs_temporal_psnr_and_a_constant_error_does_not(rng: np.random.Generator) -> None:
    truth, _ = pair(rng, (5, 16, 16))
    flicker = np.where(np.arange(5) % 2, 4.0, 0.0)[:, None, None]
    constant = truth + rng.normal(0, 9, (16, 16))
    assert metrics.temporal_psnr(constant, truth) > 200
    # Every frame-to-frame change is off by 4.
    assert metrics.temporal_psnr(truth + flicker, truth) == pytest.approx(10 * np.log10(255**2 / 16))


def test_one_frame_has_no_temporal_psnr() -> None:
    assert np.isnan(metrics.temporal_psnr([np.zeros((4, 4))], [np.zeros((4, 4))]))


def test_invalid_frames_are_rejected() -> None:
    with pytest.raises(FrameError, match=r"\(4, 4\) and \(4, 5\)"):
        metrics.psnr(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(FrameError, match="at least 11x11, got 20x10"):
        metrics.ssim(np.zeros((10, 20)), np.zeros((10, 20)))
    with pytest.raises(FrameError, match="got float64"):
        metrics.luma(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
