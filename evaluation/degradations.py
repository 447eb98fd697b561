"""What section 4.3 does to LR frames: random noise, or JPEG compression. Off unless asked for, seeded.

A degradation is called with a clip (N,h,w,3) uint8 and a `numpy.random.Generator`, and returns a new clip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from zsm.errors import ArgumentError

Frames = NDArray[np.uint8]
Degradation = Callable[[Frames, np.random.Generator], Frames]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise mixed with salt-and-pepper noise.

    sigma: standard deviation in 8-bit levels, of every channel apart. The paper gives none but follows
        ToFlow, whose published noise generator uses a tenth of full scale.
    salt_and_pepper: share of the pixels that then turn white or black, at even odds. (ToFlow's generator
        gives such pixels a random colour instead; the paper's text says salt and pepper.)
    """

    sigma: float = 25.5
    salt_and_pepper: float = 0.1

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise ArgumentError(f"noise of sigma {self.sigma}: give 0 or more, in 8-bit levels")
        if not 0 <= self.salt_and_pepper <= 1:
            raise ArgumentError(f"salt-and-pepper share {self.salt_and_pepper}: give 0 to 1")

    def __str__(self) -> str:
        return f"Gaussian noise of sigma {self.sigma:g} and {self.salt_and_pepper:.0%} salt and pepper"

    def __call__(self, clip: Frames, rng: np.random.Generator) -> Frames:
        """The noisy clip."""
        noisy = np.rint(clip + rng.normal(0, self.sigma, clip.shape))
        noisy = np.clip(noisy, 0, 255).astype(np.uint8)
        hit = rng.random(clip.shape[:-1]) < self.salt_and_pepper
        noisy[hit] = rng.choice(np.array([0, 255], np.uint8), (np.count_nonzero(hit), 1))
        return noisy


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """JPEG compression of every frame, as OpenCV's encoder does it (chroma halved both ways).

    quality: 1 (worst) to 100. The paper uses 10, 20, 30 and 40.
    """

    quality: int

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ArgumentError(f"JPEG quality {self.quality}: give 1 to 100")

    def __str__(self) -> str:
        return f"JPEG of quality {self.quality}"

    def __call__(self, clip: Frames, rng: np.random.Generator) -> Frames:
        """The compressed and decompressed clip; nothing is drawn from `rng`."""
        return np.stack([self._compress(frame) for frame in clip])

    def _compress(self, frame: Frames) -> Frames:
        bgr = np.ascontiguousarray(frame[..., ::-1])
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return np.ascontiguousarray(decoded[..., ::-1])


def parse(text: str) -> Degradation:
    """`noise`, `noise:SIGMA` or `jpeg:QUALITY` -> the degradation."""
    kind, _, value = text.partition(":")
    try:
        if kind == "noise":
            return Noise(sigma=float(value)) if value else Noise()
        if kind == "jpeg":
            return Jpeg(quality=int(value))
    except ValueError:
        pass
    raise ArgumentError(f"unknown degradation {text!r}: give noise, noise:SIGMA or jpeg:QUALITY")
