"""Tiles: a plan that covers everything once, and the seams it leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from zsm.engine import Runtime
from zsm.errors import FrameError, TileError
from zsm.runtime import tiles
from zsm.runtime.tiles import OVERLAP, spans


@given(st.integers(1, 500), st.integers(2, 40), st.integers(0, 10))
def test_every_pixel_is_kept_once_and_tiles_begin_on_the_grid(extent: int, tile: int, overlap: int) -> None:
    tile, overlap = 4 * tile, 4 * min(overlap, tile - 1)
    plan = spans(extent, tile, overlap)
    assert [pixel for span in plan for pixel in span.keep] == list(range(extent))
    for span in plan:
        assert span.read.start % 4 == 0
        assert len(span.read) <= tile
        assert set(span.keep) <= set(span.read)
        assert span.keep.start - span.read.start >= overlap // 2 or span.keep.start == 0
        assert span.read.stop - span.keep.stop >= overlap // 2 - 2 or span.keep.stop == extent
    assert len({-(-len(span.read) // 4) for span in plan}) == 1  # one size of planes


@pytest.mark.parametrize(("tile", "overlap"), [(30, 8), (32, 6), (32, 32), (32, 36), (0, 0), (32, -4)])
def test_invalid_tiles_are_rejected(tile: int, overlap: int) -> None:
    with pytest.raises(TileError, match=f"tiles can't be {tile} pixels long and share {overlap}"):
        spans(100, tile, overlap)


def clip_of(frames: int, height: int, width: int) -> NDArray[Any]:
    return np.random.default_rng(0).random((frames, height, width, 3), np.float32)


def tiled(rt: Runtime, clip: Any, tile: tuple[int, int], cuts: Any = None) -> NDArray[Any]:
    return np.stack(
        list(tiles.stream(lambda frames, where: rt.stream(frames, cuts=where), clip, lambda width, height: tile, cuts))
    )


def test_where_no_neighbour_matters_tiles_make_no_difference(bicubic_bundle: Path) -> None:
    clip = clip_of(3, 6 + OVERLAP, 86 + OVERLAP)  # bicubic enlargement reaches over 2 pixels
    with Runtime(bicubic_bundle) as rt:
        np.testing.assert_allclose(tiled(rt, clip, (36 + OVERLAP, 4 + OVERLAP)), rt(clip), atol=1e-6)


def test_far_from_the_seams_tiles_make_no_difference_to_a_network(tiny_bundle: Path) -> None:
    clip = clip_of(2, 8, 400)
    with Runtime(tiny_bundle) as rt:
        found = tiles.stream(lambda frames, cuts: rt.stream(frames), clip, lambda width, height: (200, 8), None, 0)
        error = np.abs(np.stack(list(found)) - np.asarray(rt(clip))).max((0, 1, 3))
    (seam,) = {span.keep.stop for span in spans(400, 200, 0)} - {400}
    away = np.abs(np.arange(len(error)) / 4 - seam)
    assert error[away <= 4].max() > 1e-3
    assert error[away > 48].max() <= 1e-5


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_streams_of_any_length_and_cuts(frames: int, bicubic_bundle: Path) -> None:
    width = OVERLAP + 20
    clip = clip_of(frames, 4, width)
    clip[4:] += 1

    def is_cut(previous: NDArray[Any], frame: NDArray[Any]) -> bool:
        assert frame.shape == (4, width, 3)
        return float(frame.mean() - previous.mean()) > 0.5

    with Runtime(bicubic_bundle) as rt:
        for cuts in (None, [4] if frames > 4 else [], is_cut):
            np.testing.assert_allclose(
                tiled(rt, clip, (OVERLAP + 8, OVERLAP + 8), cuts), rt(clip, cuts=cuts), atol=1e-6
            )


def test_an_empty_stream_and_frames_of_different_sizes(bicubic_bundle: Path) -> None:
    with Runtime(bicubic_bundle) as rt:
        assert list(tiles.stream(lambda frames, cuts: rt.stream(frames), [], lambda width, height: (104, 104))) == []
        with pytest.raises(FrameError, match="frame 1 is 90x4"):
            tiled(rt, [clip_of(1, 4, 80)[0], clip_of(1, 4, 90)[0]], (104, 104))


def test_every_tile_gets_the_cuts_of_a_generator(bicubic_bundle: Path) -> None:
    clip = clip_of(4, 8, 8 + OVERLAP)
    clip[2:] += 1
    with Runtime(bicubic_bundle) as rt:
        found = tiled(rt, clip, (4 + OVERLAP, 8), (cut for cut in [2]))
        np.testing.assert_array_equal(found, tiled(rt, clip, (4 + OVERLAP, 8), [2]))


def test_outputs_are_selected_in_tiles_too(bicubic_bundle: Path) -> None:
    clip = clip_of(4, 8, 8 + OVERLAP)
    with Runtime(bicubic_bundle) as rt, Runtime(bicubic_bundle, tile=f"{4 + OVERLAP}x{4 + OVERLAP}") as in_tiles:
        expected = np.stack(list(rt.stream(clip, cuts=[2])))[1::2]
        found = np.stack(list(in_tiles.stream(clip, cuts=[2], first=1, every=2)))
        np.testing.assert_allclose(found, expected, atol=1e-6)
