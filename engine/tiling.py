"""The size of tiles: given, or the largest that fits in memory."""

import logging
import re
from bisect import bisect_right
from collections.abc import Callable
from itertools import product

from zsm.engine import host
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device
from zsm.engine.memory import Estimator
from zsm.errors import ArgumentError, ArgumentTypeError, OutOfMemoryError
from zsm.runtime import GRID, SCALE, tiles

log = logging.getLogger("zsm")

RESERVE = {"cpu": 1.2, "cuda": 1.5, "gpu": 1.5, "npu": 1.5}
"""Memory required, as a multiple of the estimate: libraries add workspaces, copies in other layouts, unused gaps."""

OPENVINO = 2.3
"""The same for OpenVINO on a CPU, where each stage keeps its memory between runs."""

MOST = 64
"""The most tiles along an axis."""

LEAST = 2 * tiles.OVERLAP
"""The smallest side of tiles that are chosen: smaller ones would compute everything more than four times."""

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class Tiling:
    """Chooses the tiles for frames of each size that comes."""

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        free: Callable[[], int],
        *,
        window: int,
        overlap: int,
        tile: str | None,
        memory: str | int | None,
        backend: Callable[[], str] = lambda: "onnxruntime",
        used: Callable[[], int] = lambda: host.own("VmRSS"),
    ) -> None:
        """Take the Runtime's arguments `tile` and `memory`. `free` tells how much of the device's memory is free.

        `backend` tells which one computes, `used` how much of the host's memory the process has.

        Raises SizeError, TileError or ArgumentError for invalid values, ArgumentTypeError for those of other types.
        """
        if tile is not None and not isinstance(tile, str):
            raise ArgumentTypeError(f"tile is {tile!r}; give a string such as '640x544', 'auto', or None")
        self._estimate = Estimator(bundle, "cpu" if device.on_host else "cuda", window)
        self._device = device
        self._free = free
        self._backend = backend
        self._used = used
        self._window = window
        self._outputs = 2 * (window - overlap) + 1
        self._memory = None if memory is None else parse_memory(memory)
        if self._memory is not None and tile != "auto":
            raise ArgumentError("memory is a limit for tiles that are chosen: leave it out, or give tile='auto'")
        self._fixed = None if tile in (None, "auto") else parse_tile(tile)
        self._automatic = tile == "auto"
        self.chosen: str | None = None if self._fixed is None else tile
        """The tiles' size for the last frames that came; None if they were processed whole."""
        self._found: dict[tuple[int, int, int], Size | None] = {}

    @property
    def always(self) -> bool:
        """Whether tiles were asked for, whatever fits."""
        return self._fixed is not None

    def __call__(self, width: int, height: int, itemsize: int, besides: int = 0) -> tuple[int, int] | None:
        """The tiles' width and height for frames of a size, or None to process them whole; raises OutOfMemoryError.

        `besides`: bytes that the caller will need; they count when a size comes for the first time.
        """
        if self._fixed is not None:
            return self._fixed.width, self._fixed.height
        if not self._automatic:
            return None
        kind = (width, height, itemsize)
        if kind not in self._found:  # memory changes, but frames of one size are all processed alike
            self._found[kind] = self._choose(Size(width, height), itemsize, besides)
        found = self._found[kind]
        self.chosen = None if found is None else str(found)
        return None if found is None else (found.width, found.height)

    def text(self, width: int, height: int, itemsize: int, besides: int = 0) -> str | None:
        """The same as `WxH`; None also for frames that are no larger than a tile."""
        found = self(width, height, itemsize, besides)
        return None if found is None or (found[0] >= width and found[1] >= height) else f"{found[0]}x{found[1]}"

    def room(self) -> int:
        """The bytes of the device's memory that are free, or left of the limit."""
        free = self._free()  # a backend gives back what it doesn't use before it looks
        if self._memory is None:
            return free
        return max(0, self._memory - self._used()) if self._device.on_host else self._memory

    def _choose(self, size: Size, itemsize: int, besides: int) -> Size | None:
        free = self.room()
        found = self.largest(size, itemsize, free, besides if self._device.on_host else 0)
        if found is not None:
            log.warning(
                "frames of %s don't fit in %s of memory as a whole: they are processed in tiles of %s",
                size, _readable(free), found,
            )  # fmt: skip
        return found

    def largest(self, size: Size, itemsize: int, memory: int, besides: int = 0) -> Size | None:
        """The tiles that fit in `memory` bytes and share the least, None for whole frames; raises OutOfMemoryError.

        `besides`: bytes of the memory that the caller needs.
        """
        left = memory - besides
        if self.needs(size, size, itemsize) <= left:
            return None
        computed = {}
        for columns, rows in product(range(1, MOST + 1), repeat=2):
            tile = Size(_part(size.width, columns), _part(size.height, rows))
            if tile != size and tile.width >= min(size.width, LEAST) and tile.height >= min(size.height, LEAST):
                computed[tile] = columns * rows * tile.pixels
        ascending = sorted(computed, key=lambda tile: tile.pixels)
        fitting = bisect_right(ascending, left, key=lambda tile: self.needs(size, tile, itemsize))
        if fitting:
            return min(ascending[:fitting], key=lambda tile: computed[tile])
        smallest = min([size, *ascending[:1]], key=lambda tile: self.needs(size, tile, itemsize))
        least = _readable(self.needs(size, smallest, itemsize))
        how = "as a whole" if smallest == size else f"in tiles of {smallest}"
        writing = f", and writing them {_readable(besides)}" if besides else ""
        fewer = ", write images or another --codec" if besides else ""
        if self._memory is None:
            room, more = f"{_readable(memory)} of memory", "close other programs that take memory"
        else:
            room, more = f"the {_readable(memory)} that a limit of {_readable(self._memory)} leaves", "raise the limit"
        raise OutOfMemoryError(
            f"frames of {size} don't fit in {room}: {how} they need {least}{writing}; "
            f"use a smaller window, an fp16 bundle or smaller frames{fewer}, or {more}"
        )

    def needs(self, size: Size, tile: Size, itemsize: int) -> int:
        """Bytes that frames of `size` need in tiles of `tile`; of a GPU, its own memory."""
        tiled = tile != size
        kind, backend = self._device.kind, self._backend()
        arenas = (kind, backend) == ("cuda", "onnxruntime")
        reserve = OPENVINO if (kind, backend) == ("cpu", "openvino") else RESERVE[kind]
        need = self._estimate(tile, itemsize, tiled=tiled, arenas=arenas).total
        return int(reserve * need) + self._pixels(size, itemsize, tiled=tiled)

    def _pixels(self, size: Size, itemsize: int, *, tiled: bool) -> int:
        """Bytes of frames and outputs on the host: of a whole window in tiles, else of two at a time."""
        if not self._device.on_host:
            return 0
        frames, outputs = (self._window + 1, self._outputs) if tiled else (2, 2)
        return size.pixels * 3 * itemsize * (frames + outputs * SCALE**2)


def parse_tile(text: str) -> Size:
    """Parse `WxH`; raises SizeError, or TileError if tiles can't have that size."""
    size = Size.parse(text)
    for extent in (size.width, size.height):
        tiles.spans(2 * extent, extent)
    return size


def parse_memory(text: str | int) -> int:
    """Convert `4GiB`, `800M` or a number of bytes; raises ArgumentError, or ArgumentTypeError for other types."""
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ArgumentTypeError(f"memory is {text!r}; give a string such as '4GiB', or bytes")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(text).strip().lower())
    if match is None or float(match[1]) == 0:
        raise ArgumentError(f"invalid memory {text!r}; give a size such as 4GiB or 800MiB")
    return int(float(match[1]) * UNITS[match[2]])


def _part(extent: int, count: int) -> int:
    """Smallest tile length (a multiple of 4) with which `count` overlapping tiles cover `extent`."""
    if count == 1:
        return extent
    covered = extent + (count - 1) * tiles.OVERLAP
    return -(-covered // (count * GRID)) * GRID


def _readable(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
