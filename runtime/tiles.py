"""Frames that don't fit in memory, processed in overlapping tiles. Overlaps are discarded, not blended.

Tiles begin at multiples of 4 pixels, the grid of the network's pyramid. A tile doesn't see what lies outside it, so
near a seam the result differs from that of whole frames; the larger the overlap, the smaller the difference.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, tee
from typing import Any

import numpy as np

from zsm.errors import TileError
from zsm.runtime.backend import Pixels
from zsm.runtime.frames import Check, on_host
from zsm.runtime.network import GRID, SCALE
from zsm.runtime.stream import Cuts, frame_numbers

OVERLAP = 96
"""LR pixels that neighbouring tiles share; docs/gpu.md has the error that remains at the seams."""

Process = Callable[[Iterable[Pixels], Cuts], Iterator[Pixels]]
"""Frames and cuts to outputs, as `stream` does."""

TileOf = Callable[[int, int], tuple[int, int]]
"""A frame's width and height to a tile's."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A tile's extent along one axis, in LR pixels."""

    read: range
    keep: range
    """The pixels taken from this tile alone; part of `read`."""


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


def stream(
    process: Process, frames: Iterable[Any], tile_of: TileOf, cuts: Cuts = None, overlap: int = OVERLAP
) -> Iterator[Pixels]:
    """Yield the outputs of whole frames, put together from those of their tiles.

    Each tile is a stream of its own; all of them advance frame by frame. Raises WindowError or ArgumentTypeError
    for invalid cuts, before the first frame is read, and FrameError or TileError when the frames come.
    """
    return _joined(process, frames, tile_of, _Scenes(cuts), overlap)


def _joined(
    process: Process, frames: Iterable[Any], tile_of: TileOf, scenes: "_Scenes", overlap: int
) -> Iterator[Pixels]:
    source = scenes.read(frames)
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
    """Where scenes begin: decided on whole frames, the same for every tile."""

    def __init__(self, cuts: Cuts) -> None:
        self._given = cuts if cuts is None or callable(cuts) else frame_numbers(cuts)
        self._found: set[int] = set()

    def read(self, frames: Iterable[Any]) -> Iterator[Pixels]:
        """Copy the frames, as the caller may reuse one buffer for all of them."""
        check = Check()
        previous: Pixels | None = None
        for number, given in enumerate(frames):
            frame = on_host(given, number)
            check(frame, number)
            if previous is not None and callable(self._given) and self._given(previous, frame):
                self._found.add(number)
            previous = frame.copy()
            yield previous

    def cuts(self) -> Cuts:
        """The cuts for one tile."""
        if not callable(self._given):
            return self._given
        numbers = iter(range(1, 2**62))
        return lambda previous, frame: next(numbers) in self._found
