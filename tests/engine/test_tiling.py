"""Choosing tiles, and processing in them by way of Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsm.engine import Bundle, Runtime
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device
from zsm.engine.memory import estimate
from zsm.engine.tiling import RESERVE, available, largest
from zsm.errors import OutOfMemoryError, SizeError, TileError
from zsm.runtime import tiles
from zsm.runtime.stream import stream

FRAME = Size(1000, 540)


def needs(bundle: Path, size: Size, tiles: int = 1) -> int:
    memory = estimate(Bundle(bundle), size, 4)
    return int(RESERVE * (memory.weights + tiles * memory.window + memory.activations)) + 1


def test_a_frame_that_fits_is_not_tiled(tiny_bundle: Path) -> None:
    whole = largest(Bundle(tiny_bundle), FRAME, 4, needs(tiny_bundle, FRAME))
    assert (whole.width >= 1000, whole.height >= 540) == (True, True)


@pytest.mark.parametrize("part", [0.95, 0.9])
def test_tiles_fit_and_cover_the_frame(part: float, tiny_bundle: Path) -> None:
    memory = int(part * needs(tiny_bundle, FRAME))
    tile = largest(Bundle(tiny_bundle), FRAME, 4, memory)
    count = len(tiles.spans(1000, tile.width)) * len(tiles.spans(540, tile.height))
    assert count > 1
    assert needs(tiny_bundle, tile, count) <= memory + 1


def test_all_tiles_hold_their_windows_at_once(tiny_bundle: Path, host_backend: Any, host_gpu: Any) -> None:
    """The assumption of `largest`."""
    backend = host_backend(tiny_bundle, host_gpu)
    clip = np.zeros((8, 24, 2 * tiles.OVERLAP, 3), np.uint8)
    tile = Size(tiles.OVERLAP + 32, 24)
    count = len(tiles.spans(clip.shape[2], tile.width))

    def process(frames: Any, cuts: Any) -> Any:
        return stream(backend, frames, network=Bundle(tiny_bundle).network, window=4, overlap=1, cuts=cuts)

    for _ in tiles.stream(process, clip, lambda width, height: (tile.width, tile.height)):
        pass
    output = 16 * 3 * tile.pixels * (4 + 1)  # planes and pixels at the end, which count as a stage's
    assert count == 3
    window = estimate(Bundle(tiny_bundle), tile, 4).window
    # What a tile needs only while it is computed is shared; what its window keeps is not.
    assert (count - 1) * window < host_gpu.bytes - output <= count * window
    backend.close()


def test_too_little_memory_for_any_tile(tiny_bundle: Path) -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"1000x540 don.t fit in 1 MiB of free memory, even in tiles.* window .* \d+ MiB;"
    ):
        largest(Bundle(tiny_bundle), FRAME, 4, 2**20)


def test_free_memory_is_plausible() -> None:
    assert 2**20 < available(Device(kind="cpu")) < 2**50


def test_a_runtime_with_tiles(bicubic_bundle: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (3, 10, tiles.OVERLAP + 36, 3), np.uint8)
    tile = f"{tiles.OVERLAP + 20}x{tiles.OVERLAP + 4}"
    with Runtime(bicubic_bundle) as rt, Runtime(bicubic_bundle, tile=tile) as tiled:
        np.testing.assert_array_equal(tiled(clip, cuts=[1]), rt(clip, cuts=[1]))
        assert tiled.describe()["tile"] == tile
        with tiled.timing() as times:
            tiled(clip)
        assert times["extract"].calls == 3 * 2
    with Runtime(bicubic_bundle, tile="auto") as rt, rt.timing() as times:
        rt(clip)
        assert times["extract"].calls == 3


def test_invalid_tiles_are_rejected(bicubic_bundle: Path) -> None:
    with pytest.raises(SizeError, match="invalid size 'large'"):
        Runtime(bicubic_bundle, tile="large")
    with pytest.raises(TileError, match="larger than the overlap"):
        Runtime(bicubic_bundle, tile=f"{tiles.OVERLAP}x{2 * tiles.OVERLAP}")
