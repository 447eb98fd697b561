"""Makes LR clips as cameras, resizers and encoders leave them.

Whole clips are compressed, not crops: an encoder distributes bits over the whole picture, and predicts from places that
a crop doesn't contain.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from zsm.evaluation.degradations import H264, Preset
from zsm.runtime import SCALE

Frames = NDArray[np.uint8]
Resizer = Literal["matlab", "bilinear", "bicubic", "area", "lanczos"]

PRESETS: tuple[Preset, ...] = ("ultrafast", "veryfast", "medium", "slow")


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One way from HR frames to the LR frames that a user has."""

    codec: H264
    resizer: Resizer = "matlab"
    """`matlab` is the bicubic of `zsm.evaluation.bicubic`; the others are libswscale's."""
    blur: float = 0.0
    """Standard deviation of a Gaussian, in LR pixels; 0 leaves the frames sharp."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, in 8-bit levels."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Delivery":
        """Draw CRF 18 to 35, and with a probability of a third each another resizer, slight blur and mild noise."""
        other, blurred, noisy = rng.random(3) < 1 / 3
        return cls(
            codec=H264(crf=int(rng.integers(18, 36)), preset=PRESETS[rng.integers(len(PRESETS))]),
            resizer=get_args(Resizer)[rng.integers(1, len(get_args(Resizer)))] if other else "matlab",
            blur=float(rng.uniform(0.3, 0.8)) if blurred else 0.0,
            noise=float(rng.uniform(1, 5)) if noisy else 0.0,
        )

    def __call__(self, hr: Frames, clean: Frames, rng: np.random.Generator) -> Frames:
        """Turn HR frames (N,H,W,3) and their bicubic reduction (N,H/4,W/4,3) into LR frames of the same shape."""
        shrunk = clean if self.resizer == "matlab" else [_shrink(frame, self.resizer) for frame in hr]
        lr = np.stack([self._shoot(frame, rng) for frame in shrunk])
        # The network gets every second frame of a septuplet: those were neighbours when they were encoded.
        for half in (slice(0, None, 2), slice(1, None, 2)):
            if len(lr[half]):
                lr[half] = self.codec(lr[half], rng)
        return lr

    def _shoot(self, lr: Frames, rng: np.random.Generator) -> Frames:
        if self.blur:
            lr = cv2.GaussianBlur(lr, (0, 0), self.blur).astype(np.uint8)
        if self.noise:
            lr = np.clip(np.rint(lr + rng.normal(0, self.noise, lr.shape)), 0, 255).astype(np.uint8)
        return lr


def _shrink(frame: Frames, resizer: Resizer) -> Frames:
    height, width = (side // SCALE for side in frame.shape[:2])
    source = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    shrunk = source.reformat(width=width, height=height, interpolation=resizer.upper())
    return shrunk.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
