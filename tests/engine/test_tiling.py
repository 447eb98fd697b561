"""Choosing tiles, and processing in them by way of Runtime."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsm.engine import Bundle, Runtime
from zsm.engine.backends import blocks
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device
from zsm.engine.host import free_memory, own
from zsm.engine.memory import Estimator
from zsm.engine.tiling import Tiling
from zsm.errors import ArgumentError, OutOfMemoryError, SizeError, TileError
from zsm.runtime import tiles

FRAME = Size(1000, 540)
FRAME_SIZE = (FRAME.width, FRAME.height)


def tiling(bundle: Path, **options: object) -> Tiling:
    given = {"window": 4, "overlap": 1, "tile": "auto", "memory": None, **options}
    return Tiling(Bundle(bundle), Device.parse("cpu"), free_memory, **given)  # type: ignore[arg-type]


def test_a_frame_that_fits_is_not_tiled(tiny_bundle: Path) -> None:
    chosen = tiling(tiny_bundle)
    assert chosen.largest(FRAME, 1, chosen.needs(FRAME, FRAME, 1)) is None


@pytest.mark.parametrize("part", [0.95, 0.6, 0.4])
def test_tiles_fit_and_cover_the_frame(part: float, tiny_bundle: Path) -> None:
    chosen = tiling(tiny_bundle)
    memory = int(part * chosen.needs(FRAME, FRAME, 1))
    tile = chosen.largest(FRAME, 1, memory)
    assert tile is not None
    assert len(tiles.spans(1000, tile.width)) * len(tiles.spans(540, tile.height)) > 1
    assert chosen.needs(FRAME, tile, 1) <= 1.02 * memory


def test_too_little_memory_for_any_tile_says_what_would_do(tiny_bundle: Path) -> None:
    chosen = tiling(tiny_bundle)
    with pytest.raises(
        OutOfMemoryError, match=r"1000x540 don.t fit in 10 MiB of memory: in tiles of \d+x\d+ they need \d+ MiB;"
    ):
        chosen.largest(FRAME, 1, 10 * 2**20)
    with pytest.raises(OutOfMemoryError, match=r"they need \d+ MiB, and writing them 30 MiB; .* another --codec"):
        chosen.largest(FRAME, 1, 10 * 2**20, besides=30 * 2**20)


def test_a_limit_that_leaves_too_little_is_named(tiny_bundle: Path) -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"don.t fit in the 0 MiB that a limit of 1 MiB leaves: .*, or raise the limit"
    ):
        tiling(tiny_bundle, memory="1MiB")(16, 16, 1)


@pytest.mark.parametrize("size", [Size(100, 80), Size(200, 200), Size(280, 200), FRAME])
def test_what_would_do_does(size: Size, tiny_bundle: Path) -> None:
    """One MiB more than the message says is enough."""
    chosen = tiling(tiny_bundle)
    with pytest.raises(OutOfMemoryError) as caught:
        chosen.largest(size, 1, 0)
    least = int(re.findall(r"they need (\d+) MiB", str(caught.value))[0])
    chosen.largest(size, 1, (least + 1) * 2**20)


def test_what_the_caller_needs_itself_is_left_to_it(tiny_bundle: Path) -> None:
    whole = tiling(tiny_bundle).needs(FRAME, FRAME, 1)
    used = own("VmRSS")
    enough = tiling(tiny_bundle, memory=used + int(1.2 * whole))
    short = tiling(tiny_bundle, memory=used + int(1.2 * whole))
    assert enough(*FRAME_SIZE, 1) is None
    assert short(*FRAME_SIZE, 1, besides=whole) is not None


def test_the_tiles_that_share_the_least_are_chosen(tiny_bundle: Path) -> None:
    """Of a wide frame: more columns, not rows, since those would share its long side."""
    chosen = tiling(tiny_bundle)
    size = Size(2000, 200)
    tile = chosen.largest(size, 1, chosen.needs(size, size, 1) // 2)
    assert tile is not None
    assert tile.height == size.height


PEAK = """
import sys
import numpy as np
from zsm.engine import Runtime, host
frames = np.random.default_rng(0).integers(0, 256, (4, 120, 200, 3), np.uint8)
with Runtime("compact") as rt:
    rt(frames[:2, :16, :16])
    before = host.own("VmHWM")
    for output in rt.stream(frames):
        pass
    peak = host.own("VmHWM")
    rt(frames[:2, :16, :16])
    other = host.own("VmRSS")
    rt(frames)
    used = host.own("VmRSS")
print(before, peak, other, used, host.own("VmRSS"))
"""


def test_real_frames_take_what_was_estimated_and_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, peak, after_another_size, used, after_close = map(int, done.stdout.split())
    estimate = Estimator(Bundle("compact"), "cpu", 4)(Size(200, 120)).total
    assert peak - before == pytest.approx(estimate, rel=0.2)
    assert after_another_size - before < 0.1 * (peak - before)
    assert used - before > 0.3 * (peak - before)
    assert after_close - before < 0.5 * (peak - before)


def test_free_memory_is_plausible() -> None:
    assert 2**20 < free_memory() < 2**50


def test_a_limit_of_address_space_counts() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31));"
        "from zsm.engine.host import free_memory; print(free_memory())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**20 < int(found.stdout) < 2**31


def test_a_runtime_with_tiles(bicubic_bundle: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (3, 10, tiles.OVERLAP + 36, 3), np.uint8)
    tile = f"{tiles.OVERLAP + 20}x{tiles.OVERLAP + 4}"
    with Runtime(bicubic_bundle) as rt, Runtime(bicubic_bundle, tile=tile) as tiled:
        np.testing.assert_array_equal(tiled(clip, cuts=[1]), rt(clip, cuts=[1]))
        assert (rt.describe()["tile"], tiled.describe()["tile"]) == (None, tile)
        with tiled.timing() as times:
            tiled(clip)
        assert times["extract"].calls == 3 * 2
        with rt.timing() as times:
            rt(clip)
        assert times["extract"].calls == 3


def test_little_memory_makes_tiles_and_says_so(bicubic_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (3, 400, 300, 3), np.uint8)
    with Runtime(bicubic_bundle, memory="1TiB") as rt:
        whole = rt(clip)
    assert not caplog.records
    free = tiling(bicubic_bundle)
    used = int(next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x).split()[1]) * 1024
    limit = used + int(0.8 * free.needs(Size(300, 400), Size(300, 400), 1))
    with caplog.at_level(logging.WARNING, "zsm"), Runtime(bicubic_bundle, memory=limit) as rt:
        np.testing.assert_array_equal(rt(clip), whole)
        assert rt.tile(300, 400, 1) == rt.describe()["tile"] is not None
    assert "frames of 300x400 don't fit" in caplog.text


def test_invalid_tiles_are_rejected(bicubic_bundle: Path) -> None:
    with pytest.raises(SizeError, match="invalid size 'large'"):
        Runtime(bicubic_bundle, tile="large")
    with pytest.raises(TileError, match="larger than the overlap"):
        Runtime(bicubic_bundle, tile=f"{tiles.OVERLAP}x{2 * tiles.OVERLAP}")
    for memory in ("lots", "0", "-1GiB", "4 apples"):
        with pytest.raises(ArgumentError, match="invalid memory"):
            Runtime(bicubic_bundle, memory=memory)
    with pytest.raises(ArgumentError, match="leave it out, or give tile='auto'"):
        Runtime(bicubic_bundle, memory="4GiB", tile="640x544")


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_blocks_are_exact(height: int, width: int, margin: int) -> None:
    """A tail that reaches over `margin` pixels: the largest value around each."""
    given = np.random.default_rng(0).random((1, 1, height, width), np.float32)

    def tail(inputs: object) -> np.ndarray:
        plane = inputs["feature"]  # type: ignore[index]
        padded = np.pad(plane, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        around = np.lib.stride_tricks.sliding_window_view(padded, (2 * margin + 1, 2 * margin + 1), (2, 3))
        found: np.ndarray = around.max((4, 5)).repeat(4, 2).repeat(4, 3)
        return found

    inputs = {"feature": given}
    np.testing.assert_array_equal(blocks.run(tail, inputs, margin), tail(inputs))


@pytest.mark.parametrize("edge", [8, 20])
@pytest.mark.parametrize("bundle", ["tiny", "compact", "compact-int8"])
def test_a_network_s_blocks_are_exact(
    bundle: str, edge: int, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_bundle if bundle == "tiny" else bundle
    assert blocks.cut(onnx.load_from_string(Bundle(path).read("reconstruct")))
    clip = np.random.default_rng(0).random((2, 36, 52, 3), np.float32)
    with Runtime(path) as rt:
        whole = rt(clip)
        monkeypatch.setattr(blocks, "EDGE", edge)
        np.testing.assert_allclose(rt(clip), whole, atol=1e-6)
