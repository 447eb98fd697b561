"""Frames that don't fit in memory, processed in overlapping tiles. Overlaps are discarded, not blended.

Tiles begin at multiples of 4 pixels, the grid of the network's pyramid. A tile doesn't see what lies outside it, so
near a seam the result differs from that of whole frames; the larger the overlap, the smaller the difference.
"""

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np

from zsm.errors import TileError
from zsm.runtime import network as stages
from zsm.runtime.backend import Backend, Pixels, Session
from zsm.runtime.network import GRID, SCALE, Network

OVERLAP = 96
"""LR pixels that neighbouring tiles share; docs/gpu.md has the error that remains at the seams."""

TileOf = Callable[[int, int, int], tuple[int, int] | None]
"""A frame's width and height, and the bytes of a number, to a tile's width and height; None for whole frames."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A tile's extent along one axis, in LR pixels."""

    read: range
    keep: range
    """The pixels taken from this tile alone; part of `read`."""

    @property
    def source(self) -> slice:
        """What the tile reads of the input."""
        return slice(self.read.start, self.read.stop)

    @property
    def target(self) -> slice:
        """What the tile fills of the whole output."""
        return slice(SCALE * self.keep.start, SCALE * self.keep.stop)

    @property
    def kept(self) -> slice:
        """The same, of the tile's own output."""
        origin = self.read.start
        return slice(SCALE * (self.keep.start - origin), SCALE * (self.keep.stop - origin))


def spans(extent: int, tile: int, overlap: int = OVERLAP) -> list[Span]:
    """The tiles along an axis of `extent` pixels, each at most `tile` long; raises TileError."""
    if extent <= tile:
        return [Span(read=range(extent), keep=range(extent))]
    if tile % GRID or overlap % GRID or not 0 <= overlap < tile:
        raise TileError(
            f"tiles can't be {tile} pixels long and share {overlap}; give a multiple of {GRID} larger than the overlap"
        )
    last = -(-(extent - tile) // GRID) * GRID
    starts = [*range(0, last, tile - overlap), last]
    reads = [range(start, min(start + tile, extent)) for start in starts]
    # The middles of the shared spans.
    bounds = [0, *((left.stop + right.start) // 2 for left, right in pairwise(reads)), extent]
    return [Span(read=read, keep=range(*ends)) for read, ends in zip(reads, pairwise(bounds), strict=True)]


class Tiled:
    """The windows of frames that are processed tile by tile: each tile has its whole window to itself.

    Memory holds the window's frames and outputs as pixels, and the features and states of one tile.
    """

    def __init__(
        self,
        backend: Backend,
        network: Network,
        window: int,
        size: tuple[int, int],
        dtype: np.dtype[Any],
        tile: tuple[int, int],
        overlap: int = OVERLAP,
    ) -> None:
        """`size` is the frames' (height, width), `tile` the tiles' (width, height); raises TileError."""
        self._backend = backend
        self._network = network
        self._size = size
        self._dtype = dtype
        self._grid = list(product(spans(size[0], tile[1], overlap), spans(size[1], tile[0], overlap)))
        self._frames: deque[Pixels] = deque(maxlen=window)
        self._outputs: dict[int, Pixels] = {}
        self._last = 0

    def add(self, frame: Any) -> None:
        """Copy a frame, as the caller may reuse its memory."""
        self._frames.append(frame.copy())

    def begin(self, needed: range, wanted: Callable[[int], bool]) -> None:
        """Compute the outputs that are needed and wanted."""
        self._last = needed.start - 1
        self._outputs.clear()
        self._compute([number for number in needed if wanted(number)])

    def next(self, *, wanted: bool) -> Callable[[], Pixels] | None:
        """The window's next output, which is the caller's from now on; None if it isn't wanted."""
        self._last += 1
        return self.repeat() if wanted else None

    def repeat(self) -> Callable[[], Pixels]:
        """The last output, computed again if it was given away."""
        if self._last not in self._outputs:
            self._compute(range(self._last, 2 * len(self._frames) - 1))
        output = self._outputs.pop(self._last)
        return lambda: output

    def _compute(self, numbers: Sequence[int]) -> None:
        height, width = self._size
        for number in numbers:
            self._outputs[number] = np.empty((SCALE * height, SCALE * width, 3), self._dtype)
        for down, across in self._grid if numbers else ():
            session = self._backend.open(len(down.read), len(across.read))
            frames = [frame[down.source, across.source] for frame in self._frames]
            for number, pixels in outputs(session, self._network, frames, numbers, self._dtype):
                self._outputs[number][down.target, across.target] = pixels[down.kept, across.kept]


def outputs(
    session: Session, network: Network, frames: Sequence[Pixels], numbers: Container[int], dtype: np.dtype[Any]
) -> Iterator[tuple[int, Pixels]]:
    """The outputs of a window of frames that have these numbers, with their numbers, in any order."""
    features = [stages.extract(session, frame) for frame in frames]
    gaps = [stages.interpolate(session, *pair) for pair in pairwise(features)]
    for number, hidden in stages.completed(session, network, features, gaps):
        if number in numbers:
            pixels = session.to_host(stages.reconstruct(session, network, hidden, dtype))()[0]
            yield number, pixels
