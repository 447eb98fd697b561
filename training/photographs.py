"""Makes training clips of photographs: `python -m zsm.training.photographs PHOTOGRAPHS CLIPS`.

Photographs are sharper and more varied than most footage that may be used. A camera pans, zooms and turns over each of
them, and pieces of others cross the view, so that there is motion of several speeds, and occlusion.
"""

import argparse
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from zsm import files
from zsm.errors import ArgumentError, DataError, Error, OutputError
from zsm.runtime.video import images
from zsm.runtime.video.colour import narrow
from zsm.training import parallel

Frames = NDArray[np.uint8]
Matrix = NDArray[np.float64]

WIDTH, HEIGHT = 512, 384
LENGTH = 13
OVERSAMPLING = 2
"""Frames are drawn at twice their size and shrunk, which leaves them as sharp as the photograph at half its size."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How a picture moves, grows and turns."""

    velocity: tuple[float, float]
    """Pixels per frame (x, y) in the middle of the clip."""
    acceleration: tuple[float, float]
    """Pixels per frame per frame."""
    zoom: float
    """Relative growth per frame."""
    turn: float
    """Degrees per frame."""

    @classmethod
    def draw(cls, rng: np.random.Generator, fastest: float) -> "Motion":
        """Draw a motion; slow ones are as frequent as fast ones."""
        speed, heading = float(np.exp(rng.uniform(np.log(0.2), np.log(fastest)))), float(rng.uniform(0, 2 * np.pi))
        ax, ay = rng.normal(0, 0.04 * speed, 2)
        zooms, turns = rng.random(2) < 1 / 3
        return cls(
            velocity=(speed * np.cos(heading), speed * np.sin(heading)),
            acceleration=(float(ax), float(ay)),
            zoom=float(rng.normal(0, 0.01)) if zooms else 0.0,
            turn=float(rng.normal(0, 0.7)) if turns else 0.0,
        )

    def matrix(self, time: float, around: tuple[float, float]) -> Matrix:
        """The transform (2,3) of the picture's points at `time`, in frames from the middle of the clip."""
        scale = float(np.exp(self.zoom * time))
        made = np.asarray(cv2.getRotationMatrix2D(around, self.turn * time, scale), np.float64)
        made[:, 2] += np.multiply(self.velocity, time) + np.multiply(self.acceleration, time * time / 2)
        return made


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A picture that moves over the view."""

    picture: Frames
    """(h,w,3), at OVERSAMPLING times the view's scale."""
    shape: NDArray[np.uint8] | None
    """Opacity (h,w), or None for the background."""
    place: tuple[float, float]
    """Where the picture's middle is in the middle of the clip, in the view's pixels (x, y)."""
    motion: Motion

    def draw(self, onto: Frames, time: float) -> Frames:
        """Draw the picture over a view of OVERSAMPLING times the frame's size."""
        h, w = self.picture.shape[:2]
        scale = OVERSAMPLING
        matrix = self.motion.matrix(time, (w / 2 / scale, h / 2 / scale))
        matrix[:, 2] += self.place - np.array([w, h]) / 2 / scale
        matrix[:, 2] = matrix[:, 2] * scale + (matrix[:, :2] @ [0.5, 0.5] - 0.5) * (scale - 1)
        size = onto.shape[1], onto.shape[0]
        if self.shape is None:
            return _warp(self.picture, matrix, size, cv2.BORDER_REFLECT_101)
        opacity = _warp(self.shape, matrix, size, cv2.BORDER_CONSTANT)[..., None].astype(np.float32) / 255
        moved = _warp(self.picture, matrix, size, cv2.BORDER_REFLECT_101)
        return np.rint(onto + opacity * (moved.astype(np.float32) - onto)).astype(np.uint8)


def _warp(picture: Frames, matrix: Matrix, size: tuple[int, int], border: int) -> Frames:
    return cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border).astype(np.uint8)


def animate(photograph: Frames, others: Sequence[Frames], rng: np.random.Generator) -> Iterator[Frames]:
    """Yield the LENGTH frames (HEIGHT,WIDTH,3) of a clip of one photograph, crossed by pieces of others."""
    layers = [_background(photograph, rng)]
    layers += [_piece(other, rng) for other in others]
    for number in range(LENGTH):
        view = np.zeros((OVERSAMPLING * HEIGHT, OVERSAMPLING * WIDTH, 3), np.uint8)
        for layer in layers:
            view = layer.draw(view, number - (LENGTH - 1) / 2)
        yield cv2.resize(view, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _background(photograph: Frames, rng: np.random.Generator) -> Layer:
    view = np.array([WIDTH, HEIGHT])
    picture = _shrink(photograph, OVERSAMPLING * view * rng.uniform(1.2, 2.2))
    size = np.array(picture.shape[1::-1]) / OVERSAMPLING
    slack = np.maximum(size - view, 0) / 2
    x, y = view / 2 + rng.uniform(-slack, slack)
    return Layer(picture=picture, shape=None, place=(float(x), float(y)), motion=Motion.draw(rng, fastest=12))


def _piece(photograph: Frames, rng: np.random.Generator) -> Layer:
    """A blob of 80 to 300 pixels, cut out of a photograph."""
    picture = _shrink(photograph, OVERSAMPLING * np.array([WIDTH, HEIGHT]) * rng.uniform(1, 2))
    side = min(int(OVERSAMPLING * rng.uniform(80, 300)), *picture.shape[:2])
    top, left = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
    return Layer(
        picture=picture[top : top + side, left : left + side],
        shape=_blob(side, rng),
        place=(float(rng.uniform(0, WIDTH)), float(rng.uniform(0, HEIGHT))),
        motion=Motion.draw(rng, fastest=16),
    )


def _blob(side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The opacity of a random smooth shape with an edge one or two pixels wide."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    outline = 0.65 + sum(
        rng.normal(0, 0.15 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) for order in range(1, 7)
    )
    return np.asarray(np.clip(0.5 + (np.minimum(outline, 0.95) - radius) * side / 4, 0, 1) * 255, np.uint8)


def _shrink(photograph: Frames, size: NDArray[np.float64]) -> Frames:
    """Shrink until it just covers `size` (width, height); never enlarge."""
    h, w = photograph.shape[:2]
    factor = max(size[0] / w, size[1] / h)
    if factor >= 1:
        return photograph
    shrunk = cv2.resize(photograph, (round(w * factor), round(h * factor)), interpolation=cv2.INTER_AREA)
    return shrunk.astype(np.uint8)


def make_clips(photographs: Path, clips: Path, per_photograph: int, workers: int = 0) -> None:
    """Write `per_photograph` clips of each photograph in a folder, lossless, named after it.

    The same photographs give the same clips. `workers` processes make them; with 0, this one does. Raises
    ArgumentError for numbers that are too small, DataError if there are no photographs, VideoError if one can't be
    read, and OutputError if a clip can't be written.
    """
    for number, least, what in ((per_photograph, 1, "clips of each photograph"), (workers, 0, "workers")):
        if number < least:
            raise ArgumentError(f"{number} {what}; give {least} or more")
    found = sorted(images.within(photographs)) if photographs.is_dir() else []
    if not found:
        raise DataError(f"there are no images in {photographs}; give a folder of photographs")
    parallel.each(partial(_make_clips, others=found, clips=clips, count=per_photograph), found, workers)


def _make_clips(file: Path, others: Sequence[Path], clips: Path, count: int) -> None:
    photograph = _read(file)
    for number in range(count):
        rng = np.random.default_rng((zlib.crc32(file.name.encode()), number))
        pieces = [_read(others[i]) for i in rng.integers(len(others), size=rng.integers(3))]
        _write(animate(photograph, pieces, rng), clips / f"{file.name}_{number + 1}.mkv")


def _read(file: Path) -> Frames:
    photograph = images.read(file)
    return photograph if photograph.dtype == np.uint8 else narrow(photograph)


def _write(frames: Iterator[Frames], path: Path) -> None:
    try:
        with files.replacing(path) as temporary, av.open(temporary, "w", format="matroska") as container:
            stream = container.add_stream("ffv1", 25, width=WIDTH, height=HEIGHT, pix_fmt="bgr0")
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    except OSError as error:
        raise OutputError(f"can't write {path}: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser("python -m zsm.training.photographs", description="Make clips of photographs.")
    parser.add_argument("photographs", type=Path, help="folder of images, best of 1600 pixels and more")
    parser.add_argument("clips", type=Path, help="folder for the clips, for zsm train --data")
    parser.add_argument("--each", type=int, default=2, metavar="N", help="clips of each photograph (default: 2)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes beside this one (default: 0)")
    options = parser.parse_args()
    try:
        make_clips(options.photographs, options.clips, options.each, options.workers)
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
