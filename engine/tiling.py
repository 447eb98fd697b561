"""The size of tiles: given, or the largest that fits in the device's memory."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

from zsm.engine.backends.gpu.cuda import Gpu
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device
from zsm.engine.memory import estimate
from zsm.errors import ArgumentTypeError, OutOfMemoryError
from zsm.runtime import GRID, tiles

RESERVE = 1.5
"""Free memory required, as a multiple of the estimate: libraries add workspaces and copies in other layouts."""

MOST = 32
"""The most tiles along an axis."""

TileOf = Callable[[int, int], tuple[int, int]]
"""A frame's width and height to a tile's."""


def chooser(text: str, bundle: Bundle, device: str, window: int) -> TileOf:
    """Parse a tile size: `WxH`, or `auto` for the fewest tiles that fit in free memory.

    Raises SizeError, TileError, or ArgumentTypeError unless it is a string.
    """
    if not isinstance(text, str):
        raise ArgumentTypeError(f"tile is {text!r}; give a string such as '640x544', or 'auto'")
    if text != "auto":
        size = Size.parse(text)
        for extent in (size.width, size.height):
            tiles.spans(2 * extent, extent)
        return lambda width, height: (size.width, size.height)

    def fitting(width: int, height: int) -> tuple[int, int]:
        tile = largest(bundle, Size(width, height), window, available(Device.parse(device)))
        return tile.width, tile.height

    return fitting


def largest(bundle: Bundle, size: Size, window: int, memory: int) -> Size:
    """The size of the fewest tiles that fit in `memory` bytes; raises OutOfMemoryError if none fit."""
    whole = estimate(bundle, size, window)
    counts = sorted(product(range(1, MOST + 1), repeat=2), key=lambda count: count[0] * count[1])
    for columns, rows in counts:
        tile = Size(_part(size.width, columns), _part(size.height, rows))
        part = tile.pixels / size.pixels
        # All tiles advance together, each with its window; stages run on one of them at a time.
        fits = RESERVE * (whole.weights + part * (columns * rows * whole.window + whole.activations)) <= memory
        if fits and _possible(size.width, tile.width) and _possible(size.height, tile.height):
            return tile
    raise OutOfMemoryError(
        f"frames of {size} don't fit in {memory / 2**20:,.0f} MiB of free memory, even in tiles: a window alone needs "
        f"{RESERVE * whole.window / 2**20:,.0f} MiB; use an fp16 bundle, a smaller window or network, or smaller "
        "frames, or close other programs that use the memory"
    )


def _part(extent: int, count: int) -> int:
    """Smallest tile length (a multiple of 4) with which `count` overlapping tiles cover `extent`."""
    covered = extent + (count - 1) * tiles.OVERLAP
    return -(-covered // (count * GRID)) * GRID


def _possible(extent: int, tile: int) -> bool:
    return tile >= extent or tile > tiles.OVERLAP


def available(device: Device) -> int:
    """Free memory on a device, in bytes."""
    if device.kind == "cuda":
        return Gpu(device.index).memory()[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024
