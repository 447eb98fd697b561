"""The size of tiles: given, or the largest that the device's memory holds."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

from zsm.engine.backends.gpu.cuda import Gpu
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device
from zsm.engine.memory import estimate
from zsm.errors import BackendError
from zsm.runtime import GRID, tiles

RESERVE = 1.5
"""How much more than the estimate has to be free: libraries add workspaces and copies in other layouts."""

MOST = 32
"""Tiles along an axis."""

TileOf = Callable[[int, int], tuple[int, int]]
"""From a frame's width and height to a tile's."""


def chooser(text: str, bundle: Bundle, device: str, window: int) -> TileOf:
    """How tiles are chosen: `text` is `auto` or `WxH`. Raises SizeError or TileError for what is neither."""
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
    """The fewest tiles of a frame that memory of so many bytes holds; raises BackendError if none fits."""
    whole = estimate(bundle, size, window)
    counts = sorted(product(range(1, MOST + 1), repeat=2), key=lambda count: count[0] * count[1])
    for columns, rows in counts:
        tile = Size(_part(size.width, columns), _part(size.height, rows))
        part = tile.pixels / size.pixels
        # All tiles advance together, each with its window; stages run on one of them at a time.
        fits = RESERVE * (whole.weights + part * (columns * rows * whole.window + whole.activations)) <= memory
        if fits and _possible(size.width, tile.width) and _possible(size.height, tile.height):
            return tile
    raise BackendError(
        f"{memory / 2**20:,.0f} MiB of free memory don't hold {size}, in tiles either: a window alone needs "
        f"{RESERVE * whole.window / 2**20:,.0f}; take an fp16 bundle, a smaller window or network, smaller frames, or "
        "end what else uses the memory"
    )


def _part(extent: int, count: int) -> int:
    """The least multiple of 4 of which so many, overlapping, cover an axis."""
    covered = extent + (count - 1) * tiles.OVERLAP
    return -(-covered // (count * GRID)) * GRID


def _possible(extent: int, tile: int) -> bool:
    return tile >= extent or tile > tiles.OVERLAP


def available(device: Device) -> int:
    """Bytes of memory that are free on a device."""
    if device.kind == "cuda":
        return Gpu(device.index).memory()[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024
