"""Frames too large for the memory there is, in overlapping tiles. Overlaps are discarded, not blended.

Tiles begin at multiples of 4 pixels, where the network's pyramid has its own grid. What lies outside a tile is missing
to it, so that near a seam the result differs from that of whole frames, less the larger the overlap is.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, tee
from typing import Any

import numpy as np

from zsm.errors import TileError
from zsm.runtime.backend import Pixels
from zsm.runtime.network import GRID, SCALE
from zsm.runtime.stream import Cuts, check_frame

OVERLAP = 96
"""LR pixels that neighbouring tiles share; docs/gpu.md says what that leaves of the seams."""

Process = Callable[[Iterable[Pixels], Cuts], Iterator[Pixels]]
TileOf = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A tile's extent along one axis, in LR pixels."""

    read: range
    keep: range
    """The pixels taken from this tile and no other; part of `read`."""


def spans(extent: int, tile: int, overlap: int = OVERLAP) -> list[Span]:
    """The tiles along an axis of `extent` pixels, `tile` long at most; raises TileError."""
    if extent <= tile:
        return [Span(read=range(extent), keep=range(extent))]
    if tile % GRID or overlap % GRID or not 0 <= overlap < tile:
        raise TileError(
            f"tiles of {tile} pixels that share {overlap} can't be; give multiples of {GRID}, larger than the overlap"
        )
    last = -(-(extent - tile) // GRID) * GRID
    starts = [*range(0, last, tile - overlap), last]
    reads = [range(start, min(start + tile, extent)) for start in starts]
    # The middle of what two neighbours share.
    bounds = [0, *((left.stop + right.start) // 2 for left, right in pairwise(reads)), extent]
    return [Span(read=read, keep=range(*ends)) for read, ends in zip(reads, pairwise(bounds), strict=True)]


def stream(
    process: Process, frames: Iterable[Pixels], tile_of: TileOf, cuts: Cuts = None, overlap: int = OVERLAP
) -> Iterator[Pixels]:
    """What `process` makes of whole frames, made of tiles; `tile_of` gives their (width, height) for a frame's.

    Every tile is a stream of its own, and all of them advance frame by frame.
    """
    scenes = _Scenes(cuts)
    source = iter(scenes.read(frames))
    first = next(source, None)
    if first is None:
        return
    height, width = first.shape[:2]
    tile = tile_of(width, height)
    grid = [(down, across) for down in spans(height, tile[1], overlap) for across in spans(width, tile[0], overlap)]
    copies = tee(_after(first, source), len(grid))
    streams = [process(map(partial(_crop, place), one), scenes.cuts()) for place, one in zip(grid, copies, strict=True)]
    for outputs in zip(*streams, strict=True):
        whole = np.empty((SCALE * height, SCALE * width, 3), outputs[0].dtype)
        for (down, across), output in zip(grid, outputs, strict=True):
            whole[_scaled(down.keep, 0), _scaled(across.keep, 0)] = output[
                _scaled(down.keep, down.read.start), _scaled(across.keep, across.read.start)
            ]
        yield whole


def _after(first: Pixels, rest: Iterator[Pixels]) -> Iterator[Pixels]:
    yield first
    yield from rest


def _crop(place: tuple[Span, Span], frame: Pixels) -> Any:
    down, across = place
    return frame[down.read.start : down.read.stop, across.read.start : across.read.stop]


def _scaled(span: range, origin: int) -> slice:
    return slice(SCALE * (span.start - origin), SCALE * (span.stop - origin))


class _Scenes:
    """Where scenes begin, decided on whole frames and told to every tile alike."""

    def __init__(self, cuts: Cuts) -> None:
        self._given = cuts if cuts is None or callable(cuts) else list(cuts)  # every tile reads them
        self._found: set[int] = set()

    def read(self, frames: Iterable[Pixels]) -> Iterator[Pixels]:
        """The frames, copied, as their giver may use one buffer for all of them."""
        previous: Pixels | None = None
        for number, frame in enumerate(frames):
            check_frame(frame, number, previous)
            if previous is not None and callable(self._given) and self._given(previous, frame):
                self._found.add(number)
            previous = frame.copy()
            yield previous

    def cuts(self) -> Cuts:
        """For one tile."""
        if not callable(self._given):
            return self._given
        numbers = iter(range(1, 2**62))
        return lambda previous, frame: next(numbers) in self._found
