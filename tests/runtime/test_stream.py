"""The stream against the network in PyTorch, window by window as planned."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zsm.engine import Runtime
from zsm.errors import ArgumentError, ArgumentTypeError, FrameError, WindowError
from zsm.export.check import reference
from zsm.export.model import Network
from zsm.runtime import plan

Array = NDArray[Any]


def clip_of(frames: int, height: int = 6, width: int = 5, dtype: str = "float32") -> Array:
    values = np.random.default_rng(frames).random((frames, height, width, 3), np.float32)
    white = {"float32": 1, "uint8": 255, "uint16": 65535}[dtype]
    return (values * white).astype(dtype)


def planned(network: Network, clip: Array, window: int, overlap: int, cuts: set[int]) -> Array:
    """The outputs that the plan keeps of each window, computed by the network in PyTorch."""
    outputs: list[Array] = []
    for w in plan(len(clip), window, overlap, cuts):
        result = reference(network, torch.from_numpy(clip[w.frames.start : w.frames.stop])).numpy()
        outputs += [result[output - 2 * w.frames.start] for output in w.outputs]
        outputs += [outputs[-1]] * w.repeats_last
    return np.stack(outputs)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_stream_follows_the_plan(data: st.DataObject, tiny_bundle: Path, tiny_network: Network) -> None:
    frames = data.draw(st.integers(1, 12))
    window = data.draw(st.integers(2, 5))
    overlap = data.draw(st.integers(1, window - 1))
    cuts = data.draw(st.sets(st.integers(0, frames - 1), max_size=2))
    clip = clip_of(frames)
    with Runtime(tiny_bundle, window=window, overlap=overlap) as rt:
        found = rt(clip, cuts=cuts)
    np.testing.assert_allclose(found, planned(tiny_network, clip, window, overlap, cuts), atol=2e-5)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_outputs_come_as_soon_as_they_are_final(data: st.DataObject, bicubic_bundle: Path) -> None:
    frames = data.draw(st.integers(1, 14))
    window = data.draw(st.integers(2, 5))
    overlap = data.draw(st.integers(1, window - 1))
    clip = clip_of(frames, 2, 2)
    read = 0

    def reading() -> Iterator[Array]:
        nonlocal read
        for frame in clip:
            read += 1
            yield frame

    with Runtime(bicubic_bundle, window=window, overlap=overlap) as rt:
        for output, _ in enumerate(rt.stream(reading())):
            assert read <= max(-(-output // 2), 0) + 1 + rt.latency
            assert read == first_sure(output, frames, window, overlap)


def first_sure(output: int, frames: int, window: int, overlap: int) -> int:
    """The number of frames after which no length of the clip changes which window an output comes from."""

    def window_of(length: int) -> range | None:
        return next((w.frames for w in plan(length, window, overlap) if output in w.outputs), None)

    for known in range(1, frames + 1):
        choices = {window_of(length) for length in range(known, known + 3 * window)}
        if len(choices) == 1 and None not in choices and max(choices.pop() or [0]) < known:
            return known
    return frames


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 2), (16, 12)])
def test_types_and_sizes(dtype: str, height: int, width: int, tiny_bundle: Path, tiny_network: Network) -> None:
    clip = clip_of(3, height, width, dtype)
    with Runtime(tiny_bundle) as rt:
        found = rt(clip)
    assert found.dtype == dtype
    assert found.shape == (5, 4 * height, 4 * width, 3)
    white = {"float32": 1, "uint8": 255, "uint16": 65535}[dtype]
    expected = reference(tiny_network, torch.from_numpy(clip.astype(np.float32) / np.float32(white))).numpy()
    if dtype == "float32":
        np.testing.assert_allclose(found, expected, atol=2e-5)
    else:
        np.testing.assert_allclose(found, np.rint(np.clip(expected, 0, 1) * white), atol=1 + white * 2e-5)


def test_one_frame_gives_one(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt:
        assert rt(clip_of(1)).shape == (1, 24, 20, 3)


@pytest.mark.parametrize(("window", "overlap"), [(4, 1), (4, 3), (5, 2)])
def test_each_frame_is_extracted_and_each_gap_filled_once(window: int, overlap: int, tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle, window=window, overlap=overlap) as rt, rt.timing() as times:
        rt(clip_of(11))
    assert times["extract"].calls == 11
    assert times["interpolate"].calls == 10
    assert times["reconstruct"].calls == 21


def test_cuts_by_predicate_are_cuts_by_number(tiny_bundle: Path) -> None:
    clip = clip_of(9)
    clip[5:] += 1
    with Runtime(tiny_bundle) as rt:
        by_number = rt(clip, cuts=[5])
        by_predicate = rt(clip, cuts=lambda previous, current: float(current.mean() - previous.mean()) > 0.5)
        np.testing.assert_array_equal(by_number, by_predicate)
        np.testing.assert_array_equal(by_number[9], by_number[8])
        np.testing.assert_array_equal(by_number[10:], rt(clip[5:]))


@pytest.mark.parametrize("window", [2, 4])
def test_outputs_belong_to_the_caller(window: int, tiny_bundle: Path) -> None:
    clip = clip_of(7)
    with Runtime(tiny_bundle, window=window) as rt:
        expected = rt(clip, cuts=[3])
        for output, frame in enumerate(rt.stream(clip, cuts=[3])):
            np.testing.assert_array_equal(frame, expected[output])
            frame.fill(0)


def test_frames_may_come_in_one_buffer(tiny_bundle: Path) -> None:
    clip = clip_of(7)
    clip[4:] += 1
    buffer = np.empty_like(clip[0])

    def camera() -> Iterator[Array]:
        for frame in clip:
            buffer[:] = frame
            yield buffer

    with Runtime(tiny_bundle) as rt:
        found = rt.stream(camera(), cuts=lambda previous, current: bool(current.mean() > previous.mean() + 0.5))
        np.testing.assert_array_equal(np.stack(list(found)), rt(clip, cuts=[4]))


def test_frames_in_a_list_are_not_copied_for_the_cut_function(tiny_bundle: Path) -> None:
    frames = list(clip_of(4))
    asked: list[Any] = []

    def is_cut(before: Array, frame: Array) -> bool:
        asked.append((before, frame))
        return False

    with Runtime(tiny_bundle) as rt:
        list(rt.stream(frames, cuts=is_cut))
    assert all(a is b for (a, _), b in zip(asked, frames, strict=False))
    assert len(asked) == 3


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_selected_outputs_are_a_slice_of_the_stream(data: st.DataObject, bicubic_bundle: Path) -> None:
    frames = data.draw(st.integers(1, 10))
    window = data.draw(st.integers(2, 5))
    overlap = data.draw(st.integers(1, window - 1))
    cuts = data.draw(st.sets(st.integers(0, frames - 1), max_size=3))
    first, every = data.draw(st.integers(0, 2 * frames)), data.draw(st.integers(1, 5))
    clip = clip_of(frames, 2, 2)
    with Runtime(bicubic_bundle, window=window, overlap=overlap, threads=1) as rt:
        expected = list(rt.stream(clip, cuts=cuts))[first::every]
        found = list(rt.stream(clip, cuts=cuts, first=first, every=every))
    np.testing.assert_array_equal(found, expected)


def test_other_outputs_are_not_reconstructed(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt:
        for options, count in (({"every": 2}, 9), ({"first": 12}, 5), ({"first": 3, "every": 4}, 4)):
            with rt.timing() as times:
                assert len(list(rt.stream(clip_of(9), cuts=[4], **options))) == count  # type: ignore[call-overload]
            assert times["reconstruct"].calls == times["emit_float32"].calls == count
            assert (times["extract"].calls, times["interpolate"].calls) == (9, 7)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"first": -1}, ArgumentError, "first is -1; give at least 0"),
        ({"every": 0}, ArgumentError, "every is 0; give at least 1"),
        ({"every": 1.5}, ArgumentTypeError, r"every is 1\.5; give a whole number"),
    ],
)
def test_invalid_selections_are_rejected(options: Any, kind: type[Exception], message: str, tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt, pytest.raises(kind, match=message):
        rt.stream(clip_of(2), **options)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_arrays_of_other_libraries_are_read(dtype: str, tiny_bundle: Path) -> None:
    clip = clip_of(3, dtype=dtype)

    class WithArray:
        def __init__(self, frame: Array) -> None:
            self._frame = frame

        def __array__(self, *arguments: Any, **options: Any) -> Array:
            return self._frame

    tensors = torch.from_numpy(clip)
    with Runtime(tiny_bundle) as rt:
        expected = rt(clip)
        for given in (tensors, list(tensors), list(clip), tuple(clip), [WithArray(frame) for frame in clip]):
            np.testing.assert_array_equal(rt(given), expected)
            np.testing.assert_array_equal(list(rt.stream(given)), expected)
        with pytest.raises(FrameError, match=r"frame 0, a Tensor, can't be read: .*grad"):
            rt(torch.zeros(2, 4, 4, 3, requires_grad=True))


def test_an_empty_stream_gives_nothing(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt:
        assert list(rt.stream([])) == []


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.zeros((4, 4, 3))], "float64"),
        ([np.zeros((4, 4, 3), ">u2")], ">u2|uint16"),
        ([np.zeros((4, 4), np.uint8)], r"\(4, 4\)"),
        ([np.zeros((4, 4, 4), np.uint8)], r"\(4, 4, 4\)"),
        ([np.zeros((0, 4, 3), np.uint8)], r"\(0, 4, 3\)"),
        (["frame"], "str"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "frame 1 is 6x4 uint8.*4x4 uint8"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint16)], "frame 1 is 4x4 uint16"),
    ],
)
def test_invalid_frames_are_rejected(frames: list[Any], message: str, tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt, pytest.raises(FrameError, match=message):
        list(rt.stream(frames))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"an array of shape \(4, 4, 3\); give an array \(frames, height, width, 3\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), "the clip has no frames"),
        ([], "the clip has no frames"),
        ("clip", "the clip is a str; give an array"),
        (iter([]), "the clip is a list_iterator; give an array .* or use stream"),
        ([np.zeros((4, 4), np.uint8)], r"frame 0 has the shape \(4, 4\)"),
    ],
)
def test_invalid_clips_are_rejected(clip: Any, message: str, tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt, pytest.raises(FrameError, match=message):
        rt(clip)


@pytest.mark.parametrize(
    ("cuts", "kind", "message"),
    [
        ([-1], WindowError, "there is no frame -1 to cut at"),
        ([3], WindowError, "there is no frame 3 to cut at in a clip of 3 frames"),
        ((cut for cut in [-1]), WindowError, "there is no frame -1 to cut at"),
        ([1.5], ArgumentTypeError, r"a cut is 1\.5; give a whole number"),
        ([True], ArgumentTypeError, "a cut is True; give a whole number"),
        (5, ArgumentTypeError, "cuts is 5; give frame numbers, or a function"),
    ],
)
def test_invalid_cuts_are_rejected(cuts: Any, kind: type[Exception], message: str, tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt, pytest.raises(kind, match=message):
        rt(clip_of(3), cuts=cuts)


def test_cuts_are_checked_before_the_first_frame(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt, pytest.raises(WindowError):
        rt.stream(iter(clip_of(3)), cuts=[-1])


def test_cuts_may_come_from_a_generator(tiny_bundle: Path) -> None:
    clip = clip_of(5)
    with Runtime(tiny_bundle) as rt:
        np.testing.assert_array_equal(rt(clip, cuts=(c for c in [2])), rt(clip, cuts=[2]))


PEAK = """
import sys, numpy as np
from zsm.engine import Runtime
from zsm.engine.diagnose import machine
frame = np.zeros((64, 96, 3), np.uint8)
with Runtime(sys.argv[1], threads=1) as rt:
    for _ in rt.stream(frame for _ in range(int(sys.argv[2]))):
        pass
print(machine.peak_rss_mib())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_stream(bicubic_bundle: Path) -> None:
    def peak(frames: int) -> float:
        command = [sys.executable, "-c", PEAK, str(bicubic_bundle), str(frames)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert peak(400) <= 1.05 * peak(40)
