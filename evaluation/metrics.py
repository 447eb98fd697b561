"""The metrics of the paper's tables, on luma on the 8-bit scale, with no border cropped.

Luma is ITU-R BT.601's in studio range, computed from 8-bit RGB and not rounded.
"""

from collections.abc import Iterable
from itertools import pairwise
from math import inf, log10, nan

import numpy as np
from numpy.typing import NDArray

from zsm.errors import FrameError

Luma = NDArray[np.float64]

_PEAK = 255.0
_SSIM_SIDE, _SSIM_SIGMA = 11, 1.5
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def luma(frame: NDArray[np.uint8]) -> Luma:
    """Convert RGB (...,H,W,3) uint8 to luma (...,H,W) float64 in [16, 235]. Raises FrameError for other arrays."""
    if frame.dtype != np.uint8 or frame.shape[-1:] != (3,):
        raise FrameError(f"luma needs RGB frames (...,H,W,3) uint8, got {frame.dtype} {frame.shape}")
    return 16 + frame @ (np.array([65.481, 128.553, 24.966]) / 255)


def psnr(a: Luma, b: Luma) -> float:
    """Peak signal-to-noise ratio in dB of two luma images, infinite if they are equal.

    Raises FrameError if their shapes differ.
    """
    _same_shape(a, b)
    return _decibels(float(np.mean(np.square(a - b))))


def ssim(a: Luma, b: Luma) -> float:
    """Structural similarity of two luma images (H,W) (Wang et al., 2004).

    11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, averaged over the positions where the window lies
    inside the image. Raises FrameError if the shapes differ or the images are smaller than 11x11.
    """
    _same_shape(a, b)
    if min(a.shape) < _SSIM_SIDE:
        raise FrameError(f"SSIM needs frames of at least 11x11, got {a.shape[1]}x{a.shape[0]}")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return float(np.mean(numerator / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))))


def temporal_psnr(a: Iterable[Luma], b: Iterable[Luma]) -> float:
    """Temporal consistency in dB of two clips of luma images (H,W): the PSNR of frame-to-frame changes.

    Compares a[t+1]-a[t] with b[t+1]-b[t], over all t at once. An error that is the same in every frame (a
    constant blur) costs nothing; flicker, pulsing sharpness and wrong motion do. NaN for fewer than two frames.
    """
    errors = (one - other for one, other in zip(a, b, strict=True))
    changes = [float(np.mean(np.square(after - before))) for before, after in pairwise(errors)]
    return _decibels(sum(changes) / len(changes)) if changes else nan


def _decibels(mean_square: float) -> float:
    return 10 * log10(_PEAK**2 / mean_square) if mean_square > 0 else inf


def _blur(image: Luma) -> Luma:
    import cv2  # here, so that importing the metrics loads no video library

    kernel = cv2.getGaussianKernel(_SSIM_SIDE, _SSIM_SIGMA)
    half = _SSIM_SIDE // 2
    blurred = cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel)[half:-half, half:-half]
    return np.asarray(blurred, np.float64)


def _same_shape(a: Luma, b: Luma) -> None:
    if a.shape != b.shape:
        raise FrameError(f"can't compare frames of different shapes: {a.shape} and {b.shape}")
