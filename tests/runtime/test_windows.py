"""The plan of windows, as properties of all plans."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsm.errors import WindowError
from zsm.runtime import plan


@st.composite
def arguments(draw: st.DrawFn) -> tuple[int, int, int, set[int]]:
    frames = draw(st.integers(1, 60))
    window = draw(st.integers(2, 9))
    overlap = draw(st.integers(1, window - 1))
    cuts = draw(st.sets(st.integers(0, frames - 1), max_size=5))
    return frames, window, overlap, cuts


@given(arguments())
def test_every_output_exactly_once_and_in_order(drawn: tuple[int, int, int, set[int]]) -> None:
    frames, window, overlap, cuts = drawn
    outputs: list[int] = []
    for w in plan(frames, window, overlap, cuts):
        outputs += w.outputs
        if w.repeats_last:
            outputs.append(outputs[-1] + 1)
    assert outputs == list(range(2 * frames - 1))


@given(arguments())
def test_windows_hold_what_their_outputs_need_and_cross_no_cut(drawn: tuple[int, int, int, set[int]]) -> None:
    frames, window, overlap, cuts = drawn
    for w in plan(frames, window, overlap, cuts):
        assert len(w.frames) <= window
        assert not cuts & set(w.frames[1:])
        for output in w.outputs:
            assert output // 2 in w.frames
            assert (output + 1) // 2 in w.frames


@given(arguments())
def test_only_a_scene_shorter_than_the_window_has_a_short_window(drawn: tuple[int, int, int, set[int]]) -> None:
    frames, window, overlap, cuts = drawn
    scenes = sorted({0, *cuts, frames})
    for w in plan(frames, window, overlap, cuts):
        if len(w.frames) < window:
            assert {w.frames.start, w.frames.stop} <= set(scenes)


@given(arguments())
def test_neighbouring_windows_share_at_least_the_overlap(drawn: tuple[int, int, int, set[int]]) -> None:
    frames, window, overlap, _ = drawn
    windows = plan(frames, window, overlap)
    for earlier, later in pairwise(windows):
        shared = set(earlier.frames) & set(later.frames)
        assert len(shared) >= overlap
        middle = min(shared) + max(shared)  # of the shared span, numbered as outputs
        assert earlier.outputs.stop - 1 == middle
        assert later.outputs.start == middle + 1


@given(arguments())
def test_a_scene_alone_is_planned_as_within_its_clip(drawn: tuple[int, int, int, set[int]]) -> None:
    frames, window, overlap, cuts = drawn
    whole = plan(frames, window, overlap, cuts)
    first = max({0, *cuts})
    alone = plan(frames - first, window, overlap)
    last_scene = [w for w in whole if w.frames.start >= first]
    assert [(w.frames.start - first, w.outputs.start - 2 * first) for w in last_scene] == [
        (w.frames.start, w.outputs.start) for w in alone
    ]


@given(arguments(), st.integers(0, 10))
def test_resuming_on_the_grid_gives_the_same(drawn: tuple[int, int, int, set[int]], windows_done: int) -> None:
    frames, window, overlap, _ = drawn
    whole = plan(frames, window, overlap)
    done = min(windows_done, len(whole) - 1)
    first = whole[done].frames.start
    if first % (window - overlap):  # the last window, slid off the grid
        return
    resumed = plan(frames - first, window, overlap)
    assert [w.frames.start + first for w in resumed] == [w.frames.start for w in whole[done:]]
    assert [w.outputs.stop + 2 * first for w in resumed] == [w.outputs.stop for w in whole[done:]]


def test_the_last_window_is_slid_back() -> None:
    windows = plan(5)
    assert [w.frames for w in windows] == [range(4), range(1, 5)]
    assert [w.outputs for w in windows] == [range(5), range(5, 9)]


def test_one_frame_at_a_cut() -> None:
    (first, second) = plan(3, cuts=[1])
    assert (first.frames, first.outputs, first.repeats_last) == (range(1), range(1), True)
    assert (second.frames, second.outputs, second.repeats_last) == (range(1, 3), range(2, 5), False)


@pytest.mark.parametrize(
    ("frames", "window", "overlap", "cuts", "message"),
    [
        (5, 1, 1, (), "window of 1"),
        (5, 4, 0, (), "overlap of 0"),
        (5, 4, 4, (), "overlap of 4"),
        (5, 4, 1, (5,), "no frame 5 to cut at"),
        (5, 4, 1, (-1,), "no frame -1 to cut at"),
        (-1, 4, 1, (), "-1 frames"),
    ],
)
def test_invalid_arguments_are_rejected(
    frames: int, window: int, overlap: int, cuts: tuple[int, ...], message: str
) -> None:
    with pytest.raises(WindowError, match=message):
        plan(frames, window, overlap, cuts)
