"""Frames pushed one by one, against the stream of an iterator."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zsm.engine import Runtime
from zsm.errors import ArgumentError, BackendError, FrameError


def clip_of(frames: int, height: int = 2, width: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(frames).integers(0, 256, (frames, height, width, 3), np.uint8)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_each_push_returns_what_a_live_stream_yields_before_its_next_frame(
    data: st.DataObject, bicubic_bundle: Path
) -> None:
    frames = data.draw(st.integers(0, 12))
    window = data.draw(st.integers(2, 5))
    overlap = data.draw(st.integers(1, window - 1))
    cuts = data.draw(st.sets(st.integers(0, 12), max_size=3))
    first, every = data.draw(st.integers(0, 24)), data.draw(st.integers(1, 3))
    clip = clip_of(frames)
    read = 0

    def reading() -> Any:
        nonlocal read
        for frame in clip:
            read += 1
            yield frame
        read += 1

    with Runtime(bicubic_bundle, window=window, overlap=overlap, threads=1) as rt:
        expected: list[list[NDArray[np.uint8]]] = [[] for _ in range(frames + 1)]
        for output in rt.stream(reading(), cuts=cuts, live=True, first=first, every=every):
            expected[read - 1].append(output)
        stream = rt.open_stream(first=first, every=every)
        buffer = np.empty(clip.shape[1:], np.uint8)
        for number, frame in enumerate(clip):
            buffer[:] = frame
            np.testing.assert_array_equal(stream.push(buffer, cut=number in cuts), expected[number])
        np.testing.assert_array_equal(stream.finish(), expected[frames])


def test_outputs_of_the_network_are_the_same_to_the_last_bit(tiny_bundle: Path) -> None:
    clips = clip_of(9, 6, 5), clip_of(7, 4, 9)
    with Runtime(tiny_bundle, window=3) as rt:
        streams = [(rt.open_stream(), clip, list[Any]()) for clip in clips]
        for number in range(9):
            for stream, clip, outputs in streams:
                outputs += stream.push(clip[number], cut=number == 5) if number < len(clip) else []
        for stream, clip, outputs in streams:
            np.testing.assert_array_equal(outputs + stream.finish(), rt(clip, cuts=[5]))


def test_outputs_belong_to_the_caller(tiny_bundle: Path) -> None:
    clip = clip_of(6)
    with Runtime(tiny_bundle) as rt:
        expected = iter(rt(clip, cuts=[3]))
        stream = rt.open_stream()
        for number, frame in enumerate(clip):
            for output in stream.push(frame, cut=number == 3):
                np.testing.assert_array_equal(output, next(expected))
                output.fill(0)
        np.testing.assert_array_equal(stream.finish(), list(expected))


def test_a_rejected_frame_leaves_the_stream_as_it_was(tiny_bundle: Path) -> None:
    clip = clip_of(5)
    with Runtime(tiny_bundle) as rt:
        stream = rt.open_stream()
        outputs: list[Any] = []
        for number, frame in enumerate(clip):
            with pytest.raises(FrameError, match=f"frame {number} has the shape"):
                stream.push(frame[0], cut=True)
            outputs += stream.push(frame)
            with pytest.raises(FrameError, match=f"frame {number + 1} is 3x1 uint8, the frames before it are 3x2"):
                stream.push(frame[:1])
        np.testing.assert_array_equal(outputs + stream.finish(), rt(clip))


def test_a_finished_stream_takes_nothing_more(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt:
        stream = rt.open_stream()
        assert stream.finish() == []
        for call in (stream.finish, lambda: stream.push(clip_of(1)[0])):
            with pytest.raises(ArgumentError, match=r"finished or failed, .* open another"):
                call()


def test_a_failed_stream_takes_nothing_more(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle) as rt:
        stream = rt.open_stream()
        stream.push(clip_of(1)[0])
    with pytest.raises(BackendError, match="closed"):
        stream.push(clip_of(1)[0])
    with pytest.raises(ArgumentError, match="finished or failed"):
        stream.push(clip_of(1)[0])


def test_invalid_options_are_rejected(tiny_bundle: Path) -> None:
    with Runtime(tiny_bundle, tile="104x104") as rt:
        with pytest.raises(ArgumentError, match="first is -1; give at least 0"):
            rt.open_stream(first=-1)
        with pytest.raises(ArgumentError, match="outputs can't go to 'disk'; choose host or device"):
            rt.open_stream(to="disk")  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="tiles are joined on the host"):
            rt.open_stream(to="device")
