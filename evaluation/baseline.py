"""The baseline that a network has to beat: bicubic enlargement in space, frame averaging in time."""

import numpy as np
from numpy.typing import NDArray

from zsm.evaluation import bicubic


def enlarge_and_average(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge LR frames (N,h,w,3) uint8, N >= 1, and average neighbours: (2N-1,4h,4w,3) uint8.

    An interpolated frame is the enlarged mean of its two neighbours, rounded once: what a network with base
    `bicubic` computes when its residual is zero.
    """
    frames, height, width, channels = clip.shape
    restored = np.empty((2 * frames - 1, 4 * height, 4 * width, channels), np.uint8)
    for index in range(len(restored)):
        before, after = clip[index // 2], clip[(index + 1) // 2]
        enlarged = bicubic.resize((before.astype(np.float32) + after) / 2, 4)
        restored[index] = np.clip(np.floor(enlarged + 0.5), 0, 255)
    return restored
