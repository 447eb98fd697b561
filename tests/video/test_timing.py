from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsm.errors import ArgumentError
from zsm.runtime.video import parse_time
from zsm.runtime.video import timestamps as timing

increasing = st.lists(st.integers(1, 10**6), min_size=1, max_size=50).map(
    lambda steps: [sum(steps[: i + 1]) for i in range(len(steps))]
)


@given(increasing, st.fractions(min_value=Fraction(1, 90000), max_value=1))
def test_new_frames_are_exactly_halfway(times: list[int], time_base: Fraction) -> None:
    out = timing.output_times(times, "double")
    base = timing.output_time_base(time_base, "double")
    assert [time * base for time in out[::2]] == [time * time_base for time in times]
    assert all(2 * b == a + c for a, b, c in zip(out[::2], out[1::2], out[2::2], strict=False))
    assert len(out) == timing.frames_out(len(times), "double")


@given(increasing)
def test_slow_takes_twice_as_long_and_keep_the_same(times: list[int]) -> None:
    base = Fraction(1, 1000)
    slow = timing.output_times(times, "slow")
    assert [time * timing.output_time_base(base, "slow") for time in slow[::2]] == [2 * time * base for time in times]
    assert timing.output_times(times, "keep") == times
    assert timing.output_time_base(base, "keep") == base


@given(increasing, st.integers(0, 16))
def test_decoding_times_increase_and_never_come_after_presentation(times: list[int], delay: int) -> None:
    decoding = [timing.decoding_time(position, delay, times) for position in range(len(times))]
    assert all(a < b for a, b in pairwise(decoding))
    assert all(decoded <= shown for decoded, shown in zip(decoding, times, strict=True))


def test_the_last_frame_is_shown_as_long_as_in_the_source() -> None:
    times = [0, 100, 250]
    modes: list[tuple[timing.FpsMode, int]] = [("double", 1), ("slow", 2), ("keep", 1)]
    for mode, stretched in modes:
        base = timing.output_time_base(Fraction(1, 1000), mode)
        end = (timing.output_times(times, mode)[-1] + timing.last_duration(times, 40, mode)) * base
        assert end == Fraction(290, 1000) * stretched


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1:30", 90), ("0:01:30.5", Fraction(181, 2)), ("0", 0)])
def test_times_are_parsed(text: str, seconds: Fraction) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "1:2:3:4", "-5", "1/2", "1:-2"])
def test_invalid_times_are_rejected(text: str) -> None:
    with pytest.raises(ArgumentError, match="invalid time"):
        parse_time(text)
