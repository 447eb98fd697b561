"""Tiles: a plan that covers everything once, and the seams it leaves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from zsm.engine import Bundle, Runtime
from zsm.engine.backends import open_backend
from zsm.engine.devices import Device, OpenOptions
from zsm.errors import FrameError, TileError
from zsm.runtime.stream import stream
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


def tiled(
    bundle: Path,
    clip: Any,
    tile: tuple[int, int],
    cuts: Any = None,
    *,
    shared: int = OVERLAP,
    window: int = 4,
    overlap: int = 1,
) -> NDArray[Any]:
    backend, _ = open_backend(Bundle(bundle), "onnxruntime", OpenOptions(device=Device.parse("cpu")))
    outputs = stream(
        backend,
        clip,
        network=Bundle(bundle).network,
        window=window,
        overlap=overlap,
        cuts=cuts,
        tile_of=lambda *size: tile,
        tile_overlap=shared,
    )
    return np.stack(list(outputs))


def test_where_no_neighbour_matters_tiles_make_no_difference(bicubic_bundle: Path) -> None:
    clip = clip_of(3, 6 + OVERLAP, 86 + OVERLAP)  # bicubic enlargement reaches over 2 pixels
    with Runtime(bicubic_bundle) as rt:
        np.testing.assert_allclose(tiled(bicubic_bundle, clip, (36 + OVERLAP, 4 + OVERLAP)), rt(clip), atol=1e-6)


def test_far_from_the_seams_tiles_make_no_difference_to_a_network(tiny_bundle: Path) -> None:
    clip = clip_of(2, 8, 400)
    with Runtime(tiny_bundle) as rt:
        error = np.abs(tiled(tiny_bundle, clip, (200, 8), shared=0) - rt(clip)).max((0, 1, 3))
    (seam,) = {span.keep.stop for span in spans(400, 200, 0)} - {400}
    away = np.abs(np.arange(len(error)) / 4 - seam)
    assert error[away <= 4].max() > 1e-3
    assert error[away > 48].max() <= 1e-5


@pytest.mark.parametrize(("window", "overlap"), [(4, 1), (4, 2), (3, 2), (2, 1)])
@pytest.mark.parametrize("frames", [1, 3, 4, 5, 6, 11])
def test_a_tile_gives_what_a_stream_of_it_alone_would(
    window: int, overlap: int, frames: int, tiny_bundle: Path
) -> None:
    """With a recurrent network, windows of every kind, and a cut."""
    clip = clip_of(frames, 4, 24)
    halves = [span.read for span in spans(24, 12, 0)]
    cuts = [3] if frames > 3 else []
    found = tiled(tiny_bundle, clip, (12, 4), cuts, shared=0, window=window, overlap=overlap)
    with Runtime(tiny_bundle, window=window, overlap=overlap) as rt:
        alone = [rt(clip[:, :, half.start : half.stop], cuts=cuts) for half in halves]
    np.testing.assert_allclose(found, np.concatenate(alone, axis=2), atol=1e-6)


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
                tiled(bicubic_bundle, clip, (OVERLAP + 8, OVERLAP + 8), cuts), rt(clip, cuts=cuts), atol=1e-6
            )


def test_an_empty_stream_and_frames_of_different_sizes(bicubic_bundle: Path) -> None:
    with Runtime(bicubic_bundle, tile="104x104") as rt:
        assert list(rt.stream([])) == []
        with pytest.raises(FrameError, match="frame 1 is 290x4"):
            list(rt.stream([clip_of(1, 4, 280)[0], clip_of(1, 4, 290)[0]]))


def test_a_buffer_that_is_used_again_for_every_frame(bicubic_bundle: Path) -> None:
    clip = clip_of(6, 8, 8 + OVERLAP)
    buffer = np.empty_like(clip[0])

    def frames() -> Iterator[NDArray[Any]]:
        for frame in clip:
            buffer[:] = frame
            yield buffer

    with Runtime(bicubic_bundle, tile=f"{4 + OVERLAP}x{4 + OVERLAP}") as rt:
        np.testing.assert_array_equal(np.stack(list(rt.stream(frames()))), rt(clip))


def test_outputs_belong_to_the_caller_even_where_a_cut_repeats_them(bicubic_bundle: Path) -> None:
    clip = clip_of(4, 8, 8 + OVERLAP)
    with Runtime(bicubic_bundle, tile=f"{4 + OVERLAP}x{4 + OVERLAP}") as rt:
        expected = rt(clip, cuts=[2])
        found = []
        for output in rt.stream(clip, cuts=[2]):
            found.append(output.copy())
            output[:] = 0
        np.testing.assert_array_equal(np.stack(found), expected)


def test_outputs_are_selected_in_tiles_too(bicubic_bundle: Path) -> None:
    clip = clip_of(4, 8, 8 + OVERLAP)
    with Runtime(bicubic_bundle) as rt, Runtime(bicubic_bundle, tile=f"{4 + OVERLAP}x{4 + OVERLAP}") as in_tiles:
        expected = np.stack(list(rt.stream(clip, cuts=[2])))[1::2]
        found = np.stack(list(in_tiles.stream(clip, cuts=[2], first=1, every=2)))
        np.testing.assert_allclose(found, expected, atol=1e-6)
