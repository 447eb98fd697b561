"""The frames that a part of a stream's outputs takes."""

from itertools import islice
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zsm import Runtime
from zsm.runtime import plan
from zsm.runtime.windows import needed, restart


def origins(frames: int, window: int, overlap: int, cuts: list[int]) -> dict[int, tuple[int, int]]:
    """The window (first input, end) that each output comes from."""
    found = {}
    for item in plan(frames, window, overlap, cuts):
        for output in item.outputs:
            found[output] = (item.frames.start, item.frames.stop)
        if item.repeats_last:
            found[item.outputs.stop] = found[item.outputs.stop - 1]
    return found


@given(st.data(), st.integers(1, 60), st.integers(2, 7))
def test_a_resumed_stream_gives_the_same_windows(data: st.DataObject, frames: int, window: int) -> None:
    overlap = data.draw(st.integers(1, window - 1))
    cuts = sorted(data.draw(st.sets(st.integers(1, frames))) - {frames})
    done = data.draw(st.integers(0, 2 * frames - 1))
    first = restart(done, cuts, window, overlap)
    whole = origins(frames, window, overlap, cuts)
    rest = origins(frames - first, window, overlap, [cut - first for cut in cuts if cut > first])
    assert 0 <= 2 * first <= max(done, 0)
    for output in range(done, 2 * frames - 1):
        start, stop = rest[output - 2 * first]
        assert (start + first, stop + first) == whole[output]


@given(st.integers(0, 10**6), st.integers(2, 9))
def test_little_is_done_again(done: int, window: int) -> None:
    assert done // 2 - restart(done, [], window, 1) < 2 * window


@given(st.data(), st.integers(1, 60), st.integers(2, 7))
def test_a_part_of_the_frames_gives_the_same_windows(data: st.DataObject, frames: int, window: int) -> None:
    """All outputs of a segment, from the frames that `restart` and `needed` tell."""
    overlap = data.draw(st.integers(1, window - 1))
    cuts = sorted(data.draw(st.sets(st.integers(1, frames))) - {frames})
    begin = data.draw(st.integers(0, 2 * frames - 2))
    end = data.draw(st.integers(begin + 1, 2 * frames - 1))
    first, last = restart(begin, cuts, window, overlap), min(frames, needed(end, window))
    whole = origins(frames, window, overlap, cuts)
    part = origins(last - first, window, overlap, [cut - first for cut in cuts if first < cut < last])
    for output in range(begin, end):
        start, stop = part[output - 2 * first]
        assert (start + first, stop + first) == whole[output]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_span_of_outputs_equals_that_slice_of_the_whole(data: st.DataObject, tiny_bundle: Path) -> None:
    """To the last bit, with a recurrent network, from no other frames than `restart` and `needed` tell."""
    frames, window = data.draw(st.integers(1, 16)), data.draw(st.integers(2, 5))
    overlap = data.draw(st.integers(1, window - 1))
    cuts = sorted(data.draw(st.sets(st.integers(1, frames), max_size=3)) - {frames})
    begin = data.draw(st.integers(0, 2 * frames - 2))
    end = data.draw(st.integers(begin + 1, 2 * frames - 1))
    clip = np.random.default_rng(frames).integers(0, 256, (frames, 5, 6, 3), np.uint8)
    first, last = restart(begin, cuts, window, overlap), min(frames, needed(end, window))
    inner = [cut - first for cut in cuts if first < cut < last]
    with Runtime(tiny_bundle, window=window, overlap=overlap, threads=1) as runtime:
        whole = list(runtime.stream(clip, cuts=cuts))
        part = runtime.stream(clip[first:last], cuts=inner, first=begin - 2 * first)
        np.testing.assert_array_equal(list(islice(part, end - begin)), whole[begin:end])
