"""Still images and folders of them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from zsm import files
from zsm.errors import VideoError
from zsm.runtime.video.colour import Codes

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
WITH_ALPHA = (".png", ".tif", ".tiff", ".webp")


def is_image(path: Path) -> bool:
    """Whether a file is a still image, judging by its name."""
    return path.suffix.lower() in SUFFIXES


def natural_order(name: str) -> tuple[Any, ...]:
    """Make a sorting key that puts frame2 before frame10."""
    return tuple((int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name))


def within(folder: Path) -> Iterator[Path]:
    """Yield the images of a folder in no particular order, without hidden ones. Raises OSError."""
    return (path for path in folder.iterdir() if is_image(path) and not path.name.startswith("."))


def find(folder: Path) -> Sequence[Path]:
    """List the images of a folder, in natural order; raises VideoError if there are none."""
    try:
        found = list(within(folder))
    except OSError as error:
        raise VideoError(f"can't read the folder {folder}: {error.strerror}") from error
    if not found:
        raise VideoError(f"the folder {folder} holds no images ({', '.join(SUFFIXES)})")
    return sorted(found, key=lambda path: natural_order(path.name))


def read(path: Path) -> Codes:
    """Read an image as RGB (h,w,3), uint8 or uint16; grey becomes RGB, alpha is dropped. Raises VideoError."""
    return decode(path, load(path))


def decode(path: Path, data: NDArray[np.uint8]) -> Codes:
    """Decode the content of the file `path`, as `read` does."""
    # Not IMREAD_COLOR_RGB: of TIFF files with 16 bits, OpenCV 5.0 then leaves the pixels unfilled.
    return cv2.cvtColor(_decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH), cv2.COLOR_BGR2RGB)


def is_transparent(path: Path, data: NDArray[np.uint8]) -> bool:
    """Whether a pixel of an image, the content of the file `path`, isn't opaque; raises VideoError."""
    if path.suffix.lower() not in WITH_ALPHA:
        return False
    image = _decode(path, data, cv2.IMREAD_UNCHANGED)
    return image.ndim == 3 and image.shape[2] == 4 and bool((image[..., 3] != np.iinfo(image.dtype).max).any())


def load(path: Path) -> NDArray[np.uint8]:
    """Read a file's content; raises VideoError."""
    try:
        return np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise VideoError(f"can't read {path}: {error.strerror}") from error


def _decode(path: Path, data: NDArray[np.uint8], flags: int) -> Codes:
    if is_animated_webp(data[:64].tobytes()):
        raise VideoError(f"{path} is an animated WebP, which isn't supported; convert it to a video or to PNG files")
    image = None
    if data.size:
        try:
            image = cv2.imdecode(data, flags)
        except cv2.error as error:
            raise VideoError(f"{path} can't be decoded: {error.err}") from error
    if image is None:
        raise VideoError(f"{path} can't be decoded: it isn't an image, or is damaged")
    if image.dtype not in (np.uint8, np.uint16):
        raise VideoError(f"{path} holds {image.dtype} values; give images of 8 or 16 bits")
    return image


def is_animated_webp(head: bytes) -> bool:
    """Whether a file that begins with `head`, at least 21 bytes, is a WebP with several frames."""
    animated = 0x02
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & animated)


def write(path: Path, pixels: Codes) -> None:
    """Write RGB (h,w,3) as PNG, atomically; raises VideoError."""
    encoded, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise VideoError(f"can't encode {path} as PNG")
    try:
        files.write(path, data.tobytes())
    except OSError as error:
        raise VideoError(f"can't write {path}: {error.strerror}") from error
