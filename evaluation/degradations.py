"""Degradations of LR clips: section 4.3's noise and JPEG compression, and H.264, which real footage has met.

A degradation takes a clip (N,h,w,3) uint8 and a `numpy.random.Generator`, and returns a new clip. The result
depends on these two alone.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any, Literal, get_args

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from zsm.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from av.packet import Packet

Frames = NDArray[np.uint8]
Degradation = Callable[[Frames, np.random.Generator], Frames]
Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]

PORTABLE = "asm=sse2" if platform.machine().lower() in ("x86_64", "amd64") else "asm=0"
"""x264's parameters with which every processor encodes alike: SSE2 gives what plain C does.

Its AVX code differs from that, and its AVX-512 code even from itself: it reads memory that nothing was written to.
"""


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
        if not 0 <= self.sigma < inf:
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


@dataclass(frozen=True, kw_only=True)
class H264:
    """H.264 compression of the whole clip by x264, in 4:2:0 with motion compensation and B-frames.

    crf: constant rate factor, 0 (best) to 51. Streaming services and cameras are around 18 to 35.
    preset: x264's trade of speed for size.
    """

    crf: int
    preset: Preset = "medium"

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ArgumentError(f"H.264 CRF must be 0 to 51, got {self.crf}")
        if self.preset not in get_args(Preset):
            raise ArgumentError(f"unknown x264 preset {self.preset!r}; choose from {', '.join(get_args(Preset))}")

    def __str__(self) -> str:
        return f"H.264 at CRF {self.crf} ({self.preset})"

    def __call__(self, clip: Frames, rng: np.random.Generator) -> Frames:
        """Return the compressed and decompressed clip; draws nothing from `rng`."""
        height, width = clip.shape[1:3]
        # 4:2:0 needs even sides.
        even = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        decoded = np.stack(list(self._decode(self._encode(even))))
        if len(decoded) != len(clip):
            raise DataError(f"{self} returned {len(decoded)} of {len(clip)} frames")
        return np.ascontiguousarray(decoded[:, :height, :width])

    def _encode(self, clip: Frames) -> Iterator["Packet[Any]"]:
        encoder = av.VideoCodecContext.create("libx264", "w")
        encoder.height, encoder.width = clip.shape[1:3]
        encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", Fraction(25), Fraction(1, 25)
        # The number of threads changes the result.
        encoder.options = {"crf": str(self.crf), "preset": self.preset, "threads": "1", "x264-params": PORTABLE}
        for number, pixels in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            yield from encoder.encode(frame.reformat(format="yuv420p"))
        yield from encoder.encode(None)

    def _decode(self, packets: Iterator["Packet[Any]"]) -> Iterator[Frames]:
        decoder = av.VideoCodecContext.create("h264", "r")
        for packet in chain(packets, [None]):
            for frame in decoder.decode(packet):
                yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def parse(text: str) -> Degradation:
    """Read `noise`, `noise:SIGMA`, `jpeg:QUALITY` or `h264:CRF`.

    Raises ArgumentError if it is none of these, or a value is out of range.
    """
    kind, _, value = text.partition(":")
    try:
        if kind == "noise":
            return Noise(sigma=float(value)) if value else Noise()
        if kind == "jpeg":
            return Jpeg(quality=int(value))
        if kind == "h264":
            return H264(crf=int(value))
    except ArgumentError:
        raise
    except ValueError:
        pass
    raise ArgumentError(f"unknown degradation {text!r}: give noise, noise:SIGMA, jpeg:QUALITY or h264:CRF")
