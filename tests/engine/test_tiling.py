"""Choosing tiles, and processing in them by way of Runtime."""

from pathlib import Path

import numpy as np
import pytest

from zsm.engine import BackendError, Bundle, Runtime
from zsm.engine.backends import Device
from zsm.engine.memory import estimate
from zsm.engine.sizes import Size, SizeError
from zsm.engine.tiling import RESERVE, available, largest
from zsm.runtime import tiles

FRAME = Size(1000, 540)


def needs(bundle: Path, size: Size) -> int:
    return int(RESERVE * estimate(Bundle(bundle), size, 4).total) + 1


def test_what_fits_is_not_divided(tiny_bundle: Path) -> None:
    whole = largest(Bundle(tiny_bundle), FRAME, 4, needs(tiny_bundle, FRAME))
    assert (whole.width >= 1000, whole.height >= 540) == (True, True)


@pytest.mark.parametrize("part", [2, 5, 12])
def test_tiles_fit_and_cover_the_frame(part: int, tiny_bundle: Path) -> None:
    memory = needs(tiny_bundle, FRAME) // part
    tile = largest(Bundle(tiny_bundle), FRAME, 4, memory)
    assert needs(tiny_bundle, tile) <= memory + 1
    across, down = tiles.spans(1000, tile.width), tiles.spans(540, tile.height)
    assert part < len(across) * len(down) <= 3 * part + 3


def test_memory_for_no_tile_at_all(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="1 MiB of free memory hold no tile of 1000x540"):
        largest(Bundle(tiny_bundle), FRAME, 4, 2**20)


def test_there_is_memory_here() -> None:
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


def test_tiles_that_cannot_be(bicubic_bundle: Path) -> None:
    with pytest.raises(SizeError, match="'large' is no size"):
        Runtime(bicubic_bundle, tile="large")
    with pytest.raises(tiles.TileError, match="larger than the overlap"):
        Runtime(bicubic_bundle, tile=f"{tiles.OVERLAP}x{2 * tiles.OVERLAP}")
