"""Bicubic resizing as in MATLAB's `imresize`, with which the literature makes its LR frames.

Keys' cubic kernel with a = -0.5, widened by the factor when shrinking (antialiasing), half-pixel centres,
borders mirrored with the edge pixel repeated. OpenCV (a = -0.75, no antialiasing) and Pillow (truncated at the
borders, rounded between the passes) give clearly different frames.
"""

from functools import lru_cache
from math import ceil, inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsm.errors import ArgumentError, ArgumentTypeError, FrameError


def resize(image: NDArray[Any], scale: float) -> NDArray[Any]:
    """Resize images (H,W) or (...,H,W,C) to ceil(scale*H) by ceil(scale*W), keeping the dtype.

    Floats are returned unclipped. Integers are computed in float64, clipped to their range and rounded once,
    halves up: MATLAB's `im2uint8(imresize(im2double(image), scale))`. Raises ArgumentError for a scale that is
    not positive and finite, ArgumentTypeError for anything but integers and floats, and FrameError for an empty
    image or another shape.
    """
    if not 0 < scale < inf:
        raise ArgumentError(f"can't resize by {scale}: the scale must be a finite number above 0")
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "iuf":
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ArgumentTypeError(f"can't resize {kind}: pass a NumPy array of integers or floats")
    if image.ndim < 2 or image.size == 0:
        raise FrameError(f"can't resize an array of shape {image.shape}: expected (H,W) or (...,H,W,C), not empty")
    if image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        real = _resize_float(image.astype(np.float64), scale)
        return np.clip(np.floor(real + 0.5), limits.min, limits.max).astype(image.dtype)
    return _resize_float(image, scale)


def weights(length: int, scale: float) -> NDArray[np.float64]:
    """Return the matrix (ceil(scale*length), length) that resizes one axis. Rows sum to 1; read-only."""
    return _weights(int(length), float(scale))


@lru_cache(maxsize=64)
def _weights(length: int, scale: float) -> NDArray[np.float64]:
    out = ceil(length * scale)
    stretch = min(scale, 1.0)
    reach = 2 / stretch
    centres = (np.arange(out) + 0.5) / scale - 0.5
    taps = np.floor(centres - reach).astype(int)[:, None] + np.arange(ceil(2 * reach) + 2)
    values = _cubic((centres[:, None] - taps) * stretch)
    # The mirrored image has period 2*length; several taps may fold onto one pixel.
    folded = taps % (2 * length)
    folded = np.where(folded < length, folded, 2 * length - 1 - folded)
    matrix = np.zeros((out, length))
    np.add.at(matrix, (np.arange(out)[:, None], folded), values)
    matrix /= matrix.sum(axis=1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _resize_float(image: NDArray[Any], scale: float) -> NDArray[Any]:
    planes = np.moveaxis(image, -1, -3) if image.ndim > 2 else image
    rows = weights(planes.shape[-2], scale).astype(image.dtype)
    columns = weights(planes.shape[-1], scale).astype(image.dtype)
    resized = rows @ np.ascontiguousarray(planes) @ columns.T
    return np.ascontiguousarray(np.moveaxis(resized, -3, -1)) if image.ndim > 2 else resized
