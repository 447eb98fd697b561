"""Decoded frames to RGB arrays and back, in the bit depth and colour description of the video.

libswscale resamples chroma and changes the bit depth, both of which it does exactly. The matrix is applied here:
beyond 8 bits, libswscale's own conversion maps white to 65280 instead of 65535, an error of several codes.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Colorspace, Interpolation
from numpy.typing import NDArray

from zsm.errors import ArgumentError, VideoError

Codes = NDArray[Any]
"""Pixels (h,w,3) or (h,w), uint8 or uint16."""

UNSPECIFIED = 2
"""The tag for an unknown matrix, primaries or transfer (ITU-T H.273)."""
RGB = 0
BT709 = 1
BT601 = 6
BT2020 = 9
SRGB = 13
PQ = 16
HLG = 18
LIMITED_RANGE, FULL_RANGE = 1, 2

LUMA_WEIGHTS = {
    BT709: (0.2126, 0.0722),
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.470 BG, the same as BT.601
    BT601: (0.299, 0.114),
    7: (0.212, 0.087),  # SMPTE 240M
    BT2020: (0.2627, 0.0593),
}
"""The weights of red and blue in luma, by matrix (ITU-T H.273, table 4)."""

SCALER = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


@dataclass(frozen=True, kw_only=True)
class Colour:
    """How a video encodes colours. Tags are the code points of ITU-T H.273. Raises VideoError if unsupported."""

    matrix: int
    full_range: bool
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    bits: int = 8

    def __post_init__(self) -> None:
        if self.matrix != RGB and self.matrix not in LUMA_WEIGHTS:
            raise VideoError(
                f"the video's colour matrix (code {self.matrix} of ITU-T H.273) isn't supported; convert it first, "
                "for example with ffmpeg -vf zscale=matrix=709"
            )
        if not 1 <= self.bits <= 16:
            raise VideoError(f"a depth of {self.bits} bits isn't supported; give 8 to 16")

    @property
    def hdr(self) -> bool:
        """Whether the transfer is PQ or HLG."""
        return self.transfer in (PQ, HLG)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The smallest dtype of RGB arrays that holds such a video's codes."""
        return np.uint8 if self.bits <= 8 else np.uint16

    def encoded(self, target: av.VideoFormat) -> "Colour":
        """Describe the same colours stored in another pixel format."""
        bits = _bits(target)
        if is_rgb(target):
            return replace(self, matrix=RGB, full_range=True, bits=bits)
        if self.matrix == RGB:
            return replace(self, matrix=BT709, full_range=_is_full(target), bits=bits)
        return replace(self, full_range=self.full_range or _is_full(target), bits=bits)


def describe(frame: av.VideoFrame) -> Colour:
    """Describe a decoded frame's colours.

    A missing matrix is guessed from the size, as players do: BT.601 up to 576 lines, else BT.709. It has to be written
    to the output, because at another size the guess would be another. Grey of unknown range is full, as in FFmpeg.
    """
    bits = _bits(frame.format)
    matrix = RGB if is_rgb(frame.format) else frame.colorspace
    if matrix == UNSPECIFIED or (matrix == RGB and not is_rgb(frame.format)):
        matrix = BT601 if frame.height <= 576 and frame.width <= 1024 else BT709
    grey = is_grey(frame.format) and frame.color_range != LIMITED_RANGE
    full = frame.color_range == FULL_RANGE or _is_full(frame.format) or matrix == RGB or grey
    return Colour(
        matrix=matrix,
        full_range=full,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        bits=bits,
    )


def _bits(pixel_format: av.VideoFormat) -> int:
    """The bits of a component, at least 8."""
    return max(8, *(component.bits for component in pixel_format.components))


def _is_full(pixel_format: av.VideoFormat) -> bool:
    """Whether a pixel format of YCbCr has full range by its name."""
    return pixel_format.name.startswith("yuvj")


def is_rgb(pixel_format: av.VideoFormat) -> bool:
    """Whether a pixel format stores red, green and blue."""
    return bool(pixel_format.is_rgb) or pixel_format.has_palette


def is_grey(pixel_format: av.VideoFormat) -> bool:
    """Whether a pixel format stores luma only."""
    return pixel_format.name.startswith(("gray", "ya8", "ya16", "mono"))


def video_format(name: str) -> av.VideoFormat:
    """Find a pixel format by its name; raises ArgumentError if it is unknown or can't be written."""
    try:
        found = av.VideoFormat(name)
    except ValueError as error:
        raise ArgumentError(f"there is no pixel format {name!r}; use one like yuv420p10le") from error
    if found.has_palette or len(found.components) not in (1, 3) or name.startswith("xyz") or not _is_converted(name):
        raise ArgumentError(
            f"the pixel format {name} isn't supported (no palettes, no alpha, no GPU memory); use one like yuv420p10le"
        )
    return found


def _is_converted(name: str) -> bool:
    """Whether libswscale converts a pixel format both ways."""
    try:
        av.VideoFrame(16, 16, "rgb24").reformat(format=name).reformat(format="rgb24")
    except FFmpegError:
        return False
    return True


def to_rgb(frame: av.VideoFrame, colour: Colour) -> Codes:
    """Convert a decoded frame to full-range RGB (h,w,3) of colour.dtype."""
    wide = colour.bits > 8
    if is_grey(frame.format):
        codes = _grey_codes(frame, colour.bits)
    elif is_rgb(frame.format):
        codes = _rgb_codes(frame, colour.bits)
    else:
        codes = _reformat(frame, "yuv444p16le" if wide else "yuv444p").to_ndarray(channel_last=True)
    return _transform(codes, to_rgb_matrix(colour))


def from_rgb(pixels: Codes, colour: Colour, pixel_format: str) -> av.VideoFrame:
    """Convert full-range RGB (h,w,3) to a frame of `pixel_format`, which has colour.bits bits per component."""
    target = av.VideoFormat(pixel_format, pixels.shape[1], pixels.shape[0])
    wide = colour.bits > 8
    if wide and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    if not wide and pixels.dtype == np.uint16:
        pixels = narrow(pixels)
    codes = _transform(pixels, from_rgb_matrix(colour))
    if is_grey(target):
        name = f"gray{colour.bits}le" if wide else "gray"
        source = av.VideoFrame.from_ndarray(_shift_down(np.ascontiguousarray(codes[..., 0]), colour.bits), format=name)
    elif is_rgb(target):
        name = {8: "rgb24", 16: "rgb48le"}.get(colour.bits, f"gbrp{colour.bits}le")
        source = av.VideoFrame.from_ndarray(_shift_down(codes, colour.bits), format=name)
    else:
        name = "yuv444p16le" if wide else "yuv444p"
        source = av.VideoFrame.from_ndarray(codes, format=name, channel_last=True)
    frame = source if name == pixel_format else _reformat(source, pixel_format)
    tag(frame, colour)
    return frame


def tag(target: Any, colour: Colour) -> None:
    """Write the colour description on a frame or an encoder."""
    target.colorspace = colour.matrix
    target.color_range = FULL_RANGE if colour.full_range else LIMITED_RANGE
    target.color_primaries = colour.primaries
    target.color_trc = colour.transfer


@cache
def to_rgb_matrix(colour: Colour) -> NDArray[np.float64]:
    """The affine map (3,4) from a video's codes to RGB codes, both of 8 or both of 16 bits.

    Codes of 9 to 15 bits occupy the upper bits of 16.
    """
    wide = colour.bits > 8
    top, unit = (65535.0, 256.0) if wide else (255.0, 1.0)
    largest = (2.0**colour.bits - 1) * 2.0 ** (16 - colour.bits) if wide else 255.0
    if colour.matrix == RGB:
        return np.hstack([np.eye(3) * (top / largest), np.zeros((3, 1))])
    red, blue = LUMA_WEIGHTS[colour.matrix]
    green = 1 - red - blue
    linear = np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )
    black = 0.0 if colour.full_range else 16 * unit
    luma, chroma = (largest, largest) if colour.full_range else (219 * unit, 224 * unit)
    linear = top * linear / np.array([luma, chroma, chroma])
    return np.hstack([linear, -linear @ np.array([[black], [128 * unit], [128 * unit]])])


@cache
def from_rgb_matrix(colour: Colour) -> NDArray[np.float64]:
    """The inverse of `to_rgb_matrix`."""
    matrix = to_rgb_matrix(colour)
    inverse = np.linalg.inv(matrix[:, :3])
    return np.hstack([inverse, -inverse @ matrix[:, 3:]])


def _transform(codes: Codes, matrix: NDArray[np.float64]) -> Codes:
    if np.array_equal(matrix, np.eye(3, 4)):
        return codes
    result: Codes = cv2.transform(codes, matrix)
    return result


def _reformat(frame: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    # The same matrix and range on both sides, so that only the layout is converted.
    return frame.reformat(
        format=pixel_format,
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=FULL_RANGE,
        dst_color_range=FULL_RANGE,
        interpolation=SCALER,
    )


def _grey_codes(frame: av.VideoFrame, bits: int) -> Codes:
    """Expand luma to neutral YCbCr codes."""
    own_bits = frame.format.components[0].bits
    name = "gray" if own_bits <= 8 else f"gray{own_bits}le"
    luma = (frame if frame.format.name == name else _reformat(frame, name)).to_ndarray()
    luma = _resize_codes(luma, max(8, own_bits), bits)
    neutral = np.full_like(luma, 32768 if bits > 8 else 128)
    merged: Codes = cv2.merge([luma, neutral, neutral])
    return merged


def _rgb_codes(frame: av.VideoFrame, bits: int) -> Codes:
    own_bits = max(component.bits for component in frame.format.components)
    name = {9: "gbrp9le", 10: "gbrp10le", 12: "gbrp12le", 14: "gbrp14le", 16: "rgb48le"}.get(own_bits, "rgb24")
    codes: Codes = (frame if frame.format.name == name else _reformat(frame, name)).to_ndarray()
    return _resize_codes(codes, max(8, own_bits), bits)


def _resize_codes(codes: NDArray[Any], own_bits: int, bits: int) -> Codes:
    """Move codes of 9 to 15 bits to the upper bits of 16, or round them to 8 bits."""
    if bits > 8:
        codes = codes.astype(np.uint16) << (16 - own_bits)
    elif own_bits > 8:
        codes = narrow(codes, own_bits)
    return codes


def narrow(codes: Codes, bits: int = 16) -> NDArray[np.uint8]:
    """Round full-range codes of `bits` bits to 8."""
    return cv2.convertScaleAbs(codes, alpha=255 / (2**bits - 1)).astype(np.uint8, copy=False)


def _shift_down(codes: NDArray[np.uint16], bits: int) -> Codes:
    """Move codes from the upper bits of 16 to the lower ones, rounded."""
    if bits in (8, 16):
        return codes
    shift = 16 - bits
    rounded = (codes.astype(np.uint32) + np.uint32(1 << (shift - 1))) >> np.uint32(shift)
    result: NDArray[np.uint16] = np.minimum(rounded, 2**bits - 1).astype(np.uint16)
    return result
